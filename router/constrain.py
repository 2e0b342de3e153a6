"""The hard stage: which targets may see this request at all. Nobody else grants a clearance.

Three constraints are built in and no config turns them off: a private request stays local, a target must serve the
task, and it must honour every field of the request. Then the config's own constraints, which fail closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foreshore.clearance import grant
from foreshore.config import TASKS, TargetConfig
from foreshore.errors import BadRequest, ForeshoreError, RoutingError
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.honours import unhonoured
from foreshore.router.policy import Policy
from foreshore.types import Request

__all__ = ["Clearing", "Exclusion", "constrain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    target: str
    constraint: str  # "privacy", "task", "fields", or a constraint's name in the config
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearing:
    """`request` carries the clearance for exactly `allowed`; everyone else stands in `excluded`."""

    request: Request
    allowed: frozenset[str]
    excluded: tuple[Exclusion, ...]

    def reasons(self) -> dict[str, str]:
        """Each excluded target with everything that kept it away."""
        found: dict[str, list[str]] = {}
        for e in self.excluded:
            found.setdefault(e.target, []).append(f"{e.constraint}: {e.reason}")
        return {target: "; ".join(reasons) for target, reasons in found.items()}


def constrain(
    request: Request,
    facts: RequestFacts,
    targets: Sequence[TargetFacts],
    specs: dict[str, TargetConfig],
    policy: Policy,
) -> Clearing:
    """Pure but for the clearance's seal. An empty `allowed` is an answer, not an error: see `refusal`."""
    excluded = [e for t in targets for e in _built_in(request, facts, t, specs[t.name])]
    excluded += [Exclusion(target=t, constraint=c, reason=why) for t, c, why in policy.forbids(facts, targets)]
    allowed = frozenset(t.name for t in targets) - {e.target for e in excluded}
    return Clearing(request=grant(request, allowed), allowed=allowed, excluded=tuple(excluded))


def _built_in(request: Request, facts: RequestFacts, target: TargetFacts, spec: TargetConfig) -> list[Exclusion]:
    found: list[tuple[str, str]] = []
    if facts.private and not target.local:
        found.append(("privacy", f"the request is private ({', '.join(facts.labels)})"))
    if facts.task not in (spec.tasks or TASKS[spec.kind]):
        found.append(("task", f"does not serve {facts.task} requests"))
    elif fields := unhonoured(request, spec.kind):
        found.append(("fields", f"does not honour {', '.join(fields)}"))
    return [Exclusion(target=target.name, constraint=c, reason=why) for c, why in found]


def refusal(clearing: Clearing, *, among: Sequence[str], specs: dict[str, TargetConfig]) -> ForeshoreError:
    """Why none of the targets `among` may answer: the caller's own fields, or the policy."""
    about = [e for e in clearing.excluded if e.target in among]
    kinds = {e.constraint for e in about}
    if kinds == {"fields"} or kinds == {"task"}:
        fields = [f for name in among for f in unhonoured(clearing.request, specs[name].kind)]
        what = "; ".join(f"target {e.target!r} {e.reason}" for e in about)
        return BadRequest(what, hint="leave it out, or add a target that can", param=fields[0] if fields else "model")
    reasons = {t: why for t, why in clearing.reasons().items() if t in among}
    message = "no target may answer this request: " + "; ".join(f"{t!r} ({why})" for t, why in reasons.items())
    if "privacy" in kinds:
        return RoutingError(message, reasons=reasons, hint="private requests are answered by local targets only")
    return RoutingError(message, reasons=reasons, hint="see `foreshore route explain`")
