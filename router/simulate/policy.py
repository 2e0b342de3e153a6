"""The policy under test: the gateway's own constraints and decision, asked as the gateway asks them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from foreshore.config import Config
from foreshore.router.budgets import period
from foreshore.router.constrain import constrain
from foreshore.router.decide import Decision, State, chance, decide
from foreshore.router.facts import NO_BUDGET, ON_MAINS, BudgetFacts, ClockFacts, DeviceFacts, RequestFacts, TargetFacts
from foreshore.router.policy import Policy
from foreshore.router.simulate.job import Cascade, Job
from foreshore.router.simulate.simulate import Choice, Look
from foreshore.router.simulate.trace import Trace
from foreshore.types import Request, Sampling

__all__ = ["PolicyChooser"]


class PolicyChooser:
    """A `Chooser`. The device is as its facts say all along; hours and periods are those of the trace's own days, by
    this machine's calendar. No quality is known, for a trace has no text."""

    def __init__(self, config: Config, trace: Trace, *, seed: int = 0, device: DeviceFacts = ON_MAINS) -> None:
        self._config, self._policy = config, Policy(config)
        self._begun, self._seed, self._device = trace.begun, seed, device
        self._spent: dict[tuple[str, float], float] = {}  # by tenant and the beginning of the period
        self._budgets = {budget.tenant: budget for budget in config.budgets}

    def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice:
        found = self.decide(job, facts, look())
        cascade = None
        if found.strategy == "cascade" and len(found.targets) > 1:
            expected = {name: found.estimates[name].total_s for name in found.targets}
            cascade = Cascade(last=found.targets[-1], confidence=found.confidence, expected=expected)
        return Choice(targets=found.targets, rule=found.rule, deadline_s=found.deadline_s, cascade=cascade)

    def decide(self, job: Job, facts: RequestFacts, targets: Mapping[str, TargetFacts]) -> Decision:
        at = self._begun + job.at
        local = time.localtime(at)
        now = ClockFacts(hour=local.tm_hour, minute=local.tm_min, weekday=local.tm_wday)
        request = Request(
            task=facts.task,
            model=facts.model,
            messages=({"role": "user", "content": ""},),
            tenant=facts.tenant,
            sampling=Sampling(max_tokens=facts.max_tokens or None),
        )
        seen = list(targets.values())
        budget = self._budget(facts.tenant, at)
        specs, policy, device = self._config.targets, self._policy, self._device
        clearing = constrain(request, facts, seen, specs, policy, device=device, budget=budget, now=now)
        state = State(
            policy=policy,
            targets=seen,
            clearing=clearing,
            device=device,
            budget=budget,
            now=now,
            explore=self._config.learning.explore,
            dice=chance(f"simulated-{self._seed}-{job.number}", "explore"),
        )
        return decide(facts, state)

    def spent(self, job: Job) -> None:
        budget = self._budgets.get(job.tenant)
        if budget is not None:
            key = job.tenant, period(budget.per, self._begun + job.ended_at)[0]
            self._spent[key] = self._spent.get(key, 0.0) + job.cost

    def _budget(self, tenant: str, at: float) -> BudgetFacts:
        """What is left in the period; nothing was spent before the trace began."""
        budget = self._budgets.get(tenant)
        if budget is None:
            return NO_BUDGET
        spent = self._spent.get((tenant, period(budget.per, at)[0]), 0.0)
        left = max(0.0, budget.dollars - spent)
        return BudgetFacts(dollars=budget.dollars, spent=spent, left=left, share_left=left / budget.dollars)
