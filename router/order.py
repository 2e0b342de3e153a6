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

__all__ = ["Note", "ordered", "scores"]

MISSES = "%r later: predicted to miss the deadline"
LATE, AMISS = 1, 2  # how far back a target belongs; both: 3


def ordered(
    rule: Rule, targets: Sequence[TargetFacts], scene: Scene, evaluator: Evaluator, notes: list[Note]
) -> list[str]:
    """The names of `targets`, without those too small or down (unless that leaves none); then those of which `where`
    holds, then those likely on time, then by objective, then as preferred."""
    request = scene.request
    able = [t for t in targets if t.healthy and (not t.context_tokens or _fits(request, t))]
    if len(able) < len(targets):
        able = _able(request, targets, notes)
    names = [t.name for t in able]
    if len(able) == 1:
        return names
    ranks = _ranks(rule, able, names, scene, evaluator, notes)
    if rule.objective is None:
        return [names[i] for i in sorted(range(len(names)), key=ranks.__getitem__)] if any(ranks) else names
    sums = scores(rule.objective, able)
    notes.append(("%r scores %.4g", names, sums))
    places = [(ranks[i], -score, i) for i, score in enumerate(sums)]
    places.sort()
    return [names[i] for _, _, i in places]


def scores(objective: Objective, targets: Sequence[TargetFacts]) -> list[float]:
    """What `objective` gives each target. A time or quality that is not known counts as the mean of those that are:
    nobody wins or loses by not having been tried."""
    seconds, quality = [t.total_s for t in targets], [t.quality for t in targets]
    if 0.0 in seconds:
        seconds = _filled(seconds)
    if 0.0 in quality:
        quality = _filled(quality)
    for_quality, for_dollars, for_seconds = objective.quality, objective.dollars, objective.seconds
    found = [
        for_quality * quality[i] - for_dollars * target.cost - for_seconds * seconds[i]
        for i, target in enumerate(targets)
    ]
    return found if math.isfinite(sum(found)) else [s if math.isfinite(s) else -math.inf for s in found]


def _ranks(
    rule: Rule,
    targets: Sequence[TargetFacts],
    names: Sequence[str],
    scene: Scene,
    evaluator: Evaluator,
    notes: list[Note],
) -> list[int]:
    """How far back each target belongs, with a reason where not all belong there."""
    limit = scene.request.deadline_s or math.inf
    if rule.deadline is not None:
        limit = min(limit, rule.deadline)
    ranks = [LATE if t.total_s > limit else 0 for t in targets]
    late = [name for name, rank in zip(names, ranks, strict=True) if rank] if LATE in ranks else ()
    if rule.where is not None:
        whys = evaluator.each(rule.where, targets, scene, "does not hold")
        amiss = [i for i, why in enumerate(whys) if why]
        for i in amiss:
            ranks[i] += AMISS
        if 0 < len(amiss) < len(targets):
            columns = [names[i] for i in amiss], [rule.where.source] * len(amiss), [whys[i] for i in amiss]
            notes.append(("%r later: %r %s", *columns))
    if 0 < len(late) < len(targets):
        notes.append((MISSES, late))
    return ranks


def _filled(values: list[float]) -> list[float]:
    """With the mean of those that are known in place of each 0."""
    known = [v for v in values if 0.0 < v < math.inf]
    if not known:
        return values
    mean = math.fsum(known) / len(known)
    return [v or mean for v in values]


def _fits(request: RequestFacts, target: TargetFacts) -> bool:
    """Into a context of which the size is known."""
    return request.prompt_tokens + answer_tokens(request, target.answer_tokens) <= target.context_tokens


def _able(request: RequestFacts, targets: Sequence[TargetFacts], notes: list[Note]) -> list[TargetFacts]:
    """Those that are neither too small nor down, with a reason for each other."""
    faults = [t.context_tokens > 0 and not _fits(request, t) for t in targets]
    fit = _without(targets, faults, "estimated too long for its context", notes)
    return _without(fit, [not t.healthy for t in fit], "not healthy", notes)


def _without(targets: Sequence[TargetFacts], faults: Sequence[bool], why: str, notes: list[Note]) -> list[TargetFacts]:
    """An estimate is no proof: where it would leave nobody, the target itself has the last word."""
    if not any(faults) or all(faults):
        return list(targets)
    left_out = [t.name for t, fault in zip(targets, faults, strict=True) if fault]
    notes.append(("%r left out: %s", left_out, [why] * len(left_out)))
    return [t for t, fault in zip(targets, faults, strict=True) if not fault]
