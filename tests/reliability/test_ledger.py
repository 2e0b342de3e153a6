"""The ledger keeps every event it can, counts those it cannot, and never holds the caller up."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from foreshore.errors import SetupError
from foreshore.reliability.event import Event
from foreshore.reliability.ledger import Ledger, read_events
from foreshore.reliability.schema import MIGRATIONS, VERSION
from foreshore.types import Timings, Usage


def event(number: int) -> Event:
    return Event(
        decision_id=f"dec-{number}",
        terminal_state="complete",
        target="edge",
        facts={"prompt_tokens": number},
        targets=("edge", "cloud"),
        usage=Usage(prompt_tokens=number, completion_tokens=2),
        timings=Timings(queue_s=0.5),
    )


def test_events_come_back_in_order_with_their_values(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for number in range(1000):
        ledger.append(event(number))
    ledger.close()
    found = list(read_events(tmp_path / "ledger.sqlite"))
    assert [e["decision_id"] for e in found] == [f"dec-{n}" for n in range(1000)]
    assert found[7]["facts"] == {"prompt_tokens": 7}
    assert found[7]["targets"] == ["edge", "cloud"]
    assert (found[7]["prompt_tokens"], found[7]["queue_s"]) == (7, 0.5)
    assert (ledger.written, ledger.dropped) == (1000, 0)


def test_it_opens_again_and_goes_on(tmp_path: Path) -> None:
    for number in range(2):
        ledger = Ledger(tmp_path / "ledger.sqlite")
        ledger.append(event(number))
        ledger.close()
        ledger.close()
    assert len(list(read_events(tmp_path / "ledger.sqlite"))) == 2


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    Ledger(tmp_path / "deep" / "ledger.sqlite").close()
    assert stat.S_IMODE(os.stat(tmp_path / "deep" / "ledger.sqlite").st_mode) == 0o600


def test_a_locked_file_costs_events_not_time(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    ledger = Ledger(file, queue_size=8)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for number in range(100):
        ledger.append(event(number))  # returns at once, full queue or not
    assert ledger.dropped >= 100 - 8 - 8 - 1  # the queue and the batch in the writer's hand
    assert ledger.flush(60)
    assert ledger.written == 0
    assert ledger.dropped == 100
    other.execute("ROLLBACK")
    other.close()
    ledger.append(event(100))
    ledger.close()
    assert [e["decision_id"] for e in read_events(file)] == ["dec-100"]


def test_a_write_that_fails_costs_its_events_and_the_next_one_works(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    database = sqlite3.connect(ledger.file, isolation_level=None)
    database.execute("CREATE TRIGGER full BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    ledger.append(event(1))
    assert ledger.flush(60)
    assert (ledger.written, ledger.dropped) == (0, 1)
    database.execute("DROP TRIGGER full")
    database.close()
    ledger.append(event(2))
    ledger.close()
    assert ledger.written == 1


def test_after_close_events_are_counted_as_dropped(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.close()
    ledger.append(event(1))
    assert ledger.dropped == 1


def test_a_newer_schema_is_refused_untouched(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    Ledger(file).close()
    database = sqlite3.connect(file)
    assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    with pytest.raises(SetupError, match="version"):
        Ledger(file)


@pytest.mark.parametrize("content", [b"this is no database, whatever its name says" * 100])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ledger.sqlite"
    file.write_bytes(content)
    with pytest.raises(SetupError):
        Ledger(file)
    assert file.read_bytes() == content


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SetupError):
        Ledger(tmp_path / "file" / "ledger.sqlite")


def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    database = sqlite3.connect(file)
    for statement in MIGRATIONS[0]:
        database.execute(statement)
    database.execute("PRAGMA user_version = 1")
    columns = [row[1:3] for row in database.execute("PRAGMA table_info(event)")]
    old = {name: 0.25 if kind == "REAL" else 1 if kind == "INTEGER" else "{}" for name, kind in columns}
    old["at"] = time.time()
    database.execute(f"INSERT INTO event ({', '.join(old)}) VALUES ({', '.join('?' * len(old))})", tuple(old.values()))
    database.commit()
    database.close()
    ledger = Ledger(file)
    ledger.append(replace(event(1), holdout=True, strategy="cascade"))
    ledger.close()
    found = list(read_events(file))
    assert [(e["propensity"], e["strategy"], e["holdout"]) for e in found] == [
        (0.25, "fallback", 0),
        (1.0, "cascade", 1),
    ]


def test_old_events_go_when_new_ones_come(tmp_path: Path) -> None:
    day = 86_400.0
    first = Ledger(tmp_path / "ledger.sqlite")
    first.append(replace(event(0), at=time.time() - 8 * day))
    first.append(replace(event(1), at=time.time() - 6 * day))
    first.close()
    second = Ledger(tmp_path / "ledger.sqlite", keep_days=7)
    second.append(event(2))
    second.close()
    assert [e["decision_id"] for e in read_events(tmp_path / "ledger.sqlite")] == ["dec-1", "dec-2"]
