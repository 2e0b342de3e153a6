"""What rules may know of a target: its state now, and what it foretells of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foreshore.backend import Backend
from foreshore.config import TargetConfig
from foreshore.router.ask import Ask
from foreshore.router.breaker import Breaker
from foreshore.router.crowd import Crowd
from foreshore.router.description import fixed
from foreshore.router.estimates import cost
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.latency.cold_start import measured
from foreshore.router.latency.forecast import Forecast, Forecaster, Speeds, Work
from foreshore.router.meter import Meter

__all__ = ["Outlook", "number_of"]


class Outlook:
    """Of one target, from its backend's own report, its breaker, its answers so far and the requests that it has."""

    def __init__(self, name: str, spec: TargetConfig, backend: Backend, breaker: Breaker) -> None:
        self.name, self.spec, self.backend, self.breaker = name, spec, backend, breaker
        self.meter = Meter(forecaster=Forecaster(measured(spec)))
        self.crowd = Crowd()
        self._fixed = fixed(name, spec)
        self._load: Callable[[], Any] | None = getattr(backend, "load", None)

    def work(self, ask: Ask) -> Work:
        """What `ask` would find here now."""
        crowd = self.crowd
        tokens, cached = self.meter.forecaster.prompts.expect(ask.route, ask.tenant, ask.prompt_tokens)
        ahead = crowd.tokens
        return Work(
            prompt_tokens=tokens,
            cached_tokens=cached,
            waiting_tokens=ahead,
            rival_tokens=ahead - crowd.tokens_of(ask.tenant),
            running=crowd.running,
            waiting=crowd.unheard,
            max_tokens=ask.max_tokens,
            route=ask.route,
            tenant=ask.tenant,
            loaded=self.loaded,
        )

    def forecast(self, facts: RequestFacts, route: str = "") -> Forecast:
        """Of a request that came now. Made up of guesses while `known` is false."""
        return self.meter.forecaster.predict(self.work(Ask.of(facts, route)))

    def facts_for(
        self, facts: RequestFacts, route: str = "", *, quality: float = 0.0, best: bool = False
    ) -> TargetFacts:
        """What rules may know of it now for this request, predictions with it; `quality` and `best` as given."""
        load: Any = self._load() if self._load else None
        meter, here = self.meter, self.crowd.here
        state, breaker = getattr(self.backend, "state", "ready"), self.breaker.state
        running = here if load is None else load.running
        prefill_tokens_per_s = 0.0 if load is None else load.prefill_tokens_per_s
        made = self._predicted(facts, route, prefill_tokens_per_s)
        answer, price = made.answer_tokens if made else meter.answer_tokens, self.spec.price
        return TargetFacts(
            **self._fixed,
            loaded=state == "ready",
            healthy=breaker != "open" and state in ("ready", "idle"),
            breaker=_BREAKER[breaker],
            context_tokens=self.spec.context_tokens or number_of(self.backend, "context_tokens"),
            waiting=0 if load is None else max(load.waiting, here - running),
            waiting_tokens=0 if load is None else load.waiting_tokens,
            running=running,
            prefill_tokens_per_s=prefill_tokens_per_s,
            decode_tokens_per_s=meter.decode_tokens_per_s,
            first_token_s=meter.first_token_s,
            answer_tokens=answer,
            ttft_s=made.ttft_s if made else 0.0,
            ttft_p90_s=made.ttft_p90_s if made else 0.0,
            total_s=made.total_s if made else 0.0,
            p90_s=made.p90_s if made else 0.0,
            on_time=made.within(facts.deadline_s) if made and facts.deadline_s else 1.0,
            cost=cost(facts, answer, price.input, price.output),
            quality=quality,
            best=best,
        )

    def _predicted(self, facts: RequestFacts, route: str, prefill_tokens_per_s: float) -> Forecast | None:
        """None while nothing was measured."""
        forecaster = self.meter.forecaster
        if not forecaster.known and prefill_tokens_per_s:
            forecaster.tell(Speeds(prefill_tokens_per_s=prefill_tokens_per_s))
        return self.forecast(facts, route) if forecaster.known else None

    @property
    def loaded(self) -> bool:
        """False while a model must be loaded first."""
        return getattr(self.backend, "state", "ready") == "ready"


def number_of(backend: Backend, what: str) -> int:
    """Of a loaded model; 0 where it does not say."""
    return int(getattr(getattr(backend, "info", None), what, 0) or 0)


_BREAKER = {"closed": "closed", "open": "open", "half-open": "half_open"}


_BREAKER = {"closed": "closed", "open": "open", "half-open": "half_open"}
