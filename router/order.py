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

Note = tuple[Any, ...]  # reasons yet to be put into words: a format, and columns of what goes into it, row by row

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
    sums = scores(rule.objective, up)
    notes.append(("%r scores %.4g", [t.name for t in up], sums))
    keys = list(zip(ranks, [-score for score in sums], strict=True))
    return [up[i] for i in sorted(range(len(up)), key=keys.__getitem__)]


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
    return found if math.isfinite(sum(found)) else [s if math.isfinite(s) else -math.inf for s in found]


def _ranks(
    facts: RequestFacts, rule: Rule, targets: Sequence[TargetFacts], evaluator: Evaluator, notes: list[Note]
) -> list[int]:
    """How far back each target belongs, with a reason where not all belong there."""
    limit = min(rule.deadline or math.inf, facts.deadline_s or math.inf)
    ranks = [LATE if t.total_s > limit else 0 for t in targets]
    late = [t.name for t, rank in zip(targets, ranks, strict=True) if rank] if any(ranks) else []
    amiss: list[tuple[str, str]] = []
    if rule.where is not None:
        for i, (holds, why) in enumerate(evaluator.ask_of(targets, rule.where)):
            if not holds:
                ranks[i] += AMISS
                amiss.append((targets[i].name, why or "does not hold"))
        if 0 < len(amiss) < len(targets):
            names, whys = zip(*amiss, strict=True)
            notes.append(("%r later: %r %s", names, [rule.where.source] * len(amiss), whys))
    if 0 < len(late) < len(targets):
        notes.append((MISSES, late))
    return ranks


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
    left_out = [t.name for t, fault in zip(targets, faults, strict=True) if fault]
    notes.append(("%r left out: %s", left_out, [why] * len(left_out)))
    return [t for t, fault in zip(targets, faults, strict=True) if not fault]
