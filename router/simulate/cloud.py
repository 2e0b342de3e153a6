"""A provider, simulated: each answer has a TTFT and a TPOT of its own, drawn from lognormal distributions; beyond its
limits it refuses and says when to come back.

Limits per minute are buckets of one minute's worth that fill evenly. The n-th request of a trace has the same luck
whatever a policy does before it, so that two policies can be compared in pairs.
"""

from __future__ import annotations

import heapq
import itertools
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foreshore.edge.options import Load
from foreshore.router.simulate.job import NEVER, Job, Moment, Refusal
from foreshore.router.simulate.speed import CloudSpeed

__all__ = ["CloudService"]

TRIES = 10  # the most attempts that a config allows


class CloudService:
    """`Service` of a cloud target. `requests` is how many the trace has."""

    def __init__(self, name: str, speed: CloudSpeed, *, requests: int, seed: int) -> None:
        self._speed = speed
        draws = np.random.default_rng([seed, zlib.crc32(name.encode())])
        self._luck: list[list[float]] = draws.standard_normal((requests, 2)).tolist()
        self._fails: list[list[bool]] = (draws.random((requests, TRIES)) < speed.error_rate).tolist()
        self._agenda: list[tuple[float, int, Literal["first", "end", "error"], Job]] = []
        self._in_flight: dict[Job, tuple[float, float]] = {}  # its first token and its end
        self._numbers = itertools.count()
        self._requests = _Bucket.of(speed.requests_per_minute)
        self._tokens = _Bucket.of(speed.tokens_per_minute)
        self._now = self._busy_s = self._stream_s = 0.0
        self.next_at = NEVER

    def step(self) -> Moment:
        self._go_to(self.next_at)
        at, _, kind, job = heapq.heappop(self._agenda)
        if kind != "first":
            del self._in_flight[job]
        if kind == "end":
            job.tokens = job.output_tokens
        self._look_ahead()
        return Moment(at, kind, job)

    def offer(self, job: Job, now: float) -> Refusal | None:
        self._go_to(now)
        if self._speed.concurrency is not None and len(self._in_flight) >= self._speed.concurrency:
            return Refusal(code="overloaded")
        tokens = job.prompt_tokens + job.output_tokens
        wait_s = max(self._requests.wait_s(1, now), self._tokens.wait_s(tokens, now))
        if wait_s > 0:
            return Refusal(code="overloaded", retry_after=wait_s)
        self._requests.take(1)
        self._tokens.take(tokens)
        self._plan(job, now)
        self._look_ahead()
        return None

    def cancel(self, job: Job, now: float) -> None:
        self._go_to(now)
        first, end = self._in_flight.pop(job)
        if now >= first:
            job.tokens = 1 + int((job.output_tokens - 1) * (now - first) / (end - first))
        self._look_ahead()

    def load(self, now: float) -> Load:
        return Load(running=len(self._in_flight))

    def busy_s(self, now: float) -> float:
        self._go_to(now)
        return self._busy_s

    def stream_s(self, now: float) -> float:
        self._go_to(now)
        return self._stream_s

    def _plan(self, job: Job, now: float) -> None:
        """An entry on the agenda for its first token and one for its end, or one for its failure."""
        first_z, each_z = self._luck[job.number]
        first = now + self._speed.ttft_s.at(first_z)
        end = first + (job.output_tokens - 1) * self._speed.tpot_s.at(each_z)
        self._in_flight[job] = (first, end)
        if self._fails[job.number][min(job.attempts, TRIES) - 1]:
            heapq.heappush(self._agenda, (first, next(self._numbers), "error", job))
            return
        if job.output_tokens > 1:
            heapq.heappush(self._agenda, (first, next(self._numbers), "first", job))
        heapq.heappush(self._agenda, (end, next(self._numbers), "end", job))

    def _look_ahead(self) -> None:
        """Past those that were cancelled."""
        while self._agenda and self._agenda[0][3] not in self._in_flight:
            heapq.heappop(self._agenda)
        self.next_at = self._agenda[0][0] if self._agenda else NEVER

    def _go_to(self, now: float) -> None:
        passed = now - self._now
        if passed > 0:
            self._busy_s += passed if self._in_flight else 0.0
            self._stream_s += passed * len(self._in_flight)
            self._now = now


@dataclass(slots=True)
class _Bucket:
    """Holds up to `size`, filled at `rate` a second."""

    size: float
    rate: float
    level: float
    at: float = 0.0

    @classmethod
    def of(cls, per_minute: float | None) -> _Bucket:
        size = NEVER if per_minute is None else per_minute
        return cls(size, size / 60, size)

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` could be taken; what is more than it ever holds waits until it is full."""
        if self.size == NEVER:
            return 0.0
        self.level = min(self.size, self.level + (now - self.at) * self.rate)
        self.at = now
        missing = min(amount, self.size) - self.level
        return missing / self.rate if missing > 1e-9 * self.size else 0.0

    def take(self, amount: float) -> None:
        if self.size != NEVER:
            self.level -= amount
