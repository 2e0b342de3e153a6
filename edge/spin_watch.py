"""How long a model's threads spin at barriers, by how long they waited for processors: looked at while it works."""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import suppress

from foreshore.edge.spin import Spin
from foreshore.edge.spin_crowd import Crowd

__all__ = ["SpinWatch", "prepare_spin", "watch_spin"]

EVERY_S = 0.05  # how often it looks
# Counts of GNU OpenMP's loop, 28 to 50 ns each: half a millisecond or more, and a twentieth of that. Beside more
# threads than processors it counts to a number of its own: 1,000 where it is told to wait actively, else 100.
LONG, SHORT = "20000", "1000"
_COUNT, _POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
_TASKS = "/proc/self/task"


class SpinWatch:
    """One thread owns this, and `crowd` with it."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._spin = Spin()
        self._waited: dict[str, int] = {}
        self._at = float("-inf")

    def turn(self, now: float, threads: int) -> None:
        """Look, if it is time to, and make the spin of `threads` long or short."""
        if now < self._at + EVERY_S:
            return
        waited, elapsed_s = _waited(), now - self._at
        passed = sum(ns - self._waited[task] for task, ns in waited.items() if task in self._waited)
        known, self._waited, self._at = bool(self._waited), waited, now
        if known:
            self._spin.observe(passed / 1e9, elapsed_s)
        if self._spin.long:
            self._crowd.disperse()
        else:
            self._crowd.gather(threads)


def prepare_spin() -> bool:
    """Say how long threads spin, before GNU OpenMP is loaded, which reads it once. Whether it may change later: not
    where the user has said how to wait, or the system does not tell how long threads waited."""
    if _COUNT in os.environ or _POLICY in os.environ:
        return False
    changes = bool(_waited())
    os.environ[_COUNT] = LONG if changes else SHORT
    if changes:
        os.environ[_POLICY] = "active"
    return changes


def watch_spin(library: ctypes.CDLL | None) -> SpinWatch | None:
    """After `prepare_spin` and before the `library` computes. `None` where its threads are not GNU OpenMP's."""
    try:
        if library is not None:
            return SpinWatch(Crowd(library))
    except OSError:
        pass
    os.environ.pop(_POLICY, None)  # others read it when they first compute, and would wait actively for ever
    return None


def _waited() -> dict[str, int]:
    """Nanoseconds that each thread that computes has waited for a processor so far, the second number of its schedstat;
    empty where the system does not tell. All threads that Python did not start compute, and the main one."""
    ours = {str(t.native_id) for t in threading.enumerate() if t is not threading.main_thread()}
    waited = {}
    with suppress(OSError, ValueError, IndexError):
        for task in os.listdir(_TASKS):
            if task not in ours:
                with suppress(ProcessLookupError, FileNotFoundError):  # it has ended
                    waited[task] = int(_read(f"{_TASKS}/{task}/schedstat").split()[1])
    return waited


def _read(path: str) -> bytes:
    """Plainly: it is read twenty times a second for each thread."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, 100)
    finally:
        os.close(file)
