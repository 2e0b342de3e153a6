"""What a policy is made of: constraints, and the rules after them, each compiled from what a config says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from foreshore import policy_config as written
from foreshore.policy_config import Objective
from foreshore.router.rules import OF_TARGETS, SCENE, Expression

__all__ = ["ALWAYS", "Constraint", "Exclusion", "Rule", "constraint_of", "rule_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """Where `when` holds, the one of `require`, `allow`, `forbid` and `refuse` that is set says who may see it."""

    name: str
    when: Expression
    require: Expression | None = None
    allow: tuple[str, ...] | None = None
    forbid: tuple[str, ...] | None = None
    refuse: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Where `when` holds, how the targets in `prefer` are tried. `refuse`: that nobody answers, and why."""

    name: str
    when: Expression
    prefer: tuple[str, ...]
    where: Expression | None = None
    objective: Objective | None = None
    strategy: str = "fallback"
    confidence: float = 0.0
    deadline: float | None = None
    refuse: str = ""


class Exclusion(NamedTuple):
    """A target that may not see a request, and why."""

    target: str
    constraint: str  # "privacy", "task", "fields", or a constraint's name in the config
    reason: str
    fields: tuple[str, ...] = ()  # of the request, that the target does not honour
    message: str = ""  # what the caller is told, by a constraint that refuses


ALWAYS = Expression.compile("true", where="built in", sees=SCENE)


def constraint_of(given: written.Constraint, where: str) -> Constraint:
    place = f"{where}: constraint {given.name!r}"
    return Constraint(
        name=given.name,
        when=Expression.compile(given.when, where=f"{place}, when", sees=SCENE),
        require=_optional(given.require, f"{place}, require"),
        allow=given.allow,
        forbid=given.forbid,
        refuse=given.refuse or "",
    )


def rule_of(given: written.Rule, where: str, everyone: tuple[str, ...]) -> Rule:
    place = f"{where}: rule {given.name!r}"
    return Rule(
        name=given.name,
        when=Expression.compile(given.when, where=f"{place}, when", sees=SCENE),
        prefer=given.prefer or everyone,
        where=_optional(given.where, f"{place}, where"),
        objective=given.objective,
        strategy=given.strategy,
        confidence=given.confidence or 0.0,
        deadline=given.deadline,
        refuse=given.refuse or "",
    )


def _optional(source: str | None, where: str) -> Expression | None:
    return None if source is None else Expression.compile(source, where=where, sees=OF_TARGETS)
