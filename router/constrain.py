"""The hard stage: which targets may see this request at all. Nobody else grants a clearance.

Three constraints are built in and no config turns them off: a private request stays local, a target must serve the
task, and it must honour every field of the request. Then the config's own constraints, which fail closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from foreshore.clearance import grant
from foreshore.config import TargetConfig
from foreshore.errors import BadRequest, ForeshoreError, RoutingError
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
from foreshore.router.honours import unhonoured
from foreshore.router.policy import Exclusion, Policy
from foreshore.router.record import record
from foreshore.types import Request

__all__ = ["Clearing", "Exclusion", "constrain", "refusal"]


@record
class Clearing:
    """`request` carries the clearance for exactly `allowed`; everyone else stands in `excluded`."""

    request: Request
    allowed: frozenset[str]
    excluded: tuple[Exclusion, ...]


def constrain(
    request: Request,
    facts: RequestFacts,
    targets: Sequence[TargetFacts],
    specs: Mapping[str, TargetConfig],
    policy: Policy,
    *,
    device: DeviceFacts = ON_MAINS,
    budget: BudgetFacts = NO_BUDGET,
    now: ClockFacts = ANY_TIME,
) -> Clearing:
    """Pure but for the clearance's seal. An empty `allowed` is an answer, not an error: see `refusal`."""
    excluded = [e for t in targets for e in _built_in(request, facts, t, specs[t.name])]
    excluded += policy.forbids(facts, targets, device=device, budget=budget, now=now)
    allowed = frozenset(t.name for t in targets) - {e.target for e in excluded}
    return Clearing(request=grant(request, allowed), allowed=allowed, excluded=tuple(excluded))


def _built_in(request: Request, facts: RequestFacts, target: TargetFacts, spec: TargetConfig) -> Iterator[Exclusion]:
    if facts.private and not target.local:
        yield Exclusion(target.name, "privacy", f"the request is private ({', '.join(facts.labels)})")
    if facts.task not in spec.serves:
        yield Exclusion(target.name, "task", f"does not serve {facts.task} requests")
    elif fields := unhonoured(request, spec.kind):
        yield Exclusion(target.name, "fields", f"does not honour {', '.join(fields)}", fields)


def refusal(excluded: Sequence[Exclusion]) -> ForeshoreError:
    """Why none of the targets in `excluded` may answer: the caller's own fields, or the policy."""
    refused = next((e for e in excluded if e.message), None)
    if refused is not None:
        reasons = {e.target: e.message for e in excluded if e.constraint == refused.constraint}
        return RoutingError(refused.message, reasons=reasons, hint=f"constraint {refused.constraint!r} refuses this")
    reasons = {e.target: f"{e.constraint}: {e.reason}" for e in reversed(excluded)}
    why = "no target may answer this request: " + "; ".join(f"{t!r} ({reason})" for t, reason in reasons.items())
    kinds = {e.constraint for e in excluded}
    if kinds == {"fields"}:
        return BadRequest(why, hint="leave it out, or add a target that can", param=excluded[0].fields[0])
    if kinds == {"task"}:
        return BadRequest(why, hint="add a target that does", param="model")
    if "privacy" in kinds:
        return RoutingError(why, reasons=reasons, hint="private requests are answered by local targets only")
    return RoutingError(why, reasons=reasons, hint="see `foreshore route explain`")
