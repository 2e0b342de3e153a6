"""Simpler forecasts of the time to first token, each a thing that routers in use do, on the same answers."""

from __future__ import annotations

import heapq
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from benchmarks.latency_live import Sample

__all__ = ["BASELINES", "Baseline", "foretold"]

UNKNOWN_S = 0.05  # before a target's first answer


class Baseline(Protocol):
    """Of one target."""

    def predict(self, sample: Sample) -> float: ...
    def learn(self, sample: Sample) -> None: ...


class Mean:
    """Of all so far."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def predict(self, sample: Sample) -> float:
        return self._sum / self._count if self._count else UNKNOWN_S

    def learn(self, sample: Sample) -> None:
        self._sum += sample.ttft_s
        self._count += 1


class Ewma:
    """An exponentially weighted mean, a fifth of it the newest."""

    def __init__(self) -> None:
        self._mean = 0.0

    def predict(self, sample: Sample) -> float:
        return self._mean or UNKNOWN_S

    def learn(self, sample: Sample) -> None:
        self._mean = self._mean + 0.2 * (sample.ttft_s - self._mean) if self._mean else sample.ttft_s


class Median:
    """Of the last hundred."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=100)

    def predict(self, sample: Sample) -> float:
        return statistics.median(self._last) if self._last else UNKNOWN_S

    def learn(self, sample: Sample) -> None:
        self._last.append(sample.ttft_s)


class Rate:
    """This prompt's tokens and those before it, at the mean rate so far."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    def predict(self, sample: Sample) -> float:
        return self._ahead(sample) * self._seconds / self._tokens if self._tokens else UNKNOWN_S

    def learn(self, sample: Sample) -> None:
        self._tokens += self._ahead(sample)
        self._seconds += sample.ttft_s

    def _ahead(self, sample: Sample) -> int:
        return max(1, sample.work.prompt_tokens + sample.work.waiting_tokens)


BASELINES: dict[str, Callable[[], Baseline]] = {
    "running mean": Mean,
    "ewma": Ewma,
    "median of 100": Median,
    "tokens at the mean rate": Rate,
}


def foretold(run: Sequence[Sample], make: Callable[[], Baseline]) -> list[tuple[Sample, float]]:
    """Each answer of a run with what a baseline says when it is asked for, having learned of all that had ended."""
    models = {name: make() for name in {sample.target for sample in run}}
    ended: list[tuple[float, int, Sample]] = []
    found = []
    for i, sample in enumerate(sorted(run, key=lambda s: s.sent)):
        while ended and ended[0][0] <= sample.sent:
            _, _, other = heapq.heappop(ended)
            models[other.target].learn(other)
        found.append((sample, models[sample.target].predict(sample)))
        heapq.heappush(ended, (sample.ended, i, sample))
    return found
