"""In which order a rule's targets are tried: what is possible before what is wanted, and that before what is liked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from foreshore.policy_config import Objective
from foreshore.router.facts import RequestFacts, TargetFacts, answer_tokens
from foreshore.router.policy import Rule
from foreshore.router.rules import Evaluator

__all__ = ["Note", "ordered", "scores"]

Note = tuple[Any, ...]  # a reason, yet to be put into words: a format and what goes into it

MISSES = "%r later: predicted to miss the deadline"
LATE, AMISS = 1, 2  # how far back a target belongs; both: 3


def ordered(
    facts: RequestFacts, rule: Rule, targets: Sequence[TargetFacts], evaluator: Evaluator, notes: list[Note]
) -> Sequence[TargetFacts]:
    """Without those too small or down (unless that leaves none); then those of which `where` holds, then those likely
    on time, then by objective, then as preferred."""
    fit = _without(targets, [_too_long(facts, t) for t in targets], "estimated too long for its context", notes)
    up = _without(fit, [not t.healthy for t in fit], "not healthy", notes)
    if len(up) == 1:
        return up
    ranks = _ranks(facts, rule, up, evaluator, notes)
    if rule.objective is None:
        return [up[i] for i in sorted(range(len(up)), key=ranks.__getitem__)] if any(ranks) else up
    found = scores(rule.objective, up)
    notes.extend([("%r scores %.4g", t.name, score) for t, score in zip(up, found, strict=True)])
    return [up[i] for _, _, i in sorted(zip(ranks, [-score for score in found], range(len(up)), strict=True))]


def scores(objective: Objective, targets: Sequence[TargetFacts]) -> list[float]:
    """What `objective` gives each target. A time or quality that is not known counts as the mean of those that are:
    nobody wins or loses by not having been tried."""
    seconds = _filled([t.total_s for t in targets])
    quality = _filled([t.quality for t in targets])
    for_quality, for_dollars, for_seconds = objective.quality, objective.dollars, objective.seconds
    found = [
        for_quality * probability - for_dollars * target.cost - for_seconds * total_s
        for target, total_s, probability in zip(targets, seconds, quality, strict=True)
    ]
    return [score if math.isfinite(score) else -math.inf for score in found]


def _ranks(
    facts: RequestFacts, rule: Rule, targets: Sequence[TargetFacts], evaluator: Evaluator, notes: list[Note]
) -> list[int]:
    """How far back each target belongs, with a reason where not all belong there."""
    limit = min(rule.deadline or math.inf, facts.deadline_s or math.inf)
    late = [t.total_s > limit for t in targets]
    amiss = [] if rule.where is None else [_objection(rule, t, evaluator) for t in targets]
    if any(late) and not all(late):
        notes.extend([(MISSES, t.name) for t, is_late in zip(targets, late, strict=True) if is_late])
    if not any(amiss):
        return [LATE if is_late else 0 for is_late in late]
    if not all(amiss):
        source = rule.where.source if rule.where else ""
        notes.extend([("%r later: %r %s", t.name, source, w) for t, w in zip(targets, amiss, strict=True) if w])
    return [LATE * is_late + AMISS * bool(why) for is_late, why in zip(late, amiss, strict=True)]


def _objection(rule: Rule, target: TargetFacts, evaluator: Evaluator) -> str:
    """Why `target` is not one that the rule's `where` means; "" if it is."""
    assert rule.where is not None
    evaluator.load("target", target)
    holds, why = evaluator.ask(rule.where)
    return "" if holds else why or "does not hold"


def _filled(values: list[float]) -> list[float]:
    if 0.0 not in values:
        return values
    known = [v for v in values if 0.0 < v < math.inf]
    if not known:
        return values
    mean = math.fsum(known) / len(known)
    return [v or mean for v in values]


def _too_long(facts: RequestFacts, target: TargetFacts) -> bool:
    room = target.context_tokens
    return room > 0 and facts.prompt_tokens + answer_tokens(facts, target) > room


def _without(
    targets: Sequence[TargetFacts], faults: Sequence[bool], why: str, notes: list[Note]
) -> Sequence[TargetFacts]:
    """An estimate is no proof: where it would leave nobody, the target itself has the last word."""
    if not any(faults) or all(faults):
        return targets
    notes.extend([("%r left out: %s", t.name, why) for t, fault in zip(targets, faults, strict=True) if fault])
    return [t for t, fault in zip(targets, faults, strict=True) if not fault]
