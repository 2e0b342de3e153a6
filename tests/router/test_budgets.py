"""Budgets: what is spent, in which period, and that the ledger is remembered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.config import Budget
from foreshore.reliability.event import Event
from foreshore.reliability.ledger import Ledger
from foreshore.router.budgets import Budgets, period
from foreshore.router.facts import BudgetFacts

NOON = time.mktime((2026, 3, 29, 12, 0, 0, -1, -1, -1))
HOUR, DAY = 3600.0, 86_400.0


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A place whose clocks go forward on 29 March 2026."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def budgets(per: str = "day", dollars: float = 2.0, ledger: Path | None = None) -> Budgets:
    return Budgets([Budget.model_validate({"tenant": "team", "dollars": dollars, "per": per})], ledger)


def ledger_with(file: Path, *events: tuple[str, float, float]) -> Path:
    """(tenant, dollars, at) each."""
    ledger = Ledger(file, keep_days=36_000)
    for i, (tenant, cost, at) in enumerate(events):
        ledger.append(Event(decision_id=str(i), terminal_state="complete", tenant=tenant, cost=cost, at=at))
    ledger.close()
    return file


def test_what_is_spent_is_gone_for_that_tenant_alone() -> None:
    found = budgets()
    now = time.time()
    found.spend("team", 0.5, now)
    found.spend("other", 9.0, now)
    assert found.of("team", now) == BudgetFacts(dollars=2.0, spent=0.5, left=1.5, share_left=0.75)
    assert found.of("other", now) == BudgetFacts()


def test_nothing_is_left_of_an_overdrawn_budget() -> None:
    found = budgets()
    found.spend("team", 5.0)
    assert found.of("team") == BudgetFacts(dollars=2.0, spent=5.0, left=0.0, share_left=0.0)


@pytest.mark.parametrize("dollars", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_amount_is_not_counted(dollars: float) -> None:
    found = budgets()
    found.spend("team", dollars)
    assert found.of("team").spent == 0.0


def test_a_new_period_begins_at_nothing_and_late_news_of_the_old_one_is_dropped() -> None:
    found = budgets("hour")
    now = time.time()
    found.spend("team", 1.0, now)
    later = period("hour", now)[1]
    assert found.of("team", later).spent == 0.0
    found.spend("team", 0.25, now)
    assert found.of("team", later).spent == 0.0
    assert found.of("team", now).spent == 0.0  # a clock that goes back opens no period again


def test_the_ledger_is_remembered(tmp_path: Path) -> None:
    now = time.time()
    begin = period("day", now)[0]
    events = [("team", 0.5, begin), ("team", 0.25, now - 0.01), ("team", 9.0, begin - 1.0), ("other", 4.0, now - 0.01)]
    file = ledger_with(tmp_path / "ledger.sqlite", *events)
    found = budgets(ledger=file)
    assert found.of("team", now).spent == 0.75
    found.spend("team", 0.25, now)
    assert found.of("team", now).spent == 1.0


@pytest.mark.parametrize("content", [None, b"", b"not a database, but long enough to look at" * 100])
def test_a_ledger_that_cannot_be_read_counts_as_empty(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ledger.sqlite"
    if content is not None:
        file.write_bytes(content)
    assert budgets(ledger=file).of("team").spent == 0.0


def test_a_changed_amount_keeps_what_was_spent_and_a_changed_period_reads_it_anew(tmp_path: Path) -> None:
    file = ledger_with(tmp_path / "ledger.sqlite", ("team", 0.5, time.time() - 0.01))
    found = Budgets([], file)
    found.apply([Budget(tenant="team", dollars=1.0, per="month")])
    found.spend("team", 0.25)
    found.apply([Budget(tenant="team", dollars=4.0, per="month")])
    assert found.of("team") == BudgetFacts(dollars=4.0, spent=0.75, left=3.25, share_left=0.8125)
    found.apply([])
    assert found.of("team") == BudgetFacts()


def test_threads_spend_together() -> None:
    found = budgets("month", dollars=1e6)
    now = time.time()

    def spend() -> None:
        for _ in range(500):
            found.spend("team", 1.0, now)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.of("team", now).spent == 4000.0


@pytest.mark.usefixtures("berlin")
def test_a_day_of_23_hours_and_a_month_with_it_are_as_long_as_they_are() -> None:
    noon = time.mktime((2026, 3, 29, 12, 0, 0, -1, -1, -1))
    begin, end = period("day", noon)
    assert end - begin == 23 * HOUR
    first, last = period("month", noon)
    assert last - first == 31 * DAY - HOUR
    assert time.localtime(first)[:5] == (2026, 3, 1, 0, 0)
    assert period("hour", noon + 61) == (noon, noon + HOUR)


@given(st.sampled_from(["hour", "day", "month"]), st.floats(0, 4e9))
def test_every_moment_lies_in_its_period_and_the_next_one_follows(per: str, at: float) -> None:
    begin, end = period(per, at)
    assert begin <= at < end
    assert period(per, end)[0] == end
    assert period(per, begin) == (begin, end)
