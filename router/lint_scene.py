"""Values of a proof's slots made into facts, and what the router's own stages make of them: a witness is not believed,
it is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from foreshore.config import Config
from foreshore.errors import ForeshoreError
from foreshore.router.constrain import Clearing, constrain
from foreshore.router.decide import Decision, State, decide
from foreshore.router.facts import BudgetFacts, ClockFacts, DeviceFacts, RequestFacts, TargetFacts
from foreshore.router.lint_terms import HEADERS, Slot
from foreshore.router.lint_values import ABSENT, Values
from foreshore.router.policy import Policy
from foreshore.router.target import describe
from foreshore.types import Request

__all__ = ["Scene", "Verdict", "fixed_of", "scene_of"]

_CERTAIN = ("name", "kind", "model", "local", "tags", "json", "images", "input_price", "output_price")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the hard stage left, and the decision or the refusal."""

    clearing: Clearing
    decision: Decision | None = None
    error: ForeshoreError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """All that a decision looks at, in facts."""

    request: RequestFacts = field(default_factory=RequestFacts)
    targets: Sequence[TargetFacts]
    device: DeviceFacts = field(default_factory=DeviceFacts)
    budget: BudgetFacts = field(default_factory=BudgetFacts)
    now: ClockFacts = field(default_factory=ClockFacts)

    def judged(self, config: Config, policy: Policy, request: Request | None = None) -> Verdict:
        """By the gateway's own `constrain` and `decide`. `request`: the real one, where there is one."""
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


def fixed_of(name: str, config: Config, alias: str = "") -> dict[Slot, Any]:
    """What the config makes certain of the target `name`, as slots of `alias`, else of the target itself."""
    spec = config.targets[name]
    facts = describe(name, spec)
    certain = [*_CERTAIN, *(["context_tokens"] if spec.context_tokens else [])]
    certain += ["cost"] if not (spec.price.input or spec.price.output) else []
    return {Slot(f"target.{field}", alias or name): getattr(facts, field) for field in certain}


def scene_of(values: Values, config: Config) -> Scene:
    """`values`, and the defaults for everything they do not say."""
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    headers: dict[str, str] = {}
    for slot, value in values.items():
        part, _, name = slot.path.partition(".")
        if slot.header:
            headers |= {} if value is ABSENT else {slot.header: value}
        elif slot.path != HEADERS:
            parts.setdefault((part, slot.target), {})[name] = value
    return Scene(
        request=RequestFacts(**_given(parts, "request"), headers=headers),
        targets=[
            replace(describe(name, spec), **_given(parts, "target", name)) for name, spec in config.targets.items()
        ],
        device=DeviceFacts(**_given(parts, "device")),
        budget=BudgetFacts(**_given(parts, "budget")),
        now=ClockFacts(**_given(parts, "now")),
    )


def _given(parts: Mapping[tuple[str, str], Mapping[str, Any]], part: str, target: str = "") -> Mapping[str, Any]:
    return parts.get((part, target), {})
