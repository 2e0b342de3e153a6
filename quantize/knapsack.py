"""One type for each tensor, so that a sum is smallest within a limit of bytes: the multiple-choice knapsack. Pure.

Dynamic programming over a limit cut into steps; bytes are rounded up to whole steps, so no solution is above the limit.
What the rounding left free is filled at the end, with the true bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frontier", "Option", "frontier", "lightest", "solve"]

STEPS = 20_000
FORBIDDING = 1e30  # a finite cost in place of an infinite one, so that what must be taken still can be
CELLS = 4_000_000  # of the table: with very many tensors the steps become coarser


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """`cost` is what the sum is to keep small; `seconds` is a second thing that may be limited."""

    type: str
    bytes: int
    cost: float
    seconds: float = 0.0


Options = Mapping[str, Sequence[Option]]  # of each tensor, one at least
Choice = dict[str, Option]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The best choice within every limit up to `limit` bytes."""

    options: Options
    limit: int
    step: int  # bytes
    costs: NDArray[np.float64]  # by steps spent beyond the lightest choice
    picks: tuple[NDArray[np.int16], ...]  # of each tensor, by steps spent

    def within(self, nbytes: int) -> Choice:
        """The best choice of at most `nbytes` (and `limit`). Raises `ValueError` where even the lightest has more."""
        free = min(nbytes, self.limit) - total_bytes(lightest(self.options))
        if free < 0:
            raise ValueError(f"the lightest choice has {-free} bytes more than {nbytes}")
        return _fill(self._read(min(free // self.step, len(self.costs) - 1)), self.options, min(nbytes, self.limit))

    def down_to(self, cost: float) -> Choice:
        """The smallest choice whose costs are at most `cost`. Raises `ValueError` if none within `limit` is."""
        enough = np.flatnonzero(self.costs <= cost)
        if not len(enough):
            raise ValueError(f"no choice within {self.limit} bytes costs less than {self.costs[-1]}")
        return self._read(int(enough[0]))

    def _read(self, spent: int) -> Choice:
        choice = {}
        for name, picks in zip(reversed(list(self.options)), reversed(self.picks), strict=True):
            option = self.options[name][picks[spent]]
            choice[name] = option
            spent -= _steps(option.bytes - _least(self.options[name]).bytes, self.step)
        return {name: choice[name] for name in self.options}


def frontier(options: Options, limit: int) -> Frontier:
    """Raises `ValueError` if even the lightest choice has more than `limit` bytes."""
    base = total_bytes(lightest(options))
    heaviest = sum(max(o.bytes for o in some) for some in options.values())
    if base > limit:
        raise ValueError(f"the lightest choice has {base} bytes, more than {limit}")
    limit = min(limit, heaviest)
    steps = max(64, min(STEPS, CELLS // max(len(options), 1)))
    step = max(1, -(-(limit - base) // steps))
    costs = np.zeros((limit - base) // step + 1)
    picks = []
    for some in options.values():
        costs, picked = _add(costs, some, step)
        picks.append(picked)
    return Frontier(options=options, limit=limit, step=step, costs=costs, picks=tuple(picks))


def solve(options: Options, limit: int, *, seconds: float = inf) -> Choice:
    """The choice of at most `limit` bytes, and at most so many seconds, whose costs are least.

    The seconds enter by a Lagrange multiplier that is searched for, so there the choice is close to the best, not
    always it. Raises `ValueError` if no choice that was found is within both.
    """
    best = frontier(options, limit).within(limit)
    if total_seconds(best) <= seconds:
        return best
    low, high = 0.0, _steepest(options)
    fast = _priced(options, limit, high)
    if total_seconds(fast) > seconds:
        raise ValueError(
            f"within {limit} bytes nothing is faster than {total_seconds(fast)} seconds, and not {seconds}"
        )
    for _ in range(24):
        middle = (low * high) ** 0.5 if low else high / 1e6
        found = _priced(options, limit, middle)
        low, high = (low, middle) if total_seconds(found) <= seconds else (middle, high)
        if total_seconds(found) <= seconds and total_cost(found) < total_cost(fast):
            fast = found
    return fast


def lightest(options: Options) -> Choice:
    return {name: _least(some) for name, some in options.items()}


def total_bytes(choice: Choice) -> int:
    return sum(o.bytes for o in choice.values())


def total_cost(choice: Choice) -> float:
    return sum(o.cost for o in choice.values())


def total_seconds(choice: Choice) -> float:
    return sum(o.seconds for o in choice.values())


def _least(some: Sequence[Option]) -> Option:
    return min(some, key=lambda o: (o.bytes, o.cost))


def _add(
    costs: NDArray[np.float64], some: Sequence[Option], step: int
) -> tuple[NDArray[np.float64], NDArray[np.int16]]:
    """The least costs with one more tensor, and its option at each number of steps spent."""
    base = _least(some).bytes
    best, picked = np.full(len(costs), inf), np.zeros(len(costs), np.int16)
    for number, option in enumerate(some):
        shift = _steps(option.bytes - base, step)
        if shift >= len(costs):
            continue
        found = costs[: len(costs) - shift] + min(option.cost, FORBIDDING)
        better = found < best[shift:]
        best[shift:][better] = found[better]
        picked[shift:][better] = number
    return best, picked


def _steps(nbytes: int, step: int) -> int:
    return -(-nbytes // step)


def _fill(choice: Choice, options: Options, limit: int) -> Choice:
    """Spend what is left of `limit` on the change that saves the most cost for its bytes, again and again."""
    while True:
        left = limit - total_bytes(choice)
        better = [
            ((now.cost - o.cost) / max(o.bytes - now.bytes, 1), name, o)
            for name, now in choice.items()
            for o in options[name]
            if o.cost < now.cost and o.bytes - now.bytes <= left
        ]
        if not better:
            return choice
        _, name, option = max(better, key=lambda found: found[0])
        choice = choice | {name: option}


def _priced(options: Options, limit: int, price: float) -> Choice:
    """The best choice where a second costs `price`, with its own costs."""
    priced = {
        name: [Option(type=str(i), bytes=o.bytes, cost=o.cost + price * o.seconds) for i, o in enumerate(some)]
        for name, some in options.items()
    }
    return {name: options[name][int(o.type)] for name, o in frontier(priced, limit).within(limit).items()}


def _steepest(options: Options) -> float:
    """A price at which nothing but the seconds counts."""
    costs = sum(max((o.cost for o in some if o.cost < inf), default=0.0) for some in options.values())
    gaps = [
        abs(a.seconds - b.seconds) for some in options.values() for a in some for b in some if a.seconds != b.seconds
    ]
    return costs / min(gaps) * 2 if gaps else 1.0
