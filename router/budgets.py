"""What each tenant has spent in its hour, day or month, by this machine's calendar."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from foreshore.config import Budget
from foreshore.router.facts import BudgetFacts
from foreshore.telemetry import logger

__all__ = ["Budgets", "period"]

WAIT_S = 0.5  # for the ledger, when it is first read; a large one is read on in the background
_UNLIMITED = BudgetFacts()
_SPENT = "SELECT COALESCE(SUM(cost), 0) FROM event WHERE at >= ? AND at < ? AND tenant = ?"


class Budgets:
    """`of` answers from memory, `spend` counts. From any thread.

    What was spent before this process began is read from the ledger; what other processes spend meanwhile is not seen.
    A clock that is set back does not open a period again that has ended.
    """

    def __init__(self, budgets: Iterable[Budget], ledger: Path | None = None) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = {}
        self.apply(budgets)

    def apply(self, budgets: Iterable[Budget]) -> None:
        """Hold tenants to these from now on. What is spent stays so where only the amount changed."""
        now = time.time()
        fresh: list[_Account] = []
        with self._lock:
            accounts: dict[str, _Account] = {}
            for budget in budgets:
                account = self._accounts.get(budget.tenant)
                if account is None or account.budget.per != budget.per:
                    account = _Account(budget, now)
                    fresh.append(account)
                account.limit(budget)
                accounts[budget.tenant] = account
            self._accounts = accounts
        if fresh and self._ledger is not None and self._ledger.is_file():
            reader = threading.Thread(target=self._read, args=(fresh, now), name="foreshore-budgets", daemon=True)
            reader.start()
            reader.join(WAIT_S)

    def of(self, tenant: str, at: float | None = None) -> BudgetFacts:
        """What is left to `tenant` at `at`, in seconds since 1970 (default: now)."""
        account = self._accounts.get(tenant)
        if account is None:
            return _UNLIMITED
        with self._lock:
            account.turn(time.time() if at is None else at)
            return account.facts

    def spend(self, tenant: str, dollars: float, at: float | None = None) -> None:
        """Count what a request cost that ended at `at`. What is no positive number is not counted."""
        account = self._accounts.get(tenant)
        if account is None or not 0.0 < dollars < math.inf:
            return
        at = time.time() if at is None else at
        with self._lock:
            account.turn(at)
            if at >= account.begin:
                account.add(dollars)

    def _read(self, accounts: list[_Account], before: float) -> None:
        assert self._ledger is not None
        try:
            with closing(sqlite3.connect(f"{self._ledger.absolute().as_uri()}?mode=ro", uri=True)) as database:
                for account in accounts:
                    begin = account.begin
                    (spent,) = database.execute(_SPENT, (begin, before, account.budget.tenant)).fetchone()
                    with self._lock:
                        if account.begin == begin:
                            account.add(float(spent))
        except sqlite3.Error as error:
            logger.warning("budgets begin at 0: the ledger %r cannot be read: %s", str(self._ledger), error)


class _Account:
    """One tenant's period. The lock of its `Budgets` guards it."""

    def __init__(self, budget: Budget, at: float) -> None:
        self.budget = budget
        self._set(0.0, period(budget.per, at))

    def limit(self, budget: Budget) -> None:
        self.budget = budget
        self.add(0.0)

    def turn(self, at: float) -> None:
        """A new period begins at 0."""
        if at >= self.end:
            self._set(0.0, period(self.budget.per, at))

    def add(self, dollars: float) -> None:
        self._set(self.spent + dollars, (self.begin, self.end))

    def _set(self, spent: float, span: tuple[float, float]) -> None:
        self.spent, (self.begin, self.end) = spent, span
        limit = self.budget.dollars
        left = max(0.0, limit - spent)
        self.facts = BudgetFacts(dollars=limit, spent=spent, left=left, share_left=left / limit)


def period(per: str, at: float) -> tuple[float, float]:
    """Begin and end of the hour, day or month that `at` lies in, by the local calendar, as seconds since 1970."""
    local = time.localtime(at)
    if per == "hour":
        begin = math.floor(at) - local.tm_min * 60 - local.tm_sec
        return float(begin), begin + 3600.0
    year, month, day = local.tm_year, local.tm_mon, local.tm_mday
    if per == "day":
        return _midnight(year, month, day), _midnight(year, month, day + 1)
    return _midnight(year, month, 1), _midnight(year, month + 1, 1)


def _midnight(year: int, month: int, day: int) -> float:
    """mktime takes a 32nd day and a 13th month for what they mean, and finds out about summer time."""
    return time.mktime((year, month, day, 0, 0, 0, -1, -1, -1))
