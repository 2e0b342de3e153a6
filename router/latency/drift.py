"""Notices that a stream of standardised residuals has moved away from 0."""

from __future__ import annotations

__all__ = ["Drift"]

ALLOWED = 0.4  # deviations by which residuals may lie off on average without anything having changed
LIMIT = 20.0  # sum of deviations beyond that at which it has
CLIP = 3.0  # deviations that one residual counts at most, so that it takes several
REST = 20  # outcomes after a change that are not looked at: what follows it is still settling


class Drift:
    """Page's test (1954), in Hinkley's form for both directions: sums of residuals less what is allowed, never below
    0. A shift by three deviations is found after eight outcomes; one in twenty stalls never is."""

    def __init__(self) -> None:
        self._up = self._down = 0.0
        self._rest = 0

    def learn(self, residual: float) -> bool:
        """Whether the change is certain enough now; then the test begins anew."""
        if self._rest:
            self._rest -= 1
            return False
        residual = max(-CLIP, min(CLIP, residual))
        self._up = max(0.0, self._up + residual - ALLOWED)
        self._down = max(0.0, self._down - residual - ALLOWED)
        if max(self._up, self._down) < LIMIT:
            return False
        self._up, self._down, self._rest = 0.0, 0.0, REST
        return True
