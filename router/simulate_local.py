"""This machine, simulated: continuous batching with a bounded number of slots and a queue.

Each step computes one token of every running stream. While a prompt is read beside streams, a step takes `gap_target`
times as long as one without, and what it takes longer goes to the prompt: the share 1 - 1 / gap_target. Prompts are
read one after the other, first come first served. Between an arrival and the next completion all rates are constant,
so a step of the simulation is a completion, not a token.

Not modelled: tenants' shares and service tiers, kept prefixes, room in the cache, attention's growth with length.
"""

from __future__ import annotations

import heapq
import itertools
import math

from foreshore.edge.options import Load
from foreshore.router.simulate_job import NEVER, Job, Moment, Refusal
from foreshore.router.simulate_speed import LocalSpeed

__all__ = ["LocalService"]


class LocalService:
    """`Service` of a local target."""

    def __init__(self, speed: LocalSpeed) -> None:
        self._speed = speed
        self._steps = [speed.step_s(n) for n in range(1, speed.slots + 1)]
        self._now = 0.0
        self._waiting: dict[Job, None] = {}
        self._reading: dict[Job, float] = {}  # prompt tokens left; the first one's are being computed
        self._decoding: dict[Job, float] = {}  # where the token clock stands when it ends
        self._ends: list[tuple[float, int, Job]] = []  # heap of the same; may hold jobs that were cancelled
        self._tokens = 0.0  # the token clock: how many each stream would have got since the beginning
        self._numbers = itertools.count()
        self._waiting_tokens = 0
        self._busy_s = self._stream_s = 0.0

    @property
    def next_at(self) -> float:
        prefill, decode = self._rates()
        read = self._now + next(iter(self._reading.values())) / prefill if self._reading else NEVER
        end = self._first_end()
        return min(read, NEVER if end is None else self._now + max(0.0, end[0] - self._tokens) / decode)

    def step(self) -> Moment:
        prefill, decode = self._rates()
        read = self._now + next(iter(self._reading.values())) / prefill if self._reading else NEVER
        end = self._first_end()
        if end is None or read <= self._now + max(0.0, end[0] - self._tokens) / decode:
            self._go_to(read)
            return self._read()
        self._go_to(self._now + max(0.0, end[0] - self._tokens) / decode)
        self._tokens = max(self._tokens, end[0])  # exactly, whatever was rounded
        del self._decoding[end[2]]
        self._admit()
        return Moment(self._now, "end", end[2])

    def offer(self, job: Job, now: float) -> Refusal | None:
        self._go_to(now)
        speed = self._speed
        if speed.context_tokens is not None and job.prompt_tokens >= speed.context_tokens:
            return Refusal(code="context_length_exceeded")
        if len(self._reading) + len(self._decoding) >= speed.slots:
            wait_s = self._waiting_tokens / speed.prefill_tokens_per_s
            if len(self._waiting) >= speed.queue_limit:
                return Refusal(code="overloaded", retry_after=wait_s)
            if wait_s > speed.queue_wait_s:
                return Refusal(code="overloaded", retry_after=wait_s - speed.queue_wait_s)
        self._waiting[job] = None
        self._waiting_tokens += job.prompt_tokens
        self._admit()
        return None

    def cancel(self, job: Job, now: float) -> None:
        self._go_to(now)
        if job in self._waiting:
            del self._waiting[job]
            self._waiting_tokens -= job.prompt_tokens
        elif job in self._reading:
            del self._reading[job]
        else:
            job.tokens -= math.ceil(self._decoding.pop(job) - self._tokens)
        self._admit()

    def load(self, now: float) -> Load:
        self._go_to(now)
        return Load(
            waiting=len(self._waiting),
            running=len(self._reading) + len(self._decoding),
            waiting_tokens=self._waiting_tokens + round(sum(self._reading.values())),
            prefill_tokens_per_s=self._speed.prefill_tokens_per_s,
            decode_tokens_per_s=len(self._decoding) * self._rates()[1],
        )

    def busy_s(self, now: float) -> float:
        self._go_to(now)
        return self._busy_s

    def stream_s(self, now: float) -> float:
        self._go_to(now)
        return self._stream_s

    def _read(self) -> Moment:
        """The first prompt is read: its first token is there."""
        job = next(iter(self._reading))
        del self._reading[job]
        job.tokens = self._answer(job)
        if job.tokens > 1:
            self._decoding[job] = end = self._tokens + job.tokens - 1
            heapq.heappush(self._ends, (end, next(self._numbers), job))
            return Moment(self._now, "first", job)
        self._admit()
        return Moment(self._now, "end", job)

    def _answer(self, job: Job) -> int:
        """How long its answer gets: the context cuts it."""
        if self._speed.context_tokens is None:
            return job.output_tokens
        return min(job.output_tokens, self._speed.context_tokens - job.prompt_tokens)

    def _admit(self) -> None:
        while self._waiting and len(self._reading) + len(self._decoding) < self._speed.slots:
            job = next(iter(self._waiting))
            del self._waiting[job]
            self._waiting_tokens -= job.prompt_tokens
            self._reading[job] = float(job.prompt_tokens)

    def _rates(self) -> tuple[float, float]:
        """Tokens per second: of the prompt that is read, and of each stream."""
        streams, speed = len(self._decoding), self._speed
        if not streams:
            return speed.prefill_tokens_per_s, 1 / self._steps[0]
        step_s = self._steps[streams - 1]
        if not self._reading:
            return speed.prefill_tokens_per_s, 1 / step_s
        return speed.prefill_tokens_per_s * (1 - 1 / speed.gap_target), 1 / (speed.gap_target * step_s)

    def _first_end(self) -> tuple[float, int, Job] | None:
        while self._ends and self._decoding.get(self._ends[0][2]) != self._ends[0][0]:
            heapq.heappop(self._ends)
        return self._ends[0] if self._ends else None

    def _go_to(self, now: float) -> None:
        """Let time pass; nothing completes in between."""
        passed = now - self._now
        if passed <= 0:
            return
        if self._reading or self._decoding:
            prefill, decode = self._rates()
            self._busy_s += passed
            self._stream_s += passed * (len(self._reading) + len(self._decoding))
            self._tokens += passed * decode if self._decoding else 0.0
            if self._reading:
                job = next(iter(self._reading))
                self._reading[job] = max(0.0, self._reading[job] - passed * prefill)
        self._now = now
