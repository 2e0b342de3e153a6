"""How many threads models may compute with, by battery, heat and the load that others make.

A processor that is hot or on its last battery slows down by itself, at the cost of all that runs on it: with half the
threads a model of this size loses less than half its speed, for memory bounds it more than arithmetic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from foreshore.edge.sensors import Reading
from foreshore.telemetry import logger

__all__ = ["Governed", "Governor", "Thresholds", "Throttle"]

# How far a value must come back before all threads run again, so that it does not flicker at its threshold.
BATTERY_BACK = 5.0
CELSIUS_BACK = 5.0
BUSY_BACK = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """`None` is off. `share` of its threads is what a model keeps."""

    battery_percent: float | None = None
    celsius: float | None = None
    busy_percent: float | None = None
    share: float = 0.5


class Governed(Protocol):
    """What has threads to spare. `None` gives it all its own again."""

    @property
    def thread_count(self) -> int: ...
    def set_threads(self, threads: int | None) -> None: ...


class Throttle:
    """The rule, apart from where the values come from. Remembers what holds it back: `reasons`."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.reasons: frozenset[str] = frozenset()

    def update(self, reading: Reading) -> None:
        limits = self.thresholds
        battery = None if reading.plugged else reading.battery_percent
        found = {
            "battery": _under(battery, limits.battery_percent, "battery" in self.reasons),
            "heat": _over(reading.celsius, limits.celsius, CELSIUS_BACK, "heat" in self.reasons),
            "busy": _over(reading.busy_percent, limits.busy_percent, BUSY_BACK, "busy" in self.reasons),
        }
        self.reasons = frozenset(reason for reason, holds in found.items() if holds)

    def threads(self, full: int) -> int | None:
        """What one with `full` threads should use now; `None`: all of them."""
        return max(1, int(full * self.thresholds.share)) if self.reasons else None


class Governor:
    """Samples in a thread of its own, never on a request's path, and tells each of `governed` its threads."""

    def __init__(
        self,
        thresholds: Thresholds,
        sense: Callable[[], Reading],
        governed: Callable[[], Iterable[Governed]],
        *,
        every_s: float,
    ) -> None:
        self.throttle = Throttle(thresholds)
        self._sense, self._governed, self._every_s = sense, governed, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="foreshore-governor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Give all threads back. Blocks until it has ended."""
        self._stopping.set()
        self._thread.join()
        for one in self._governed():
            one.set_threads(None)

    def turn(self) -> None:
        """One sample, and what follows from it."""
        before = self.throttle.reasons
        self.throttle.update(self._sense())
        for one in self._governed():
            one.set_threads(self.throttle.threads(one.thread_count))
        if before != (now := self.throttle.reasons):
            logger.warning(
                "models compute with %s threads: %s", "fewer" if now else "all", ", ".join(now) or "as usual"
            )

    def _run(self) -> None:
        absent = _absent(self.throttle.thresholds, self._sense())
        if absent:
            logger.warning("runtime.throttle: this machine does not tell its %s", " or ".join(absent))
        while not self._stopping.is_set():
            self.turn()
            self._stopping.wait(self._every_s)


def _under(value: float | None, limit: float | None, held: bool) -> bool:
    return value is not None and limit is not None and value < limit + (BATTERY_BACK if held else 0)


def _over(value: float | None, limit: float | None, back: float, held: bool) -> bool:
    return value is not None and limit is not None and value > limit - (back if held else 0)


def _absent(limits: Thresholds, reading: Reading) -> list[str]:
    """What is to be watched and cannot be."""
    watched = {
        "battery": (limits.battery_percent, reading.battery_percent),
        "temperature": (limits.celsius, reading.celsius),
    }
    return [name for name, (limit, value) in watched.items() if limit is not None and value is None]
