"""Which whole mix to measure next. Pure.

    own       llama.cpp's mixes that are within the bounds, the best by what is foretold first
    solved    the knapsack over what the survey says, and then over draws from what whole mixes taught
    near      the same, but close to the best mix measured: what is foretold of a change counts for less than it says

The first is one of llama.cpp's, so that what wins is not worse, however little could be measured; further ones of them
come while they may still be better than the best so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from foreshore.quantize.search.bounds import Bounds
from foreshore.quantize.search.costs import Belief
from foreshore.quantize.search.knapsack import Choice, Option, Options, frontier
from foreshore.quantize.search.meter import Mix
from foreshore.quantize.search.survey import Survey, Table

__all__ = ["Proposals"]

DRAWS = 8  # of a mix that was not proposed yet, before there are no more
WORTH = 1.2  # what is foretold of one of llama.cpp's may be so many times too much
TRUST = 0.5  # of what is foretold that a change gains; losses count for so many times more

Key = tuple[tuple[str, str], ...]


class Proposals:
    """`costs`: KL of each tensor alone by type; `own`: llama.cpp's mixes. `bounds` may be replaced as more is known."""

    def __init__(self, survey: Survey, bounds: Bounds, costs: Table, own: Iterable[Mix] = ()) -> None:
        self.survey, self.bounds, self.costs = survey, bounds, costs
        self._names = list(survey.types)
        self._belief, self._rng = Belief(len(self._names)), np.random.default_rng(0)
        self._seen: set[Key] = set()
        self._best: tuple[Mix, float] | None = None
        self._aim = bounds.targets.kl or 0.0  # what a mix is to cost, where the smallest is looked for
        self._own = sorted(own, key=lambda mix: self._order(mix, self.predict(mix)), reverse=True)

    def next(self) -> Choice | None:
        """One that was not proposed yet; `None` where none is found."""
        for choice in self._candidates():
            key = tuple((name, option.type) for name, option in choice.items())
            if key not in self._seen:
                self._seen.add(key)
                return choice
        return None

    def observe(self, mix: Mix, kl: float) -> None:
        self._belief.observe(self._parts(mix), kl)
        self._aim *= 0.99 if kl > (self.bounds.targets.kl or inf) else 1.003
        if self._best is None or self._order(mix, kl) < self._order(*self._best):
            self._best = mix, kl

    def predict(self, mix: Mix) -> float:
        """Its KL, by what is known at present."""
        return float(self._parts(mix) @ self._belief.scales())

    def choice(self, mix: Mix) -> Choice:
        options = self.survey.options()
        return {name: next(o for o in options[name] if o.type == kind) for name, kind in mix.items()}

    def options(self, rng: np.random.Generator | None = None) -> Options:
        """With their costs as they are believed to be, or, with `rng`, as they may well be."""
        return self.survey.options(self.costs, dict(zip(self._names, self._belief.scales(rng), strict=True)))

    def solve(self, options: Options) -> Choice:
        if self.bounds.targets.smallest:
            return frontier(options, self.bounds.bytes).down_to(self._aim)
        return self.bounds.solve(options)

    def _candidates(self) -> Iterator[Choice]:
        count = len(self._seen)
        while self._own and count != 1:
            mix = self._own.pop()
            if self._worth(mix):
                yield self.choice(mix)
        if count < 2:
            yield self.solve(self.options())
        for draw in range(DRAWS):
            options = self.options(self._rng)
            yield self.solve(_near(options, self._best[0]) if self._best and (count + draw) % 2 else options)

    def _worth(self, mix: Mix) -> bool:
        """Whether one of llama.cpp's is within the bounds, and may be better than the best."""
        if not self.bounds.hold(self.choice(mix)):
            return False
        return self._best is None or self._order(mix, self.predict(mix) / WORTH) < self._order(*self._best)

    def _order(self, mix: Mix, kl: float) -> tuple[float, float]:
        return self.bounds.targets.order(self.bounds.size(self.choice(mix)), kl)

    def _parts(self, mix: Mix) -> NDArray[np.float64]:
        return np.array([self.costs[name][mix[name]] for name in self._names])


def _near(options: Options, mix: Mix) -> Options:
    """`options` of which those that `mix` has are preferred: what others gain counts less, what they lose more."""
    return {name: _cautious(some, next(o for o in some if o.type == mix[name])) for name, some in options.items()}


def _cautious(some: Sequence[Option], now: Option) -> list[Option]:
    return [replace(o, cost=now.cost + (o.cost - now.cost) * (TRUST if o.cost < now.cost else 1 / TRUST)) for o in some]
