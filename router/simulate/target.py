"""A simulated target as a decision sees it: the real breaker, meter and forecaster around a simulated service.

What the gateway notes when it asks a target, hears its first token and its end is noted here at the same moments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foreshore.config import TargetConfig
from foreshore.router.breaker import Breaker
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.latency.forecast import Forecaster, Speeds, Work
from foreshore.router.meter import Meter
from foreshore.router.simulate.cloud import CloudService
from foreshore.router.simulate.job import Job, Refusal, Service
from foreshore.router.simulate.local import LocalService
from foreshore.router.simulate.speed import CloudSpeed, LocalSpeed
from foreshore.router.target import Ask, describe
from foreshore.types import Timings, Usage

__all__ = ["SimulatedTarget"]

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
        told = describe(name, spec)
        self._fixed: dict[str, Any] = {field: getattr(told, field) for field in FIXED}
        self._fixed["context_tokens"] = context or 0
        self._clock = clock
        self._works: dict[Job, tuple[Work, int]] = {}  # of those that are here, with what their prompts were taken for
        self._unheard: dict[Job, int] = {}  # of them, those without a first token, and their prompts
        self._unlearned: list[tuple[Job, Work, int]] = []  # whole answers since somebody last looked

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
            job.target, job.asked_at = self.name, now
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
        """`job` has ended whole."""
        self.heard(job)
        self.breaker.succeed()
        self._unlearned.append((job, *self._works.pop(job)))

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
        for job, work, estimate in self._unlearned:
            ttft_s, total_s = job.first_at - job.asked_at, job.ended_at - job.asked_at
            usage = Usage(prompt_tokens=job.prompt_tokens, completion_tokens=job.tokens)
            self.meter.record(Timings(ttft_s=ttft_s, decode_s=total_s - ttft_s, decode_tokens=job.tokens), usage)
            cut = job.tokens < job.output_tokens
            self.meter.learn(work, estimate, usage, ttft_s=ttft_s, total_s=total_s, cut=cut)
        self._unlearned.clear()
