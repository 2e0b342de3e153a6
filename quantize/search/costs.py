"""What each tensor costs in each type: measured for some types, from its rounding error for the others. Pure.

A small error of one tensor's weights moves the output in proportion, and KL grows with the square of that; so between
two measured types the logarithm of KL is taken to be linear in the logarithm of the squared rounding error, weighted by
the importance of the columns, with a slope near 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import exp, inf, isfinite, log

import numpy as np
from numpy.typing import NDArray

__all__ = ["Belief", "costs"]

SLOPES = (0.6, 1.4)  # beyond the measured types
SMALLEST = 1e-12  # nats or share: what is below cannot be told from nothing
SPREAD = 0.25  # of the scales before any mix was measured, one standard deviation
MISFIT = 0.03  # of the best mix measured against what its parts add up to, as a share
FURTHER = 2  # the power of a mix's KL over the best one's by which its misfit is more: greater losses add up otherwise


def costs(errors: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    """KL of one tensor by type: `errors` by type (0 for the parent's own), and KL where it was `measured`."""
    points = sorted((log(max(errors[k], SMALLEST)), log(max(kl, SMALLEST))) for k, kl in measured.items() if kl < inf)
    found = {}
    for kind, error in errors.items():
        if kind in measured:
            found[kind] = measured[kind]
        elif not isfinite(error) or not points:
            found[kind] = inf
        else:
            found[kind] = 0.0 if error == 0 else exp(_read(log(max(error, SMALLEST)), points))
    return found


def _read(x: float, points: list[tuple[float, float]]) -> float:
    """On the line through the two nearest points, or through the nearest one with the slope of the outermost two."""
    if len(points) == 1:
        return points[0][1] + x - points[0][0]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    (x0, y0), (x1, y1) = (points[0], points[1]) if x < points[0][0] else (points[-1], points[-2])
    slope = (y1 - y0) / (x1 - x0) if x1 != x0 else 1.0
    return y0 + min(max(slope, SLOPES[0]), SLOPES[1]) * (x - x0)


class Belief:
    """How much more, or less, each tensor costs within a mix than alone: a scale for each, learnt from whole mixes.

    KL of a mix is taken to be the sum over tensors of scale * cost. The scales are normal around one common value;
    each measured mix is one linear observation of them, with an error of `MISFIT` of its value, or more.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._rows: list[NDArray[np.float64]] = []  # of each mix, the parts as shares of what it cost in truth
        self._measured: list[float] = []

    def observe(self, parts: NDArray[np.float64], measured: float) -> None:
        """`parts`: what each tensor costs alone in the type that it has in the mix, (count,)."""
        if isfinite(measured) and measured > 0 and parts.sum() > 0:
            self._rows.append(parts / measured)
            self._measured.append(measured)

    def scales(self, rng: np.random.Generator | None = None) -> NDArray[np.float64]:
        """The likeliest scales, or with `rng` a draw from all that fit what was measured; never below 0.05."""
        common = self.common()
        precision, weighted = np.eye(self._count) / SPREAD**2, np.full(self._count, 1 / SPREAD**2)
        for row, misfit in zip(self._rows, self._misfits(), strict=True):  # in units of the common scale, of its value
            precision += np.outer(row, row) * (common / misfit) ** 2
            weighted += row * common / misfit**2
        mean = np.linalg.solve(precision, weighted)
        if rng is not None:
            mean = mean + np.linalg.solve(np.linalg.cholesky(precision).T, rng.normal(size=self._count))
        return np.asarray(np.maximum(mean, 0.05) * common)

    def common(self) -> float:
        """What the mixes measured so far cost over what their parts add up to, on average."""
        known = [(np.log(1 / row.sum()), misfit**-2) for row, misfit in zip(self._rows, self._misfits(), strict=True)]
        if not known:
            return 1.0
        ratios, weights = zip(*known, strict=True)
        return float(np.exp(np.average(ratios, weights=weights)))

    def _misfits(self) -> NDArray[np.float64]:
        measured = np.array(self._measured)
        return np.asarray(MISFIT * (measured / measured.min(initial=inf)) ** FURTHER)
