"""This machine, simulated: continuous batching with a bounded number of slots and a queue.

Each step computes one token of every running stream. While a prompt is read beside streams, a step takes as many of its
tokens as the engine's own pacer allows, and now and then none, as there. Prompts are read one after the other, first
come first served. Between an arrival and the next completion all rates are constant, so a step of the simulation is a
completion, not a token.

Not modelled: tenants' shares and service tiers, kept prefixes, room in the cache, attention's growth with length.
"""

from __future__ import annotations

import heapq
import itertools
import math

from foreshore.edge.options import Load
from foreshore.edge.pacer import PROBE, Pacer
from foreshore.router.simulate.job import NEVER, Job, Moment, Refusal
from foreshore.router.simulate.speed import LocalSpeed
from foreshore.runtime_config import BATCH_TOKENS

__all__ = ["LocalService"]


class LocalService:
    """`Service` of a local target."""

    def __init__(self, speed: LocalSpeed) -> None:
        self._speed = speed
        self._rates = _rates(speed)
        self._now = 0.0
        self._waiting: dict[Job, None] = {}
        self._reading: dict[Job, float] = {}  # prompt tokens left; the first one's are being computed
        self._decoding: dict[Job, float] = {}  # where the token clock stands when it ends
        self._ends: list[tuple[float, int, Job]] = []  # heap of the same; may hold jobs that were cancelled
        self._tokens = 0.0  # the token clock: how many each stream would have got since the beginning
        self._numbers = itertools.count()
        self._waiting_tokens = 0
        self._busy_s = self._stream_s = 0.0
        self._prefill = self._decode = 0.0  # tokens per second: of the prompt that is read, and of each stream
        self._reads_next = False
        self.next_at = NEVER

    def step(self) -> Moment:
        self._go_to(self.next_at)
        moment = self._read() if self._reads_next else self._finish()
        self._admit()
        self._plan()
        return moment

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
        self._plan()
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
        self._plan()

    def load(self, now: float) -> Load:
        self._go_to(now)
        return Load(
            waiting=len(self._waiting),
            running=len(self._reading) + len(self._decoding),
            waiting_tokens=self._waiting_tokens + round(sum(self._reading.values())),
            prefill_tokens_per_s=self._speed.prefill_tokens_per_s,
            decode_tokens_per_s=len(self._decoding) * self._decode,
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
        return Moment(self._now, "end", job)

    def _finish(self) -> Moment:
        end, _, job = heapq.heappop(self._ends)
        self._tokens = max(self._tokens, end)  # exactly, whatever was rounded
        del self._decoding[job]
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

    def _plan(self) -> None:
        """Rates from now on, and what happens next under them."""
        self._prefill, self._decode = self._rates[len(self._decoding)][bool(self._reading)]
        while self._ends and self._decoding.get(self._ends[0][2]) != self._ends[0][0]:
            heapq.heappop(self._ends)
        read = self._now + next(iter(self._reading.values())) / self._prefill if self._reading else NEVER
        end = self._now + max(0.0, self._ends[0][0] - self._tokens) / self._decode if self._ends else NEVER
        self._reads_next, self.next_at = read <= end, min(read, end)

    def _go_to(self, now: float) -> None:
        """Let time pass; nothing completes in between."""
        passed = now - self._now
        if passed <= 0:
            return
        if self._reading or self._decoding:
            self._busy_s += passed
            self._stream_s += passed * (len(self._reading) + len(self._decoding))
            if self._decoding:
                self._tokens += passed * self._decode
            if self._reading:
                job = next(iter(self._reading))
                self._reading[job] = max(0.0, self._reading[job] - passed * self._prefill)
        self._now = now


def _rates(speed: LocalSpeed) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """By the number of streams, without and with a prompt: tokens per second of the prompt, and of each stream."""
    pacer = Pacer(gap_target=speed.gap_target, batch_tokens=BATCH_TOKENS)
    pacer.observe(streams=0, prompt_tokens=BATCH_TOKENS, seconds=BATCH_TOKENS / speed.prefill_tokens_per_s)
    found = [((0.0, 0.0), (speed.prefill_tokens_per_s, 0.0))]
    for streams in range(1, speed.slots + 1):
        alone_s = speed.step_s(streams)
        pacer.observe(streams=streams, prompt_tokens=0, seconds=alone_s)
        tokens = pacer.budget(streams=streams)
        cycle_s = PROBE * (alone_s + tokens / speed.prefill_tokens_per_s) + alone_s
        found.append(((0.0, 1 / alone_s), (PROBE * tokens / cycle_s, (PROBE + 1) / cycle_s)))
    return found
