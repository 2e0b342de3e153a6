"""All that one decision looks at, in facts, and what the router's own stages make of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from foreshore.config import Config
from foreshore.errors import ForeshoreError, Unavailable
from foreshore.router.constrain import Clearing, constrain
from foreshore.router.decide import Decision, State, decide
from foreshore.router.estimates import LEARNT, estimated
from foreshore.router.facts import (
    ANY_TIME,
    NO_BUDGET,
    ON_MAINS,
    BudgetFacts,
    ClockFacts,
    DeviceFacts,
    RequestFacts,
    TargetFacts,
)
from foreshore.router.label import Caller, label
from foreshore.router.loaded import NOT_EMBEDDED
from foreshore.router.policy import Policy
from foreshore.router.target import Target
from foreshore.telemetry import logger
from foreshore.types import Chunk, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from foreshore.quality.estimator import Estimator
    from foreshore.router.local_encoder import LocalEncoder

__all__ = ["Situation", "Stage", "Verdict"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the hard stage left, and the decision or the refusal."""

    clearing: Clearing
    decision: Decision | None = None
    error: ForeshoreError | None = None

    @property
    def first(self) -> str:
        """Who is tried first; "" for nobody."""
        return self.decision.targets[0] if self.decision else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    request: RequestFacts
    targets: Sequence[TargetFacts]
    device: DeviceFacts = ON_MAINS
    budget: BudgetFacts = NO_BUDGET
    now: ClockFacts = ANY_TIME

    def judged(self, config: Config, policy: Policy, request: Request | None = None) -> Verdict:
        """By the gateway's own `constrain` and `decide`, nothing by chance. `request`: the real one, where there is
        one; else one that asks for nothing special."""
        asked = request or Request(task=self.request.task, model=self.request.model)
        device, budget, now = self.device, self.budget, self.now
        clearing = constrain(
            asked, self.request, self.targets, config.targets, policy, device=device, budget=budget, now=now
        )
        state = State(policy=policy, targets=self.targets, clearing=clearing, device=device, budget=budget, now=now)
        try:
            return Verdict(clearing=clearing, decision=decide(self.request, state))
        except ForeshoreError as error:
            return Verdict(clearing=clearing, error=error)


class Stage:
    """Where requests are decided on without a gateway: every target ready and idle, its speed as on its card, budgets
    unspent. No target is asked and nothing is sent; `quality.encoder` alone is loaded, where a rule reads quality."""

    def __init__(self, config: Config, policy: Policy) -> None:
        self.config, self.policy = config, policy
        self._targets = [Target(name, spec, _Idle(name)) for name, spec in config.targets.items()]

    def situation(self, request: Request, caller: Caller, *, now: ClockFacts = ANY_TIME) -> Situation:
        facts = label(request, caller, self.config, self.policy.reads)
        if request.deadline is None:
            facts = replace(facts, deadline_s=self.config.limits.timeout)
        return self.situation_of(facts, now=now)

    def situation_of(self, facts: RequestFacts, *, now: ClockFacts = ANY_TIME) -> Situation:
        """For a request of which only the facts are known."""
        targets = estimated([t.facts_for(facts) for t in self._targets], facts, self._quality(facts.text))
        return Situation(request=facts, targets=targets, budget=self._unspent(facts.tenant), now=now)

    def judged(self, situation: Situation, request: Request | None = None) -> Verdict:
        return situation.judged(self.config, self.policy, request)

    def _quality(self, text: str) -> Mapping[str, float]:
        """What the estimator expects, where a rule asks and it judges prompts, told by the encoder as in a gateway."""
        if self._estimator is None or self._estimator.answers or not text:
            return {}
        return self._estimator.predict(text, vector=self._vector(text) if text.strip() else None)

    def _vector(self, text: str) -> NDArray[np.float32] | None:
        if self._encoder is None:
            return None
        try:
            found: NDArray[np.float32] = self._encoder([text])[0]
        except ForeshoreError as error:
            logger.warning(NOT_EMBEDDED, self.config.quality.encoder, error.message)
            return None
        return found

    @cached_property
    def _encoder(self) -> LocalEncoder | None:
        """Loaded with the first text that it reads, and freed with the process."""
        name, estimator = self.config.quality.encoder, self._estimator
        if name is None or estimator is None:
            return None
        from foreshore.edge import EngineOptions
        from foreshore.router.encoder_identity import check_encoder
        from foreshore.router.local_encoder import LocalEncoder

        check_encoder(self.config, estimator)
        spec = self.config.targets[name]
        return LocalEncoder(spec.model, options=EngineOptions(**(spec.engine.options() if spec.engine else {})))

    @cached_property
    def _estimator(self) -> Estimator | None:
        path = self.config.quality.estimator
        if path is None or not self.policy.reads & LEARNT:
            return None
        from foreshore.quality.estimator import Estimator

        return Estimator.load(path)

    def _unspent(self, tenant: str) -> BudgetFacts:
        dollars = next((b.dollars for b in self.config.budgets if b.tenant == tenant), None)
        return NO_BUDGET if dollars is None else BudgetFacts(dollars=dollars, left=dollars)


class _Idle:
    """A backend that is ready and never asked."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        raise Unavailable(f"target {self.name!r} is only looked at here", target=self.name)
        yield  # which makes it a stream

    async def close(self) -> None:
        """There is nothing to free."""
