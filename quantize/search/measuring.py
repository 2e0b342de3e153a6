"""Measures mixes side by side, within a budget, keeping what was measured; and tells how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isnan

import numpy as np

from foreshore.quantize.search.measurements import Measurements
from foreshore.quantize.search.meter import Meter, Meters, Mix

__all__ = ["Measuring", "OnSteps", "Pair", "Steps"]

OnSteps = Callable[[int, int], None]  # is told the steps done, and of how many
Pair = tuple[str, str]  # tensor and type


class Steps:
    """Counts towards a total that is set once, and knows what is left of the budget."""

    def __init__(self, tell: OnSteps, budget_s: float) -> None:
        self._tell, self._deadline = tell, time.monotonic() + budget_s
        self.done = self.total = 0

    def plan(self, further: int) -> None:
        """There are so many steps from here on."""
        self.total = self.done + further
        self._tell(self.done, self.total)

    def step(self, count: int = 1) -> None:
        self.done += count
        if self.total:
            self._tell(min(self.done, self.total), self.total)

    @property
    def left_s(self) -> float:
        return self._deadline - time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Measuring:
    meters: Meters
    record: Measurements
    steps: Steps

    def windows(self, tokens: int) -> int:
        """How many of the windows hold so many tokens; all, if together they have fewer."""
        sizes = self.meters.first.tokens
        return min(int(np.searchsorted(np.cumsum(sizes), tokens)) + 1, len(sizes))

    def tokens(self, windows: int) -> int:
        return sum(self.meters.first.tokens[:windows])

    def kl(
        self, mixes: Sequence[Mix], windows: int, *, always: bool = False, keep_s: float = 0.0
    ) -> list[float | None]:
        """Mean nats a token of each mix; infinite where it computes no numbers, `None` where no more than `keep_s`
        of the budget was left (`always`: measured even then)."""
        keys = [{"mix": dict(mix), "windows": windows} for mix in mixes]
        found = [self.record.get(key) for key in keys]
        missing = [i for i, kl in enumerate(found) if kl is None]
        self.steps.step(len(mixes) - len(missing))
        jobs = [partial(_divergences, mix=mixes[i], windows=windows) for i in missing]
        tasks = jobs if always else [self._in_time(job, keep_s) for job in jobs]
        for number, sums in self.meters.map(tasks):
            if sums is not None:
                kl = sum(sums) / self.tokens(windows)
                found[missing[number]] = kl = inf if isnan(kl) else kl
                self.record.put(keys[missing[number]], kl)
            self.steps.step()
        return found

    def errors(self, pairs: Sequence[Pair], *, keep_s: float = 0.0) -> list[tuple[Pair, float]]:
        """The rounding error of each pair, a step for each tensor; what there was no time for is left out."""
        tensors: dict[str, list[Pair]] = {}
        for pair in pairs:
            tensors.setdefault(pair[0], []).append(pair)
        groups = list(tensors.values())
        found: list[tuple[Pair, float]] = []
        tasks = [self._in_time(partial(self._errors, pairs=group), keep_s) for group in groups]
        for number, errors in self.meters.map(tasks):
            found += zip(groups[number], errors or (), strict=bool(errors))
            self.steps.step()
        return found

    def _errors(self, meter: Meter, pairs: Sequence[Pair]) -> list[float]:
        keys = [{"error": list(pair)} for pair in pairs]
        known = [e for key in keys if (e := self.record.get(key)) is not None]
        if len(known) == len(pairs):
            return known
        found = meter.errors(pairs)
        for key, error in zip(keys, found, strict=True):
            self.record.put(key, error)
        return found

    def _in_time(
        self, task: Callable[[Meter], Sequence[float]], keep_s: float
    ) -> Callable[[Meter], Sequence[float] | None]:
        return lambda meter: task(meter) if self.steps.left_s > keep_s else None


def _divergences(meter: Meter, mix: Mix, windows: int) -> Sequence[float]:
    return meter.divergences(mix, windows)
