"""The soft stage: of the targets that may see the request, which in what order. Pure: no I/O, no clock, no client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from foreshore.errors import NotFound
from foreshore.router.constrain import Clearing, refusal
from foreshore.router.facts import RequestFacts, TargetFacts, answer_tokens
from foreshore.router.policy import Match, Policy

__all__ = ["Decision", "State", "decide"]

AUTO = ("", "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that a decision depends on besides the request's facts. `targets` carry their predictions."""

    policy: Policy
    targets: Sequence[TargetFacts]
    clearing: Clearing


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """`targets` in the order they are tried. `propensity`: how probable this first choice was (1: never by chance)."""

    targets: tuple[str, ...]
    rule: str
    estimates: Mapping[str, TargetFacts]
    reasons: tuple[str, ...] = ()
    propensity: float = 1.0


def decide(facts: RequestFacts, state: State) -> Decision:
    """Raises `NotFound` for a model nobody serves; `RoutingError` or `BadRequest` where no target is left."""
    known = {t.name: t for t in state.targets}
    reasons: list[str] = []
    matches = _candidates(facts, state)
    for match in matches:
        if match.why_not:
            reasons.append(f"rule {match.name!r} skipped: its condition {match.why_not}")
            continue
        cleared = [known[name] for name in match.targets if name in state.clearing.allowed]
        if cleared:
            order = _order(facts, cleared, reasons)
            return Decision(targets=order, rule=match.name, estimates=known, reasons=tuple(reasons))
        reasons.append(f"{match.name!r} passed over: none of its targets may see this request")
    named = {name for match in matches for name in match.targets}
    raise refusal([e for e in state.clearing.excluded if e.target in named])


def _candidates(facts: RequestFacts, state: State) -> list[Match]:
    """The target the caller pinned by name or model, else every rule that holds, else the default."""
    if facts.model in AUTO:
        return state.policy.matches(facts)
    pinned = [t.name for t in state.targets if t.name == facts.model]
    pinned = pinned or [t.name for t in state.targets if t.model == facts.model]
    if not pinned:
        hint = f"use 'auto' or one of: {', '.join(t.name for t in state.targets)}"
        raise NotFound(f"there is no model {facts.model[:100]!r}", hint=hint, param="model")
    return [Match(name="pinned", targets=tuple(pinned))]


def _order(facts: RequestFacts, targets: Sequence[TargetFacts], reasons: list[str]) -> tuple[str, ...]:
    """The rule's order, without those too small or down (unless that leaves none), the too slow last."""
    fit = _without(targets, lambda t: not _fits(facts, t), "estimated too long for its context", reasons)
    up = _without(fit, lambda t: not t.healthy, "not healthy", reasons)
    slow = [t.name for t in up if facts.deadline_s and t.total_s > facts.deadline_s]
    if slow and len(slow) < len(up):
        reasons.extend(f"{name!r} last: predicted to miss the deadline" for name in slow)
        return tuple(sorted((t.name for t in up), key=lambda name: name in slow))
    return tuple(t.name for t in up)


def _without(
    targets: Sequence[TargetFacts], bad: Callable[[TargetFacts], bool], why: str, reasons: list[str]
) -> Sequence[TargetFacts]:
    """An estimate is no proof: where it would leave nobody, the target itself has the last word."""
    good = [t for t in targets if not bad(t)]
    if not good or len(good) == len(targets):
        return targets
    reasons.extend(f"{t.name!r} left out: {why}" for t in targets if bad(t))
    return good


def _fits(facts: RequestFacts, target: TargetFacts) -> bool:
    if not target.context_tokens:
        return True
    return facts.prompt_tokens + answer_tokens(facts, target) <= target.context_tokens
