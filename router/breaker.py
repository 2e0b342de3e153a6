"""Keeps requests away from a target that fails, and lets one through now and then to see whether it is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

__all__ = ["Breaker"]

Clock = Callable[[], float]


class Breaker:
    """Closed until `threshold` failures in a row; then open for a wait that doubles up to `longest`; then one probe.

    `hold` opens it until a moment the target named itself (Retry-After); a later moment wins over an earlier one.
    Every `admit` that returns True is answered by exactly one of `succeed`, `fail` or `release`.
    """

    def __init__(
        self, *, threshold: int = 3, wait: float = 5.0, longest: float = 120.0, clock: Clock = time.monotonic
    ) -> None:
        self._threshold, self._first_wait, self._longest, self._clock = threshold, wait, longest, clock
        self._failures = 0
        self._wait = wait
        self._open_until = 0.0  # 0: closed
        self._probing = False

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        if not self._open_until:
            return "closed"
        return "open" if self._clock() < self._open_until else "half-open"

    @property
    def retry_after(self) -> float:
        """Seconds until a request may be tried; 0 if one may now."""
        return max(0.0, self._open_until - self._clock()) if self._open_until else 0.0

    def admit(self) -> bool:
        if self.state == "closed":
            return True
        if self.state == "open" or self._probing:
            return False
        self._probing = True
        return True

    def succeed(self) -> None:
        self._failures, self._wait, self._open_until, self._probing = 0, self._first_wait, 0.0, False

    def fail(self) -> None:
        self._failures += 1
        was_probe, self._probing = self._probing, False
        if was_probe or self._failures >= self._threshold:
            self._open_until = max(self._open_until, self._clock() + self._wait)
            self._wait = min(self._wait * 2, self._longest)

    def release(self) -> None:
        """The attempt ended without a verdict: cancelled, or refused for the request's own sake."""
        self._probing = False

    def hold(self, seconds: float) -> None:
        self._probing = False
        self._open_until = max(self._open_until, self._clock() + min(seconds, self._longest))
