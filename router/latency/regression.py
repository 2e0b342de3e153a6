"""How long something takes, as a sum of what its parts cost: learned one outcome at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul

__all__ = ["Regression"]

CLIP = 1.5  # robust deviations; a residual beyond counts as so many (Huber)
FIRST_SCALE = 0.4  # of residuals, as a logarithm of seconds, until some were seen
SCALE_WEIGHT = 0.03  # of the newest residual
LEAST_SCALE, MOST_SCALE = 0.03, 1.0
TINY_S = 1e-5  # no prediction is shorter
KEEP = 1 - 1 / 300  # of what is known, from one outcome to the next: about the last 300 matter
KEEP_CHANGED = 0.1  # of it, where the world changed


class Regression:
    """Seconds are a weighted sum of features; features and weights are >= 0, for more work never takes less time.

    Least squares of *relative* errors, with forgetting: 10 ms instead of 5 is as wrong as 10 s instead of 5. Residuals
    are clipped in the logarithm, so that a stall counts as an ordinary error. The weights are held to what they began
    at by a ridge, which matters while a feature is rare, and found by coordinate descent on the normal equations: a
    convex problem with bounds, which no sequence of outcomes can make unstable, as it can recursive least squares.
    """

    def __init__(self, weights: Sequence[float], deviations: Sequence[float]) -> None:
        """`weights` to begin with, in seconds per unit of each feature, and how far off each may be."""
        self.weights = list(weights)
        self.scale = FIRST_SCALE
        self._first = list(weights)
        self._ridge = [(FIRST_SCALE / deviation) ** 2 for deviation in deviations]
        self._square = [[0.0] * len(weights) for _ in weights]  # sums of feature * feature / expected^2
        self._seen = [0.0] * len(weights)  # of feature * seconds / expected^2

    def predict(self, features: Sequence[float]) -> float:
        """Seconds, more than 0."""
        seconds = sum(map(mul, self.weights, features))
        return seconds if seconds > TINY_S else TINY_S

    def learn(self, features: Sequence[float], seconds: float) -> float:
        """Take an outcome in; returns the logarithm of outcome / prediction as it was before."""
        expected = self.predict(features)
        residual = math.log(max(seconds, TINY_S) / expected)
        bound = CLIP * self.scale
        size = min(1.2533 * abs(residual), 3.0 * self.scale)  # 1.2533: from a mean size to a normal's deviation
        self.scale = min(MOST_SCALE, max(LEAST_SCALE, self.scale + SCALE_WEIGHT * (size - self.scale)))
        self._add([f / expected for f in features], math.exp(max(-bound, min(bound, residual))))
        self._solve()
        return residual

    def heir(self) -> Regression:
        """One that begins where this one is."""
        return Regression(self.weights, [FIRST_SCALE / math.sqrt(ridge) for ridge in self._ridge])

    def change(self, factor: float) -> None:
        """The world changed, and most likely for all costs alike: a hot processor, a busy machine, a far network. Move
        all of them by `factor`, and forget most of what was known."""
        self.weights = [w * factor for w in self.weights]
        self._first = [w * factor for w in self._first]
        self._ridge = [r / factor**2 for r in self._ridge]
        self._square = [[v * KEEP_CHANGED / factor**2 for v in row] for row in self._square]
        self._seen = [v * KEEP_CHANGED / factor for v in self._seen]

    def _add(self, slope: list[float], ratio: float) -> None:
        """`slope` are the features over the expected seconds, `ratio` the outcome over them."""
        for i, feature in enumerate(slope):
            self._square[i] = [KEEP * old + feature * other for old, other in zip(self._square[i], slope, strict=True)]
            self._seen[i] = KEEP * self._seen[i] + feature * ratio

    def _solve(self) -> None:
        """One sweep over the weights; they begin where the one after the last outcome left them."""
        weights = self.weights
        for i, row in enumerate(self._square):
            ridge, old = self._ridge[i], weights[i]
            slope = self._seen[i] - sum(map(mul, row, weights)) + ridge * (self._first[i] - old)
            new = old + slope / (row[i] + ridge)
            weights[i] = new if new > 0.0 else 0.0
