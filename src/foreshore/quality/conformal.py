"""How many requests the local target may answer so that few of its answers are ones the other would have put right.

The regret of a threshold is the share of the locally served answers that are wrong where the other target's is right.
Served locally is what scores at most the threshold. Thresholds are tested one after the other, from the most cautious
on, as long as an exact binomial test rejects "the regret is above `at_most`": Learn-then-Test with a fixed sequence
(Angelopoulos et al., "Learn then Test: Calibrating predictive algorithms to achieve risk control", 2021). Nothing is
assumed but that the prompts it is learnt from are drawn as those to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, lgamma, log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshore.errors import UsageError

__all__ = ["RegretBound", "regret_bound"]

STEPS = 40  # thresholds that are tried: shares of the prompts
START = 0.25  # share of the prompts that the sequence begins at: of fewer a test says little, and one failure ends it


@dataclass(frozen=True, slots=True, kw_only=True)
class RegretBound:
    """Serve locally what scores at most `threshold`: then with confidence 1 - `delta` the regret is at most `at_most`.

    `local_share` of the `count` prompts would have been, with the regret `observed`. A threshold of minus infinity
    means that the data show this of none.
    """

    threshold: float
    at_most: float
    delta: float
    count: int
    local_share: float
    observed: float


def regret_bound(
    scores: ArrayLike, regretted: Sequence[bool] | NDArray[np.bool_], *, at_most: float = 0.05, delta: float = 0.05
) -> RegretBound:
    """The largest threshold for which the bound holds. `scores` (prompts,) are high where the other target is wanted,
    such as its probability less the local one's; `regretted` (prompts,) says where the local answer was wrong and the
    other's right. The prompts must be none that the scores were learnt from.

    Raises `UsageError` for no prompts, numbers that are not finite, or shares not between 0 and 1.
    """
    values, bad = np.asarray(scores, np.float64), np.asarray(regretted, np.bool_)
    _check(values, bad, at_most, delta)
    order = np.sort(values)
    places = np.unique(np.ceil(np.arange(1, STEPS + 1) / STEPS * len(values)).astype(int)) - 1
    thresholds = np.unique(order[places])
    served = np.searchsorted(order, thresholds, side="right")
    regrets = np.searchsorted(np.sort(values[bad]), thresholds, side="right")
    fewest = max(START * len(values), log(delta) / log(1 - at_most))  # of fewer not even none would be enough
    first = best = int(np.searchsorted(served, fewest))
    while best < len(served) and _chance(int(regrets[best]), int(served[best]), at_most) <= delta:
        best += 1
    shown, best = best > first, best - 1
    return RegretBound(
        threshold=float(thresholds[best]) if shown else -inf,
        at_most=at_most,
        delta=delta,
        count=len(values),
        local_share=float(served[best] / len(values)) if shown else 0.0,
        observed=float(regrets[best] / served[best]) if shown else 0.0,
    )


def _chance(bad: int, count: int, share: float) -> float:
    """The probability of at most `bad` among `count` where each is one with probability `share`."""
    parts = [
        lgamma(count + 1) - lgamma(k + 1) - lgamma(count - k + 1) + k * log(share) + (count - k) * log(1 - share)
        for k in range(bad + 1)
    ]
    return min(1.0, sum(exp(part) for part in parts))


def _check(values: NDArray[np.float64], bad: NDArray[np.bool_], at_most: float, delta: float) -> None:
    if values.ndim != 1 or values.shape != bad.shape or not len(values):
        raise UsageError(f"{values.shape} scores and {bad.shape} outcomes are not of the same prompts, or of none")
    if not np.isfinite(values).all():
        raise UsageError("there are scores that are not finite")
    for name, share in (("at_most", at_most), ("delta", delta)):
        if not 0 < share < 1:
            raise UsageError(f"{name!r} must be between 0 and 1, not {share!r}")
