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
FORGET = 1 / 300  # about the last 300 outcomes matter
LOOSE = 12  # outcomes after `loosen` that are taken whole
JUMP = 2.5  # and how far beyond the scale they may pull


class Regression:
    """Seconds are a weighted sum of features; features and weights are >= 0, for more work never takes less time.

    Recursive least squares with forgetting on the *logarithm* of seconds, each step linearised at its prediction (an
    extended Kalman filter for a random walk of the weights): 10 ms instead of 5 is as wrong as 10 s instead of 5, and
    a stall counts no more than a few ordinary errors. No weight ever becomes less certain than it began, so that
    features that stay away for long do not blow up.
    """

    def __init__(self, weights: Sequence[float], deviations: Sequence[float]) -> None:
        """`weights` to begin with, in seconds per unit of each feature, and how far off each may be."""
        self.weights = list(weights)
        self.scale = FIRST_SCALE
        self._first = [(d / FIRST_SCALE) ** 2 for d in deviations]
        self._spread = [[v if i == j else 0.0 for j in range(len(weights))] for i, v in enumerate(self._first)]
        self._loose = 0

    def predict(self, features: Sequence[float]) -> float:
        """Seconds, more than 0."""
        seconds = sum(map(mul, self.weights, features))
        return seconds if seconds > TINY_S else TINY_S

    def learn(self, features: Sequence[float], seconds: float) -> float:
        """Take an outcome in; returns the logarithm of outcome / prediction as it was before."""
        expected = self.predict(features)
        residual = math.log(max(seconds, TINY_S) / expected)
        size = abs(residual)
        bound = CLIP * self.scale
        if self._loose:
            self._loose -= 1
            bound = JUMP
        self.scale += SCALE_WEIGHT * (
            min(1.2533 * size, 3 * self.scale) - self.scale
        )  # 1.2533: to a normal's deviation
        self.scale = min(MOST_SCALE, max(LEAST_SCALE, self.scale))
        self._update([f / expected for f in features], max(-bound, min(bound, residual)))
        return residual

    def loosen(self) -> None:
        """The world changed: believe the weights as little as at the start, and the next outcomes whole."""
        for i, row in enumerate(self._spread):
            row[i] = self._first[i] = max(self._first[i], (self.weights[i] / FIRST_SCALE) ** 2)
            row[:i] = [0.0] * i
            row[i + 1 :] = [0.0] * (len(row) - i - 1)
        self._loose = LOOSE

    def _update(self, slope: list[float], error: float) -> None:
        """`slope` is the derivative of the logarithm by each weight. Variances are in units of the noise's."""
        spread = self._spread
        along = [sum(map(mul, row, slope)) for row in spread]
        whole = 1.0 + sum(map(mul, slope, along))
        step = error / whole
        self.weights = [w if (w := old + step * a) > 0.0 else 0.0 for old, a in zip(self.weights, along, strict=True)]
        for i, row in enumerate(spread):
            share = along[i] / whole
            for j in range(i + 1):
                row[j] = spread[j][i] = (row[j] - share * along[j]) * (1.0 + FORGET)
        for i, most in enumerate(self._first):
            if (variance := spread[i][i]) > most:
                _shrink(spread, i, math.sqrt(most / variance))


def _shrink(spread: list[list[float]], i: int, by: float) -> None:
    """Scale the i-th row and column: the matrix stays positive semidefinite."""
    row = spread[i]
    for j in range(len(row)):
        row[j] *= by
        if j != i:
            spread[j][i] = row[j]
    row[i] *= by
