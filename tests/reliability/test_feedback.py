"""What people say of answers, what is kept for learning, and what is never learnt from."""

from __future__ import annotations

import math
import os
import sqlite3
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.errors import NotFound, SetupError, UsageError
from foreshore.quality.labels import Label
from foreshore.reliability.event import Event
from foreshore.reliability.feedback import CLIP, give, labels, rated, weight
from foreshore.reliability.ledger import Ledger
from foreshore.reliability.prompts import LONGEST, Prompts, read_prompts

DAY = 86_400.0


def event(name: str, **fields: Any) -> Event:
    return Event(decision_id=name, terminal_state="complete", target="edge", targets=("edge", "cloud"), **fields)


def ledger_of(folder: Path, *events: Event) -> Path:
    ledger = Ledger(folder / "ledger.sqlite")
    for one in events:
        ledger.append(one)
    ledger.close()
    return ledger.file


def test_feedback_is_kept_beside_its_event(tmp_path: Path) -> None:
    file = ledger_of(tmp_path, event("a"), event("b"), event("c"))
    give(file, "a", 1)
    give(file, "c", 0.25)
    assert [(e["decision_id"], score) for e, score in rated(file)] == [("a", 1.0), ("c", 0.25)]


def test_an_evaluation_counts_before_a_user(tmp_path: Path) -> None:
    file = ledger_of(tmp_path, event("a"))
    give(file, "a", 0, source="eval")
    give(file, "a", 1, source="user")
    assert [score for _, score in rated(file)] == [0.0]


def test_the_same_again_is_harmless_and_another_score_is_refused(tmp_path: Path) -> None:
    file = ledger_of(tmp_path, event("a"))
    give(file, "a", 1)
    give(file, "a", 1)
    with pytest.raises(UsageError, match="gave the decision 'a' the score 1 before"):
        give(file, "a", 0)
    assert [score for _, score in rated(file)] == [1.0]


def test_unknown_foreign_and_old_decisions_are_refused(tmp_path: Path) -> None:
    file = ledger_of(tmp_path, event("a", tenant="ada"), event("old", at=time.time() - 31 * DAY))
    with pytest.raises(NotFound, match="no decision 'nowhere'"):
        give(file, "nowhere", 1)
    with pytest.raises(NotFound, match="no decision 'a'"):
        give(file, "a", 1, tenant="eve")
    with pytest.raises(UsageError, match="31 days old"):
        give(file, "old", 1)
    give(file, "a", 1, tenant="ada")
    assert [e["decision_id"] for e, _ in rated(file)] == ["a"]


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan, math.inf, "1", None, True])
def test_what_is_no_score_is_refused(score: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the score is"):
        give(tmp_path / "ledger.sqlite", "a", score)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no ledger"):
        give(tmp_path / "ledger.sqlite", "a", 1)
    (tmp_path / "text").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(UsageError, match="is no ledger"):
        give(tmp_path / "text", "a", 1)
    with pytest.raises(UsageError, match="'rumour'"):
        give(tmp_path / "ledger.sqlite", "a", 1, source="rumour")  # type: ignore[arg-type]


def test_feedback_goes_with_its_events(tmp_path: Path) -> None:
    file = ledger_of(tmp_path, event("a"))
    give(file, "a", 1, at=time.time() - 8 * DAY)
    ledger = Ledger(file, keep_days=7)
    ledger.append(event("b"))
    ledger.close()
    assert list(rated(file)) == []


def test_what_is_learnt_leaves_out_the_held_out_and_what_was_not_kept(tmp_path: Path) -> None:
    file = ledger_of(
        tmp_path,
        event("kept", propensity=0.25, influenced=True),
        event("held", holdout=True),
        event("forgotten"),
        event("silent"),
        replace(event("refused"), target="", targets=()),
    )
    for name in ("kept", "held", "forgotten", "refused"):
        give(file, name, 0.5)
    prompts = {name: f"prompt of {name}" for name in ("kept", "held", "silent", "refused")}
    assert list(labels(file, prompts)) == [Label("prompt of kept", "edge", True, weight=4.0, influenced=True)]


@given(st.floats(allow_nan=True, allow_infinity=True) | st.none())
def test_a_weight_is_one_over_the_propensity_within_bounds(propensity: float | None) -> None:
    found = weight({"propensity": propensity, "target": "edge", "targets": ["edge", "cloud"]})
    assert 1.0 <= found <= CLIP
    if propensity is not None and 1 / CLIP < propensity <= 1:
        assert found == pytest.approx(1 / propensity)
    assert weight({"propensity": 0.1, "target": "cloud", "targets": ["edge", "cloud"]}) == 1.0


def test_prompts_are_kept_for_their_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "prompts.sqlite"
    prompts = Prompts(file)
    prompts.keep("a", "What is 2 + 3?")
    prompts.keep("b", "x" * (LONGEST + 1))
    prompts.close()
    prompts.close()
    assert read_prompts(file) == {"a": "What is 2 + 3?", "b": "x" * LONGEST}
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert read_prompts(tmp_path / "none.sqlite") == {}


def test_prompts_go_when_they_are_old(tmp_path: Path) -> None:
    file = tmp_path / "prompts.sqlite"
    Prompts(file).close()
    database = sqlite3.connect(file)
    database.execute("INSERT INTO prompt VALUES ('old', ?, 'text')", (time.time() - 8 * DAY,))
    database.commit()
    database.close()
    prompts = Prompts(file, keep_days=7)
    prompts.keep("new", "text")
    prompts.close()
    assert list(read_prompts(file)) == ["new"]


def test_prompts_that_cannot_be_written_are_counted_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "prompts.sqlite"
    prompts = Prompts(file)
    prompts.keep("a", "\ud800")  # half a character: no UTF-8
    prompts.keep("b", "text")
    prompts.close()
    assert (list(read_prompts(file)), prompts.dropped) == (["b"], 1)
    (tmp_path / "odd").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(SetupError, match="cannot be kept"):
        Prompts(tmp_path / "odd")
    with pytest.raises(SetupError, match="cannot be read"):
        read_prompts(tmp_path / "odd")
