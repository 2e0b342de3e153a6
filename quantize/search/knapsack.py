"""One type for each tensor, so that a sum is smallest within a limit of bytes: the multiple-choice knapsack. Pure.

Dynamic programming over a limit cut into steps; bytes are rounded up to whole steps, so no solution is above the limit.
What the rounding left free is filled at the end, with the true bytes. Further limits, on seconds and on memory, enter
as prices (Lagrange multipliers) that are raised until they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from math import inf

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frontier", "Option", "frontier", "lightest", "solve"]

STEPS = 6_000
PRICED_STEPS = 2_000  # where one solution takes many
HALVINGS, ROUNDS = 16, 3  # of the interval that a price is looked for in; of all prices in turn
FORBIDDING = 1e30  # a finite cost in place of an infinite one, so that what must be taken still can be
CELLS = 4_000_000  # of the table: with very many tensors the steps become coarser


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """`cost` is what the sum is to keep small; `seconds` and `memory` are further things that may be limited."""

    type: str
    bytes: int
    cost: float
    seconds: float = 0.0
    memory: int = 0


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
        if len(enough):
            return self._read(int(enough[0]))
        best = {name: min(some, key=lambda o: (o.cost, o.bytes)) for name, some in self.options.items()}
        least = sum(option.cost for option in best.values())
        if total_bytes(best) > self.limit or least > cost:
            raise ValueError(f"no choice within {self.limit} bytes costs less than {least}")
        return best  # whose bytes, rounded up to steps, are beyond the limit

    def _read(self, spent: int) -> Choice:
        choice = {}
        for name, picks in zip(reversed(list(self.options)), reversed(self.picks), strict=True):
            option = self.options[name][picks[spent]]
            choice[name] = option
            spent -= _steps(option.bytes - _least(self.options[name]).bytes, self.step)
        return {name: choice[name] for name in self.options}


def frontier(options: Options, limit: int, most_steps: int = STEPS) -> Frontier:
    """Raises `ValueError` if even the lightest choice has more than `limit` bytes."""
    base = total_bytes(lightest(options))
    heaviest = sum(max(o.bytes for o in some) for some in options.values())
    if base > limit:
        raise ValueError(f"the lightest choice has {base} bytes, more than {limit}")
    limit = min(limit, heaviest)
    steps = max(64, min(most_steps, CELLS // max(len(options), 1)))
    step = max(1, -(-(limit - base) // steps))
    costs = np.zeros((limit - base) // step + 1)
    picks = []
    for some in options.values():
        costs, picked = _add(costs, some, step)
        picks.append(picked)
    return Frontier(options=options, limit=limit, step=step, costs=costs, picks=tuple(picks))


def solve(options: Options, limit: int, *, seconds: float = inf, memory: float = inf) -> Choice:
    """The choice of at most `limit` bytes, so many seconds and so much memory, whose costs are least.

    With a bound on seconds or memory that counts, the choice is close to the best, not always it. Raises `ValueError`
    if none was found that is within all.
    """
    best = frontier(options, limit).within(limit)
    allowed = (seconds, memory)
    return best if _holds(best, allowed) else _priced(options, limit, allowed)


def lightest(options: Options) -> Choice:
    return {name: _least(some) for name, some in options.items()}


def total_bytes(choice: Choice) -> int:
    return sum(o.bytes for o in choice.values())


def total_cost(choice: Choice) -> float:
    return sum(o.cost for o in choice.values())


def total_seconds(choice: Choice) -> float:
    return sum(o.seconds for o in choice.values())


def total_memory(choice: Choice) -> int:
    return sum(o.memory for o in choice.values())


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
    return _filled(choice, options, limit, (inf, inf))


def _filled(choice: Choice, options: Options, limit: int, allowed: Sequence[float]) -> Choice:
    """`_fill` that keeps within `allowed` seconds and memory, too."""
    while True:
        left = limit - total_bytes(choice)
        better = [
            ((now.cost - o.cost) / max(o.bytes - now.bytes, 1), name, o)
            for name, now in choice.items()
            for o in options[name]
            if o.cost < now.cost and o.bytes - now.bytes <= left
        ]
        for _, name, option in sorted(better, key=lambda found: -found[0]):
            changed = choice | {name: option}
            if _holds(changed, allowed):
                choice = changed
                break
        else:
            return choice


def _holds(choice: Choice, allowed: Sequence[float]) -> bool:
    return total_seconds(choice) <= allowed[0] and total_memory(choice) <= allowed[1]


def _priced(options: Options, limit: int, allowed: Sequence[float]) -> Choice:
    """Each bound in turn gets the lowest price at which it holds, the others' prices given."""
    totals = (total_seconds, total_memory)
    steepest = [_steepest(options, name) for name in ("seconds", "memory")]
    prices = [0.0, 0.0]
    found: list[Choice] = []

    def at(number: int, price: float) -> bool:
        prices[number] = price
        choice = _at_prices(options, limit, prices)
        if _holds(choice, allowed):
            found.append(choice)
        return totals[number](choice) <= allowed[number]

    for _ in range(ROUNDS):
        for number in range(2):
            prices[number] = _lowest(partial(at, number), steepest[number])
        if found:
            return _filled(min(found, key=total_cost), options, limit, allowed)
    raise ValueError(f"no choice within {limit} bytes was found that is within {allowed} seconds and bytes of memory")


def _lowest(enough: Callable[[float], bool], steepest: float) -> float:
    """The lowest price that is enough, about; the steepest where none is."""
    if enough(0.0):
        return 0.0
    if not enough(steepest):
        return steepest
    low, high = steepest * 1e-9, steepest
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _at_prices(options: Options, limit: int, prices: Sequence[float]) -> Choice:
    """The best choice where seconds and memory cost so much each, with its own costs."""
    priced = {
        name: [
            replace(o, type=str(i), cost=min(o.cost, FORBIDDING) + prices[0] * o.seconds + prices[1] * o.memory)
            for i, o in enumerate(some)
        ]
        for name, some in options.items()
    }
    choice = frontier(priced, limit, PRICED_STEPS).within(limit)
    return {name: options[name][int(o.type)] for name, o in choice.items()}


def _steepest(options: Options, thing: str) -> float:
    """A price at which nothing else counts."""
    costs = sum(max((o.cost for o in some if o.cost < FORBIDDING), default=0.0) for some in options.values())
    gaps = [
        gap
        for some in options.values()
        for a, b in combinations(some, 2)
        if (gap := abs(getattr(a, thing) - getattr(b, thing)))
    ]
    return (costs or 1.0) / min(gaps) * 2 if gaps else 0.0
