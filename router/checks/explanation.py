"""One decision taken apart: what was seen, which constraints and rules held, what speaks against each target, and what
little would have changed the choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from foreshore.errors import ForeshoreError
from foreshore.router.checks.changes import changed
from foreshore.router.checks.counterfactual import Flip, smallest_flip
from foreshore.router.decide import AUTO
from foreshore.router.facts import TargetFacts
from foreshore.router.policy import Constraint, Rule, load_scene
from foreshore.router.rules import Expression
from foreshore.router.situation import Situation, Stage, Verdict
from foreshore.types import Request

__all__ = ["Explanation", "Judged", "explain"]

Outcome = Literal["held", "did not hold", "undecided", "not asked"]
ESTIMATES = ("ttft_s", "ttft_p90_s", "total_s", "p90_s", "on_time", "quality", "cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a constraint or a rule came to. `outcome` of a rule that came after the one that decided: "not asked"."""

    name: str
    when: str
    outcome: Outcome
    why: str = ""  # nobody can say
    then: str = ""  # what it does where it holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """`rejected`: each target that is not tried, and why; `later`: each that is tried but not first, and why not."""

    situation: Situation
    verdict: Verdict
    fields: Mapping[str, Any]  # those that the policy looks at
    constraints: Sequence[Judged]
    rules: Sequence[Judged]
    rejected: Mapping[str, Sequence[str]]
    later: Mapping[str, Sequence[str]]
    flip: Flip | None

    def estimates(self, target: TargetFacts) -> dict[str, float | None]:
        """None is unknown, which rules see as 0, and in `on_time` as 1."""
        found: dict[str, float | None] = {name: getattr(target, name) or None for name in ESTIMATES}
        found["cost"] = target.cost
        found["on_time"] = None if self.situation.request.deadline_s and not target.total_s else target.on_time
        return found


def explain(
    situation: Situation,
    stage: Stage,
    settings: Mapping[str, Any] | None = None,
    request: Request | None = None,
    *,
    recorded: bool = False,
) -> Explanation:
    """`situation` with `settings`, decided on. `recorded`: predictions stay what they were, even where a change of the
    request would change them."""
    base = dict(settings or {})
    seen = _staged(situation, stage, base, recorded)
    verdict = stage.judged(seen, request)

    def first(more: Mapping[str, Any]) -> str:
        return stage.judged(_staged(situation, stage, {**base, **more}, recorded), request).first

    constraints, rules = _asked(seen, stage, verdict)
    return Explanation(
        situation=seen,
        verdict=verdict,
        fields=_fields(seen, stage),
        constraints=constraints,
        rules=rules,
        rejected={t.name: why for t in seen.targets if (why := list(_against(t.name, seen, stage, verdict)))},
        later=_later(verdict),
        flip=smallest_flip(seen, stage.config, stage.policy, first) if seen.request.model in AUTO else None,
    )


def _staged(situation: Situation, stage: Stage, settings: Mapping[str, Any], recorded: bool) -> Situation:
    """With what targets would be for the request as it was changed."""
    asks = {name: value for name, value in settings.items() if name.startswith("request.")}
    found = changed(situation, asks)
    if asks and not recorded:
        found = replace(found, targets=stage.situation_of(found.request).targets)
    return changed(found, {name: value for name, value in settings.items() if name not in asks})


def _fields(situation: Situation, stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(stage.policy.reads | {"request.prompt_tokens", "request.private"}):
        part, _, name = path.partition(".")
        if part != "target" and path != "request.text":
            value = getattr(getattr(situation, part), name)
            found[path] = list(value) if isinstance(value, tuple) else value
    return found


def _asked(situation: Situation, stage: Stage, verdict: Verdict) -> tuple[list[Judged], list[Judged]]:
    """The constraints and the rules, as far as they were asked."""
    with stage.policy.evaluator as evaluator:
        load_scene(evaluator, situation.request, situation.device, situation.budget, situation.now)
        ask = evaluator.ask
        constraints = [_judged(c.name, c.when, ask(c.when), _then(c)) for c in stage.policy.constraints]
        rules: list[Judged] = []
        over = situation.request.model not in AUTO
        for rule in stage.policy.rules:
            if over:
                rules.append(Judged(name=rule.name, when=rule.when.source, outcome="not asked", then=_does(rule)))
                continue
            rules.append(_judged(rule.name, rule.when, ask(rule.when), _does(rule)))
            refused = bool(rule.refuse) and rules[-1].outcome == "held"
            over = refused or (verdict.decision is not None and verdict.decision.rule == rule.name)
    return constraints, rules


def _judged(name: str, when: Expression, found: tuple[bool | None, str], then: str) -> Judged:
    holds, why = found
    outcome: Outcome = "undecided" if holds is None else "held" if holds else "did not hold"
    return Judged(name=name, when=when.source, outcome=outcome, why=why, then=then)


def _then(constraint: Constraint) -> str:
    if constraint.require is not None:
        return f"requires {constraint.require.source}"
    if constraint.allow is not None:
        return f"allows only {', '.join(constraint.allow)}"
    return (
        f"forbids {', '.join(constraint.forbid)}" if constraint.forbid is not None else f"refuses: {constraint.refuse}"
    )


def _does(rule: Rule) -> str:
    if rule.refuse:
        return f"refuses: {rule.refuse}"
    where = f" where {rule.where.source}" if rule.where is not None else ""
    return f"prefers {', '.join(rule.prefer)}{where}"


def _against(name: str, situation: Situation, stage: Stage, verdict: Verdict) -> Iterator[str]:
    """Why `name` is not tried."""
    excluded = [e for e in verdict.clearing.excluded if e.target == name]
    yield from (f"{e.constraint}: {e.reason}" for e in excluded)
    decision = verdict.decision
    if excluded or (decision is not None and name in decision.targets):
        return
    if decision is None:
        yield f"nobody is asked: {_message(verdict.error)}"
        return
    said = [reason for reason in decision.reasons if reason.startswith(f"{name!r} left out")]
    rule = next((r for r in (*stage.policy.rules, stage.policy.default) if r.name == decision.rule), None)
    if rule is None:
        said = said or ["the request names another target"]
    elif name not in rule.prefer:
        said = [f"rule {rule.name!r} does not prefer it"]
    yield from (reason.removeprefix(f"{name!r} ") for reason in said)


def _later(verdict: Verdict) -> dict[str, Sequence[str]]:
    decision = verdict.decision
    if decision is None:
        return {}
    found: dict[str, Sequence[str]] = {}
    for before, name in pairwise(decision.targets):
        said = [r.removeprefix(f"{name!r} ") for r in decision.reasons if r.startswith(f"{name!r} ")]
        said = [reason.removeprefix("later: ") for reason in said]
        found[name] = said or [f"after {before!r} in the order of {decision.rule!r}"]
    return found


def _message(error: ForeshoreError | None) -> str:
    return error.message if error is not None else ""
