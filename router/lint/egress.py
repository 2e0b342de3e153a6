"""The no-egress property: no request of a kind ever reaches a target that is not on this machine. Proved for the whole
policy, or broken by a request that the router's own stages were seen to send out, or neither, and then said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from foreshore.errors import ConfigError
from foreshore.router.decide import Decision
from foreshore.router.honours import UNCOMMON
from foreshore.router.lint.atoms import TRUE
from foreshore.router.lint.finding import telling
from foreshore.router.lint.reach import Reach
from foreshore.router.lint.situation import situation_of
from foreshore.router.lint.solve import Found, Nothing, Open, solve
from foreshore.router.lint.terms import Term, among, both, term_of
from foreshore.router.lint.types import check_types
from foreshore.router.lint.values import Values
from foreshore.router.policy import load_scene
from foreshore.router.rules import SCENE, Evaluator, Expression
from foreshore.router.situation import Situation
from foreshore.types import Request

__all__ = ["PRIVATE", "Egress", "Witness", "prove"]

PRIVATE = "request.private"
Verdict = Literal["proved", "broken", "not proved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A request that the property speaks of, and how it gets out. `given`: what of it and around it matters; `fields`:
    what it must ask for besides, that not all targets honour."""

    target: str
    rule: str  # "pinned" where the request names the target
    targets: Sequence[str]  # as decided, in order
    given: Mapping[str, Any]
    situation: Situation
    fields: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        request = {**asdict(self.situation.request), "labels": list(self.situation.request.labels)}
        found = {"target": self.target, "rule": self.rule, "targets": list(self.targets)}
        return {**found, "given": dict(self.given), "fields": list(self.fields), "request": request}


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """`by` a proof: what keeps the request in. `because`: the expressions that stand in the way of a proof."""

    property: str
    verdict: Verdict
    targets: Sequence[str] = ()  # those not on this machine
    by: Mapping[str, str] = field(default_factory=dict)
    witness: Witness | None = None
    because: Sequence[str] = ()


def prove(reach: Reach, kind: str = PRIVATE) -> Egress:
    """`kind` is CEL over what a `when` sees. Raises `ConfigError` where it is none."""
    mistakes = check_types(kind, where="--no-egress", sees=SCENE)
    if mistakes:
        raise ConfigError("\n".join(map(str, mistakes)))
    proof = _Proof(reach, Expression.compile(kind, where="--no-egress", sees=SCENE))
    away = [name for name, spec in reach.config.targets.items() if not spec.local]
    by: dict[str, str] = {}
    because: dict[str, None] = {}
    for name in away:
        found = proof.of(name)
        if isinstance(found, Witness):
            return Egress(property=kind, verdict="broken", targets=away, witness=found)
        if isinstance(found, Open):
            because.update(dict.fromkeys(found.because))
        else:
            by[name] = found
    verdict: Verdict = "not proved" if because else "proved"
    return Egress(property=kind, verdict=verdict, targets=away, by=by, because=tuple(because))


class _Proof:
    """That no request of one kind reaches a target."""

    def __init__(self, reach: Reach, kind: Expression) -> None:
        self._reach, self._kind, self._evaluator = reach, kind, Evaluator([kind])
        asked = term_of(kind.source)
        self._asked = both(reach.possible_of(asked), among(asked, TRUE))

    def of(self, target: str) -> Witness | Open | str:
        """A request that reaches `target`, or what prevents every one, or what stands in the way of saying so."""
        if self._never(self._reach.built_in(target)):
            return "built in"
        if self._never(self._reach.may_see(target)):
            return "constraints"
        because: list[str] = []
        for way in (self._reach.chosen(target), self._reach.pinned(target)):
            found = solve(both(self._asked, way), self._reach.domain, lambda v: self._arrives(v, target))
            if isinstance(found, Found):
                return self._witness(found.values, target)
            because += found.because if isinstance(found, Open) else ()
        return Open(tuple(dict.fromkeys(because))) if because else "rules"

    def _never(self, term: Term) -> bool:
        return isinstance(solve(both(self._asked, term), self._reach.domain), Nothing)

    def _arrives(self, values: Values, target: str) -> bool:
        """Whether the engine and the router's own stages say so too."""
        situation = situation_of(values, self._reach.config)
        with self._evaluator as evaluator:
            load_scene(evaluator, situation.request, situation.device, situation.budget, situation.now)
            if evaluator.ask(self._kind)[0] is not True:
                return False
        return self._sent(situation, target) is not None

    def _sent(self, situation: Situation, target: str) -> tuple[Decision, Mapping[str, Any]] | None:
        """The decision that tries `target`, and the uncommon fields that the request needs for it; the fewest."""
        facts = situation.request
        for extra in ({}, UNCOMMON.get(facts.task, {})):
            request = Request(task=facts.task, model=facts.model, extra=extra)
            decision = situation.judged(self._reach.config, self._reach.policy, request).decision
            if decision is not None and target in decision.targets:
                return decision, extra
        return None

    def _witness(self, values: Values, target: str) -> Witness:
        situation = situation_of(values, self._reach.config)
        sent = self._sent(situation, target)
        assert sent is not None  # `_arrives` has seen it
        decision, extra = sent
        return Witness(
            target=target,
            rule=decision.rule,
            targets=decision.targets,
            given=telling(self._reach, values),
            situation=situation,
            fields=tuple(extra),
        )
