"""When to ask a worker for a sign of life, and when to give it up. Pure: the time is told."""

from __future__ import annotations

__all__ = ["Heartbeat"]

BOOT_S = 60.0  # of silence until the model is loaded: a library that opens may hold all threads for long
PINGS = 4  # in the time that a worker may be silent


class Heartbeat:
    """`turn` at each turn of the loop, `heard` whenever the worker said something, then look at the rest."""

    def __init__(self, limit_s: float, now: float) -> None:
        self._beat, self._limit_s = limit_s / PINGS, limit_s
        self._heard = self._last_turn = now
        self._loaded = False
        self._pings = 0

    def turn(self, now: float) -> None:
        """A pause of our own (SIGSTOP, a sleeping laptop) says nothing about the worker."""
        if now - self._last_turn > 2 * self._beat + 1:
            self._heard, self._pings = now, 0
        self._last_turn = now

    def heard(self, now: float, *, loaded: bool = True) -> None:
        """`loaded`: whether it can take requests by now."""
        self._heard, self._loaded, self._pings = now, self._loaded or loaded, 0

    def ping(self, now: float) -> int | None:
        """The number to ask with, when it is time to ask."""
        if now < self._next_ping:
            return None
        self._pings += 1
        return self._pings

    def lost(self, now: float) -> bool:
        return now >= self._end

    def wait_s(self, now: float) -> float:
        """Until something is due."""
        return max(0.0, min(self._next_ping, self._end) - now)

    @property
    def _next_ping(self) -> float:
        return self._heard + self._beat * (self._pings + 1)

    @property
    def _end(self) -> float:
        return self._heard + (self._limit_s if self._loaded else BOOT_S)
