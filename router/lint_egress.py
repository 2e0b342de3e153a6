"""The no-egress property: no request of a kind ever reaches a target that is not on this machine. Proved for the whole
policy, or broken by a request that the router's own stages were seen to send out, or neither, and then said so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from foreshore.errors import ConfigError
from foreshore.router.lint_reach import Reach
from foreshore.router.lint_scene import Scene, scene_of
from foreshore.router.lint_solve import Found, Nothing, Open, solve
from foreshore.router.lint_terms import TRUE, Term, among, both, term_of
from foreshore.router.lint_types import check_types
from foreshore.router.lint_values import Values
from foreshore.router.rules import SCENE, Expression

__all__ = ["PRIVATE", "Egress", "Witness", "prove"]

PRIVATE = "request.private"


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A request that the property speaks of, and how it gets out. `given`: what of it, and of the scene, matters."""

    target: str
    rule: str  # "pinned" where the request names the target
    targets: Sequence[str]  # as decided, in order
    given: Mapping[str, Any]
    scene: Scene

    def as_json(self) -> dict[str, Any]:
        request = {**asdict(self.scene.request), "labels": list(self.scene.request.labels)}
        found = {"target": self.target, "rule": self.rule, "targets": list(self.targets)}
        return {**found, "given": dict(self.given), "request": request}


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """`by` a proof: what keeps the request in. `because`: the expressions that stand in the way of a proof."""

    property: str
    verdict: Literal["proved", "broken", "not proved"]
    targets: Sequence[str] = ()  # those not on this machine
    by: Mapping[str, str] = field(default_factory=dict)
    witness: Witness | None = None
    because: Sequence[str] = ()


def prove(reach: Reach, kind: str = PRIVATE) -> Egress:
    """`kind` is CEL over what a `when` sees. Raises `ConfigError` where it is none."""
    where = "--no-egress"
    mistakes = check_types(kind, where=where, sees=SCENE)
    if mistakes:
        raise ConfigError("\n".join(map(str, mistakes)))
    Expression.compile(kind, where=where, sees=SCENE)
    away = [name for name, spec in reach.config.targets.items() if not spec.local]
    asked = both(reach.possible, among(term_of(kind), TRUE))
    by: dict[str, str] = {}
    because: dict[str, None] = {}
    for name in away:
        found = _reached(reach, asked, name)
        if isinstance(found, Witness):
            return Egress(property=kind, verdict="broken", targets=away, witness=found)
        if isinstance(found, Open):
            because.update(dict.fromkeys(found.because))
        else:
            by[name] = found
    return Egress(
        property=kind, verdict="not proved" if because else "proved", targets=away, by=by, because=tuple(because)
    )


def _reached(reach: Reach, asked: Term, target: str) -> Witness | Open | str:
    """A request that reaches `target`, or what prevents every one, or what nobody can say."""
    if isinstance(solve(both(asked, reach.built_in(target)), reach.domain), Nothing):
        return "built in"
    if isinstance(solve(both(asked, reach.may_see(target)), reach.domain), Nothing):
        return "constraints"
    ways = (reach.chosen(target), reach.pinned(target))
    found = [solve(both(asked, way), reach.domain, lambda v: _arrives(v, reach, target)) for way in ways]
    hit = next((f for f in found if isinstance(f, Found)), None)
    if hit is not None:
        return _witness(hit.values, reach, target)
    because = [reason for f in found if isinstance(f, Open) for reason in f.because]
    return Open(tuple(dict.fromkeys(because))) if because else "rules"


def _arrives(values: Values, reach: Reach, target: str) -> bool:
    decision = scene_of(values, reach.config).judged(reach.config, reach.policy).decision
    return decision is not None and target in decision.targets


def _witness(values: Values, reach: Reach, target: str) -> Witness:
    scene = scene_of(values, reach.config)
    decision = scene.judged(reach.config, reach.policy).decision
    assert decision is not None  # `_arrives` has seen it
    given = {str(s): v for s, v in sorted(values.items(), key=str) if v != reach.domain.default(s)}
    return Witness(target=target, rule=decision.rule, targets=decision.targets, given=given, scene=scene)
