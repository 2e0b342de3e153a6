"""In which order a rule's targets are tried: what is possible before what is wanted, and that before what is liked."""

from __future__ import annotations

import math
from collections.abc import Sequence

from foreshore.policy_config import Objective
from foreshore.router.clauses import Rule
from foreshore.router.facts import RequestFacts, TargetFacts, answer_tokens
from foreshore.router.policy import Note
from foreshore.router.program import Scene
from foreshore.router.rules import Evaluator

__all__ = ["ordered", "scores"]

MISSES = "%r later: predicted to miss the deadline"
LATE, AMISS = 1, 2  # how far back a target belongs; both: 3


def ordered(
    rule: Rule, targets: Sequence[TargetFacts], scene: Scene, evaluator: Evaluator, notes: list[Note]
) -> Sequence[TargetFacts]:
    """Without those too small or down (unless that leaves none); then those of which `where` holds, then those likely
    on time, then by objective, then as preferred."""
    request = scene.request
    fit = [t for t in targets if not t.context_tokens or not _too_long(request, t)]
    fit = targets if len(fit) == len(targets) else _without(targets, fit, "estimated too long for its context", notes)
    up = [t for t in fit if t.healthy]
    up = fit if len(up) == len(fit) else _without(fit, up, "not healthy", notes)
    if len(up) == 1:
        return up
    ranks = _ranks(rule, up, scene, evaluator, notes)
    if rule.objective is None:
        return [up[i] for i in sorted(range(len(up)), key=ranks.__getitem__)] if any(ranks) else up
    sums = scores(rule.objective, up)
    notes.append(("%r scores %.4g", [t.name for t in up], sums))
    places = sorted([(rank, -score, i) for i, (rank, score) in enumerate(zip(ranks, sums, strict=True))])
    return [up[i] for _, _, i in places]


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
    rule: Rule, targets: Sequence[TargetFacts], scene: Scene, evaluator: Evaluator, notes: list[Note]
) -> list[int]:
    """How far back each target belongs, with a reason where not all belong there."""
    limit = min(rule.deadline or math.inf, scene.request.deadline_s or math.inf)
    ranks = [LATE if t.total_s > limit else 0 for t in targets]
    late = [t.name for t in targets if t.total_s > limit] if LATE in ranks else ()
    if rule.where is not None:
        amiss = []
        for i, (holds, why) in enumerate(evaluator.each(rule.where, targets, scene)):
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
    targets: Sequence[TargetFacts], left: Sequence[TargetFacts], why: str, notes: list[Note]
) -> Sequence[TargetFacts]:
    """An estimate is no proof: where it would leave nobody, the target itself has the last word."""
    if not left:
        return targets
    out = [t.name for t in targets if t not in left]
    notes.append(("%r left out: %s", out, [why] * len(out)))
    return left
