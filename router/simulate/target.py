"""A simulated target as a decision sees it: the real breaker, meter and forecaster around a simulated service.

What the gateway notes when it asks a target, hears its first token and its end is noted here at the same moments.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from foreshore.config import TargetConfig
from foreshore.router.breaker import Breaker
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.latency.forecast import Forecaster, Speeds, Work
from foreshore.router.meter import Meter
from foreshore.router.simulate.cloud import CloudService
from foreshore.router.simulate.job import NEVER, Held, Job, Refusal, Service
from foreshore.router.simulate.local import LocalService
from foreshore.router.simulate.speed import CloudSpeed, LocalSpeed
from foreshore.router.target import Ask, describe
from foreshore.types import Timings, Usage

__all__ = ["SimulatedTarget"]


class _Answer(NamedTuple):
    """A whole one, to be learned from."""

    work: Work
    estimate: int  # what its prompt was taken for
    usage: Usage
    ttft_s: float
    total_s: float
    cut: bool


FIXED = "name kind model local tags tools json images input_price output_price".split()  # what the config says


class SimulatedTarget:
    """What `router.target.Target` is to a backend, without its stream."""

    def __init__(
        self,
        name: str,
        spec: TargetConfig,
        speed: LocalSpeed | CloudSpeed,
        clock: Callable[[], float],
        *,
        requests: int,
        seed: int,
    ) -> None:
        self.name, self.spec = name, spec
        self.service: Service
        if isinstance(speed, LocalSpeed):
            context = min(filter(None, (speed.context_tokens, spec.context_tokens)), default=None)
            self.service = LocalService(speed.model_copy(update={"context_tokens": context}))
            known = Speeds(
                prefill_tokens_per_s=speed.prefill_tokens_per_s, decode_tokens_per_s=speed.decode_tokens_per_s[1]
            )
            forecaster = Forecaster(known, slots=speed.slots)
        else:
            context, forecaster = spec.context_tokens, Forecaster()
            self.service = CloudService(name, speed, requests=requests, seed=seed)
        self.breaker = Breaker(clock=clock)
        self.meter = Meter(forecaster=forecaster)
        self.refused = 0  # attempts
        self.passed_on = 0  # whole answers that a cascade did not keep
        self._speed = speed
        self._doubts = np.random.default_rng([seed, zlib.crc32(name.encode()), 1]).random(requests)
        told = describe(name, spec)
        self._fixed: dict[str, Any] = {field: getattr(told, field) for field in FIXED}
        self._fixed["context_tokens"] = context or 0
        self._clock = clock
        self._works: dict[Job, tuple[Work, int]] = {}  # of those that are here, with what their prompts were taken for
        self._unheard: dict[Job, int] = {}  # of them, those without a first token, and their prompts
        self._unlearned: list[_Answer] = []  # whole answers since somebody last looked

    def facts_for(self, request: RequestFacts) -> TargetFacts:
        """What rules may know of it now for this request: all but cost and quality."""
        self._learn()
        load, forecaster = self.service.load(self._clock()), self.meter.forecaster
        made = forecaster.predict(self._work(request)) if forecaster.known else None
        return TargetFacts(
            **self._fixed,
            healthy=self.breaker.state != "open",
            breaker=self.breaker.state.replace("-", "_"),
            waiting=load.waiting,
            waiting_tokens=load.waiting_tokens,
            running=load.running,
            prefill_tokens_per_s=load.prefill_tokens_per_s,
            decode_tokens_per_s=self.meter.decode_tokens_per_s,
            first_token_s=self.meter.first_token_s,
            answer_tokens=made.answer_tokens if made else self.meter.answer_tokens,
            ttft_s=made.ttft_s if made else 0.0,
            total_s=made.total_s if made else 0.0,
            ttft_p90_s=made.ttft_p90_s if made else 0.0,
            p90_s=made.p90_s if made else 0.0,
            on_time=made.within(request.deadline_s) if made and request.deadline_s else 1.0,
        )

    def ask(self, job: Job, facts: RequestFacts) -> Refusal | None:
        """Give it `job`, or say why not; its breaker is told, as the gateway would."""
        now = self._clock()
        if not self.breaker.admit():
            self.refused += 1
            return Refusal(code="unavailable", retry_after=self.breaker.retry_after or 1.0)
        work = self._work(facts)
        refusal = self.service.offer(job, now)
        if refusal is None:
            job.target, job.asked_at, job.token_at, job.tokens = self.name, now, NEVER, 0
            self._works[job] = work, facts.prompt_tokens
            self._unheard[job] = max(1, work.prompt_tokens - work.cached_tokens)
            return None
        self.refused += 1
        if refusal.code == "overloaded" and refusal.retry_after and not self.spec.local:
            self.breaker.hold(refusal.retry_after)
        elif refusal.code == "context_length_exceeded":
            self.breaker.succeed()
        else:
            self.breaker.release()
        return refusal

    def heard(self, job: Job) -> None:
        """`job` has its first token, or will have none."""
        self._unheard.pop(job, None)

    def answered(self, job: Job) -> None:
        """Its answer is there, whole, at this moment."""
        self.heard(job)
        self.breaker.succeed()
        ttft_s, total_s = job.token_at - job.asked_at, self._clock() - job.asked_at
        usage = Usage(prompt_tokens=job.prompt_tokens, completion_tokens=job.tokens)
        cut = job.tokens < job.output_tokens
        self._unlearned.append(_Answer(*self._works.pop(job), usage, ttft_s, total_s, cut))

    def judged(self, job: Job, confidence: float) -> Held | None:
        """Its whole answer, if that inspires less than `confidence`. The n-th request's luck is the same whatever a
        policy does."""
        doubt = float(self._doubts[job.number])
        if doubt < self._speed.keeps(confidence):
            return None
        self.passed_on += 1
        return Held(doubt=doubt, target=self.name, tokens=job.tokens)

    def failed(self, job: Job) -> Refusal:
        """Its answer broke off before it began."""
        self.heard(job)
        del self._works[job]
        self.breaker.fail()
        return Refusal(code="unavailable")

    def expired(self, job: Job) -> None:
        """Its deadline has passed."""
        self.heard(job)
        del self._works[job]
        self.breaker.release()
        self.service.cancel(job, self._clock())

    def price(self, job: Job) -> float:
        """US dollars, for the prompt and for what there is of the answer."""
        return (job.prompt_tokens * self.spec.price.input + job.tokens * self.spec.price.output) / 1e6

    def _work(self, facts: RequestFacts) -> Work:
        ask = Ask.of(facts)
        tokens, cached = self.meter.forecaster.prompts.expect(ask.route, ask.tenant, ask.prompt_tokens)
        return Work(
            prompt_tokens=tokens,
            cached_tokens=cached,
            waiting_tokens=sum(self._unheard.values()),
            rival_tokens=sum(tokens for job, tokens in self._unheard.items() if job.tenant != ask.tenant),
            running=len(self._works) - len(self._unheard),
            waiting=len(self._unheard),
            max_tokens=ask.max_tokens,
            route=ask.route,
            tenant=ask.tenant,
        )

    def _learn(self) -> None:
        """From answers in the order of their ends; put off until somebody looks, for most of the time goes here."""
        for work, estimate, usage, ttft_s, total_s, cut in self._unlearned:
            tokens = usage.completion_tokens
            self.meter.record(Timings(ttft_s=ttft_s, decode_s=total_s - ttft_s, decode_tokens=tokens), usage)
            self.meter.learn(work, estimate, usage, ttft_s=ttft_s, total_s=total_s, cut=cut)
        self._unlearned.clear()
