"""Quantiles of a stream of numbers that keep their promise whatever the numbers do."""

from __future__ import annotations

import math
from bisect import bisect_right

__all__ = ["LEVELS", "Distribution", "Quantiles"]

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98)
NORMAL = (-2.054, -1.645, -1.282, -0.842, -0.385, 0.0, 0.385, 0.842, 1.282, 1.645, 2.054)
STEP, FIRST_STEP = 0.06, 0.5  # of a deviation, in the long run and at first
SLOWER = 0.96  # from one outcome to the next
FURTHEST = 12.0  # deviations; where a quantile stops
EDGE = 0.35  # deviations beyond the outermost quantile within which the rest of the probability falls by e


class Quantiles:
    """Of standardised residuals, at `LEVELS`. Begins at a normal distribution's.

    Each outcome moves each quantile up by STEP * level if it lies above and else down by STEP * (1 - level): adaptive
    conformal inference in the form of quantile tracking (Gibbs and Candes 2021; Angelopoulos, Candes and Tibshirani
    2023). In the long run the share of outcomes below such a quantile is its level for any sequence, up to
    (the quantile's range + STEP) / (STEP * outcomes). Where two of them cross, they are given out in order.
    """

    def __init__(self) -> None:
        self.values: tuple[float, ...] = NORMAL  # ascending
        self._tracked: tuple[float, ...] = NORMAL
        self._step = FIRST_STEP

    def learn(self, residual: float) -> None:
        step = self._step
        self._step = max(STEP, step * SLOWER)
        moved = [v + step * (p if residual > v else p - 1.0) for p, v in zip(LEVELS, self._tracked, strict=True)]
        self._tracked = tuple(max(-FURTHEST, min(FURTHEST, v)) for v in moved)
        self.values = tuple(sorted(self._tracked))

    def hurry(self) -> None:
        """The world changed: move by long steps again."""
        self._step = FIRST_STEP


class Distribution:
    """Of a time: its logarithm is `centre` plus `spread` times a residual with these quantiles."""

    __slots__ = ("_centre", "_quantiles", "_spread")

    def __init__(self, centre: float, spread: float, quantiles: tuple[float, ...]) -> None:
        self._centre, self._spread, self._quantiles = centre, spread, quantiles

    @property
    def median(self) -> float:
        return math.exp(self._centre + self._spread * self._quantiles[_MIDDLE])

    @property
    def p90(self) -> float:
        return math.exp(self._centre + self._spread * self._quantiles[_NINTH])

    def error(self, seconds: float) -> float:
        """The logarithm of `seconds` over the centre."""
        return math.log(seconds) - self._centre

    def place(self, seconds: float) -> float:
        """The same in spreads: the residual that `Quantiles` learns."""
        return (math.log(seconds) - self._centre) / self._spread

    def quantile(self, level: float) -> float:
        """Seconds that the time stays below with probability `level`, more than 0 and less than 1."""
        values = self._quantiles
        if level <= LEVELS[0]:
            place = values[0] + EDGE * math.log(level / LEVELS[0])
        elif level >= LEVELS[-1]:
            place = values[-1] - EDGE * math.log((1.0 - level) / (1.0 - LEVELS[-1]))
        else:
            i = bisect_right(LEVELS, level)
            low, high = LEVELS[i - 1], LEVELS[i]
            place = values[i - 1] + (values[i] - values[i - 1]) * (level - low) / (high - low)
        return math.exp(self._centre + self._spread * place)

    def within(self, seconds: float) -> float:
        """The probability that the time is at most `seconds`."""
        if not seconds > 0.0:
            return 0.0
        if seconds == math.inf:
            return 1.0
        values = self._quantiles
        place = (math.log(seconds) - self._centre) / self._spread
        i = bisect_right(values, place)
        if i == 0:
            return LEVELS[0] * math.exp((place - values[0]) / EDGE)
        if i == len(values):
            return 1.0 - (1.0 - LEVELS[-1]) * math.exp((values[-1] - place) / EDGE)
        low, high = values[i - 1], values[i]
        share = (place - low) / (high - low)
        return LEVELS[i - 1] + share * (LEVELS[i] - LEVELS[i - 1])


_MIDDLE, _NINTH = LEVELS.index(0.5), LEVELS.index(0.9)
