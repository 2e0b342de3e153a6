"""In which order a rule's targets are tried: what is possible before what is wanted, and that before what is liked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from foreshore.policy_config import Objective
from foreshore.router.facts import RequestFacts, TargetFacts, answer_tokens
from foreshore.router.policy import Rule
from foreshore.router.rules import Evaluator

__all__ = ["ordered"]


def ordered(
    facts: RequestFacts, rule: Rule, targets: Sequence[TargetFacts], evaluator: Evaluator, reasons: list[str]
) -> Sequence[TargetFacts]:
    """Without those too small or down (unless that leaves none); then those of which `where` holds, then those likely
    on time, then by objective, then as preferred."""
    fit = _without(targets, lambda t: not _fits(facts, t), "estimated too long for its context", reasons)
    up = _without(fit, lambda t: not t.healthy, "not healthy", reasons)
    if len(up) == 1:
        return up
    later = _later(facts, rule, up, evaluator, reasons)
    if rule.objective is None:
        return sorted(up, key=lambda t: later[t.name]) if any(later.values()) else up
    scores = _scores(rule.objective, up)
    reasons.extend(f"{name!r} scores {score:.4g}" for name, score in scores.items())
    return sorted(up, key=lambda t: (later[t.name], -scores[t.name]))


def _later(
    facts: RequestFacts, rule: Rule, targets: Sequence[TargetFacts], evaluator: Evaluator, reasons: list[str]
) -> Mapping[str, int]:
    """How far back each target belongs: 0 in front, 1 probably late, 2 `where` does not hold, 3 both."""
    limit = min(rule.deadline or math.inf, facts.deadline_s or math.inf)
    late = [t.name for t in targets if t.total_s > limit]
    amiss = {t.name: why for t in targets if (why := _objection(rule, t, evaluator))}
    if len(late) < len(targets):
        reasons.extend(f"{name!r} later: predicted to miss the deadline" for name in late)
    if len(amiss) < len(targets):
        reasons.extend(f"{name!r} later: {why}" for name, why in amiss.items())
    return {t.name: (t.name in late) + 2 * (t.name in amiss) for t in targets}


def _objection(rule: Rule, target: TargetFacts, evaluator: Evaluator) -> str:
    """Why `target` is not one that the rule's `where` means; "" if it is."""
    if rule.where is None:
        return ""
    evaluator.load("target", target)
    holds, why = evaluator.ask(rule.where)
    return "" if holds else f"{rule.where.source!r} {why or 'does not hold'}"


def _scores(objective: Objective, targets: Sequence[TargetFacts]) -> Mapping[str, float]:
    """What `objective` gives each target. A time or quality that is not known counts as the mean of those that are:
    nobody wins or loses by not having been tried."""
    seconds = _filled([t.total_s for t in targets])
    quality = _filled([t.quality for t in targets])
    scores: dict[str, float] = {}
    for target, total_s, probability in zip(targets, seconds, quality, strict=True):
        score = objective.quality * probability - objective.dollars * target.cost - objective.seconds * total_s
        scores[target.name] = score if math.isfinite(score) else -math.inf
    return scores


def _filled(values: Sequence[float]) -> Sequence[float]:
    known = [v for v in values if v]
    if not known or len(known) == len(values):
        return values
    mean = math.fsum(known) / len(known)
    return [v or mean for v in values]


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
