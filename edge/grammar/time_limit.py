"""How long a grammar may take. The native matcher follows all readings of a text at once, and some grammars of a few
letters have thousands: each token then takes seconds, in the thread that all streams wait for."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import TracebackType

from foreshore.errors import BadRequest

__all__ = ["TimeLimit"]

TOKEN_S = 1.0  # of processor time; the largest vocabulary under a plain grammar takes a tenth of it
ANSWER_S = 30.0
ENDLESS_S = 5.0  # a call that has not come back by then can only be ended with its process
WATCH_S = 0.5


class TimeLimit:
    """`with limit:` around each native call of one grammar, `next_token` between tokens. Raises `BadRequest` once too
    much was spent on one of them, or on all."""

    _running: tuple[int, float] | None = None  # the call that runs now: its thread's clock, and what that said
    _watcher: threading.Thread | None = None

    def __init__(self) -> None:
        self._all = 0.0
        self.spent = 0.0  # on this token, so far
        self._clock = _clock()
        cls = TimeLimit
        if cls._watcher is None or not cls._watcher.is_alive():
            cls._watcher = threading.Thread(target=_watch, name="grammar-watch", daemon=True)
            cls._watcher.start()

    def next_token(self) -> None:
        self.spent = 0.0

    def __enter__(self) -> None:
        TimeLimit._running = (self._clock, time.clock_gettime(self._clock))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        running, TimeLimit._running = TimeLimit._running, None
        assert running is not None
        took = time.clock_gettime(self._clock) - running[1]
        self._all += took
        self.spent += took
        if error is None and (self.spent > TOKEN_S or self._all > ANSWER_S):
            raise BadRequest(
                "the grammar takes too long: it can read what was written in too many ways",
                hint="let each text have one reading: no repeated parts that may be empty, no equal alternatives",
                param="grammar",
            )


def _clock() -> int:
    """Of this thread's processor time, so that a busy machine fails no request."""
    if hasattr(time, "pthread_getcpuclockid"):
        return time.pthread_getcpuclockid(threading.get_ident())
    return time.CLOCK_MONOTONIC


def _watch() -> None:
    while True:
        time.sleep(WATCH_S)
        running = TimeLimit._running
        if running is not None and time.clock_gettime(running[0]) - running[1] > ENDLESS_S:
            print(f"a grammar took more than {ENDLESS_S:g} s of processor time for one token", file=sys.stderr)
            os.abort()  # a crash by what was asked: the request is blamed for it
