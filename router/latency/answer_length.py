"""How long answers are: learned by kind of request and by tenant."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from foreshore.router.recent import MOST, Recent

__all__ = ["AnswerLengths", "Length"]

FIRST_TOKENS, FIRST_VARIANCE = 96.0, 1.0  # of an answer and of its logarithm, until some were seen
BORROWED = 6.0  # outcomes that the more general cell counts for
MEMORY = 60.0  # outcomes that matter
MOST_TOKENS = 1e7
TENTH = 1.2816  # deviations from the median of a normal distribution to its 10th and 90th percentiles


class Length(NamedTuple):
    """Of an answer in tokens; `spread` is the standard deviation of its natural logarithm."""

    median: float
    spread: float
    mean: float

    def at_most(self, tokens: int) -> Length:
        """Cut off where the caller's limit is; 0 is no limit. An answer that would be longer has just so many."""
        if not tokens:
            return self
        limit, middle = math.log(tokens), math.log(self.median)
        low, high = min(limit, middle - TENTH * self.spread), min(limit, middle + TENTH * self.spread)
        return Length(min(self.median, tokens), (high - low) / (2 * TENTH), min(self.mean, tokens))


@dataclass(slots=True)
class _Cell:
    count: float = 0.0
    log: float = math.log(FIRST_TOKENS)
    variance: float = FIRST_VARIANCE
    mean: float = FIRST_TOKENS

    def learn(self, log: float, tokens: float, *, whole: bool) -> None:
        self.count = min(MEMORY, self.count + 1.0)
        weight = 1.0 / self.count
        error = log - self.log
        self.log += weight * error
        self.mean += weight * (tokens - self.mean)
        if whole:
            self.variance += weight * (error * error * (1.0 - weight) - self.variance) if self.count > 1 else 0.0


class AnswerLengths:
    """Lengths are heavy-tailed, so their logarithm is what is averaged. A cell for (route, tenant) borrows from the
    route's, and that from the target's, the more the fewer outcomes it has seen (shrinkage)."""

    def __init__(self) -> None:
        self._all = _Cell()
        self._cells: Recent[_Cell] = Recent(_Cell)
        self._expected: dict[tuple[str, str, int], Length] = {}  # until the next answer

    def expect(self, route: str, tenant: str, max_tokens: int = 0) -> Length:
        found = self._expected.get((route, tenant, max_tokens))
        if found is None:
            if len(self._expected) > MOST:
                self._expected.clear()
            found = self._expected[route, tenant, max_tokens] = self._mixed(route, tenant).at_most(max_tokens)
        return found

    def _mixed(self, route: str, tenant: str) -> Length:
        whole, kind, own = self._all, self._cells.get(route, ""), self._cells.get(route, tenant)
        log, variance, mean = whole.log, whole.variance, whole.mean
        for cell in (kind, own):
            if cell is not None:
                share = cell.count / (cell.count + BORROWED)
                log += share * (cell.log - log)
                variance += share * (cell.variance - variance)
                mean += share * (cell.mean - mean)
        return Length(math.exp(log), math.sqrt(variance), mean)

    def learn(self, route: str, tenant: str, tokens: int, *, cut: bool = False) -> None:
        """`cut`: it ended at the caller's limit, so that of its length only the least is known."""
        if not 1 <= tokens <= MOST_TOKENS:
            return
        self._expected.clear()
        expected = self._mixed(route, tenant)
        log = math.log(tokens)
        if cut:
            log += expected.spread * _beyond((log - math.log(expected.median)) / max(expected.spread, 0.1))
        for cell in (self._all, self._cells.use(route, ""), self._cells.use(route, tenant)):
            cell.learn(log, math.exp(log), whole=not cut)


def _beyond(place: float) -> float:
    """By how many deviations a normal variable that lies above `place` lies above it on average, roughly: its hazard
    less `place`, by Birnbaum's bound (1942), which is exact in the tail."""
    return (math.sqrt(place * place + 4.0) - place) / 2.0
