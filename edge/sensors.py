"""What the machine says of its battery, its heat, and how busy others keep it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

__all__ = ["Reading", "Sensors"]

# Names of drivers whose sensors sit on the processor; a disk or a network card is hot for reasons of its own.
PROCESSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "acpitz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """`None` is what the machine does not tell. `busy_percent` is of all CPUs, less what we and our workers use."""

    battery_percent: float | None = None
    plugged: bool = True
    celsius: float | None = None
    busy_percent: float | None = None


class Sensors:
    """Reads them by psutil. Loads are those since the call before, so the first one has none."""

    def __init__(self) -> None:
        self._before: tuple[float, float, float] | None = None

    def __call__(self) -> Reading:
        percent, plugged = _battery()
        return Reading(battery_percent=percent, plugged=plugged, celsius=_celsius(), busy_percent=self._busy())

    def _busy(self) -> float | None:
        times = psutil.cpu_times()
        total, idle = sum(times), times.idle + getattr(times, "iowait", 0.0)
        now = (total, total - idle, _own_seconds())
        before, self._before = self._before, now
        if before is None or total <= before[0]:
            return None
        span, busy, own = (b - a for a, b in zip(before, now, strict=True))
        return 100 * min(1.0, max(0.0, busy - max(0.0, own)) / span)


def _battery() -> tuple[float | None, bool]:
    try:
        found = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    except (OSError, RuntimeError, ValueError):  # a driver that answers nonsense
        found = None
    return (None, True) if found is None else (float(found.percent), bool(found.power_plugged))


def _celsius() -> float | None:
    try:
        found = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    except (OSError, RuntimeError, ValueError):
        return None
    values = [s.current for name in PROCESSORS for s in found.get(name, ()) if s.current is not None]
    return max(values, default=None)


def _own_seconds() -> float:
    """CPU time of this process and of the workers that run."""
    seconds = sum(os.times()[:2])
    for child in psutil.Process().children():
        try:
            used = child.cpu_times()
        except psutil.Error:
            continue
        seconds += used.user + used.system
    return seconds
