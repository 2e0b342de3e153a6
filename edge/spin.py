"""Whether threads that meet at a barrier should spin there, or soon go to sleep. Pure: times are told.

A thread that spins sees the others at once, and holds a processor that it does not use. While a model has its
processors to itself that costs nothing, and waking would. Beside other work it takes the processor from the very
thread it waits for.
"""

from __future__ import annotations

import math

__all__ = ["Spin"]

# Shares of one thread's time that all threads of a model spend ready to run and without a processor, as measured in
# benchmarks/LOG.md ("a spin that gives way"): 0.1 to 0.2 by our own gateway and clients on two cores, and 0.2 with a
# busy program of a fourteenth of our weight besides, where spinning is the faster; 0.36 with one of a fifth, where it
# no longer is; 0.9 to 1.0 with one of the same weight, where it costs more than half. How they wait changes it little.
CROWDED = 0.45
FREE = 0.3
BLEND_S = 0.15  # how long a burst of others' work counts while threads spin
PATIENCE_S = 0.3  # how long it must have been free on average before spinning is tried again
MAX_PATIENCE_S = 30.0
TRIAL_S = 1.0  # spinning that has gone well for so long was right


class Spin:
    """`observe` now and then while work is done; `long` says how to wait. Spinning that soon turns out wrong is tried
    again after twice the patience."""

    def __init__(self) -> None:
        self.long = True
        self._patience_s = PATIENCE_S
        self._waited_s = self._elapsed_s = self._lately = 0.0

    def observe(self, waited_s: float, elapsed_s: float) -> None:
        """In `elapsed_s` the threads that compute were ready to run, and did not run, for `waited_s` in all."""
        if elapsed_s <= 0:
            return
        share = min(1.0, waited_s / elapsed_s)  # a thread that waited for long says so when it runs again
        self._waited_s += share * elapsed_s
        self._elapsed_s += elapsed_s
        self._lately = share + (self._lately - share) * math.exp(-elapsed_s / BLEND_S)
        if self.long:
            self._spin()
        elif self._elapsed_s >= self._patience_s:
            self._sleep()

    def _spin(self) -> None:
        if self._elapsed_s >= TRIAL_S:
            self._patience_s = PATIENCE_S
        if self._lately > CROWDED:
            self.long = False
            self._begin()

    def _sleep(self) -> None:
        if self._waited_s < FREE * self._elapsed_s:
            self.long = True
            self._patience_s = min(MAX_PATIENCE_S, 2 * self._patience_s)
        self._begin()

    def _begin(self) -> None:
        """A time to judge by begins."""
        self._waited_s = self._elapsed_s = self._lately = 0.0
