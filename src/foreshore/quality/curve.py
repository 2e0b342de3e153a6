"""How much of the better target's quality a score recovers, by how many prompts go there: RouteLLM's metric.

Ong et al., "RouteLLM: Learning to Route LLMs with Preference Data", 2024. A prompt goes to the better target if its
score reaches a threshold; the thresholds are the edges of the scores' deciles, so that there are 11 points from none
to all. What RouteLLM calls strong and weak are here `other` and `local`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshore.card import Interval

__all__ = ["Curve", "bootstrapped", "curve", "replicates"]

DECILES = 10
RESAMPLES = 1000

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """`share` (points,) of prompts that go to the other target, ascending, and `accuracy` (points,) of all answers."""

    share: Numbers
    accuracy: Numbers
    local: float  # accuracy of the local target alone
    other: float

    @property
    def apgr(self) -> float:
        """Average performance gap recovered, by trapezoids: 0.5 for chance, 1 for the other target throughout; more
        where the local target is right and the other is not."""
        gap = self.other - self.local
        span = float(self.share[-1] - self.share[0])
        if not gap or not span:
            return float("nan")
        return (float(np.trapezoid(self.accuracy, self.share)) - self.local * span) / (gap * span)

    def cpt(self, recovered: float, *, envelope: bool) -> float:
        """The share of calls to the other target that recovers this share of the gap. RouteLLM interpolates, as if
        accuracy rose throughout; with `envelope` it is where accuracy first comes so far, NaN where it never does."""
        wanted = self.local + recovered * (self.other - self.local)
        if not envelope:
            return float(np.interp(wanted, self.accuracy, self.share))
        highest = np.maximum.accumulate(self.accuracy)
        if wanted > highest[-1]:
            return float("nan")
        after = int(np.searchsorted(highest, wanted))
        if not after:
            return float(self.share[0])
        ends = slice(after - 1, after + 1)
        return float(np.interp(wanted, highest[ends], self.share[ends]))


def curve(scores: ArrayLike, local: ArrayLike, other: ArrayLike) -> Curve:
    """`scores` (prompts,) are high where the other target is wanted; `local` and `other` (prompts,) are 1 where that
    target was right."""
    score, weak, strong = (np.asarray(values, np.float64) for values in (scores, local, other))
    order = np.argsort(score)
    ordered, count = score[order], len(score)
    edges = np.quantile(ordered, np.linspace(0, 1, DECILES + 1))
    below = np.searchsorted(ordered, edges)
    below[-1] = count
    gains = np.append(0.0, np.cumsum((strong - weak)[order]))
    accuracy = strong.mean() - gains[below] / count
    share = 1 - below / count
    return Curve(share=share[::-1], accuracy=accuracy[::-1], local=float(weak.mean()), other=float(strong.mean()))


def bootstrapped(
    measure: Callable[[Curve], float], scores: ArrayLike, local: ArrayLike, other: ArrayLike, *, seed: int = 0
) -> Interval:
    """`measure` of the curve, and its 95 % interval by the percentiles of a bootstrap over prompts."""
    found = replicates(measure, scores, local, other, count=RESAMPLES, seed=seed)
    low, high = np.nanquantile(found, (0.025, 0.975))
    return Interval(value=measure(curve(scores, local, other)), low=float(low), high=float(high))


def replicates(
    measure: Callable[[Curve], float], scores: ArrayLike, local: ArrayLike, other: ArrayLike, *, count: int, seed: int
) -> Numbers:
    """`measure` of `count` resamples of the prompts, (count,)."""
    columns: Sequence[Numbers] = [np.asarray(values, np.float64) for values in (scores, local, other)]
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(columns[0]), size=len(columns[0])) for _ in range(count))
    return np.array([measure(curve(*(values[at] for values in columns))) for at in drawn])
