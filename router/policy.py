"""The compiled half of a config: constraints and rules, its own and those of shipped policies, ready to be asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from foreshore import policy_config as written
from foreshore.config import Config
from foreshore.errors import ConfigError
from foreshore.policy_config import Objective
from foreshore.router.facts import BudgetFacts, ClockFacts, DeviceFacts, RequestFacts, TargetFacts
from foreshore.router.language import require_identifier
from foreshore.router.library import shipped
from foreshore.router.rules import OF_TARGETS, SCENE, Evaluator, Expression

__all__ = ["ALWAYS", "Constraint", "Exclusion", "Policy", "Rule", "load_scene"]


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


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A target that may not see a request, and why."""

    target: str
    constraint: str  # "privacy", "task", "fields", or a constraint's name in the config
    reason: str
    fields: tuple[str, ...] = ()  # of the request, that the target does not honour
    message: str = ""  # what the caller is told, by a constraint that refuses


ALWAYS = Expression.compile("true", where="built in", sees=SCENE)


class Policy:
    """Raises `ConfigError` for an expression that cannot be right. Evaluation is deterministic and keeps no state.

    `reads` are all fields that an expression or an objective looks at, as "target.quality": what is not among them
    need not be known. `default` is the rule after all others, which always holds; `candidates` are
    all of them.
    """

    def __init__(self, config: Config, *, where: str = "foreshore.yaml") -> None:
        parts = [(config.constraints, config.rules, where)]
        parts += [(p.constraints, p.rules, f"policy {p.name}") for p in (shipped(n, config) for n in config.policy)]
        self.default = Rule(name="default", when=ALWAYS, prefer=config.fallback_order)
        self.constraints = tuple(_constraint(c, place) for constraints, _, place in parts for c in constraints)
        self.rules = tuple(_rule(r, place, tuple(config.targets)) for _, rules, place in parts for r in rules)
        self.candidates = (*self.rules, self.default)
        _check_unique("constraint", (c.name for c in self.constraints), where)
        _check_unique("rule", (r.name for r in self.rules), where)
        expressions = [*self._expressions()]
        self.evaluator = Evaluator(expressions)
        self.reads = frozenset[str]().union(*(e.reads for e in expressions), *(_weighed(r) for r in self.rules))
        self.parts = frozenset(field.partition(".")[0] for field in self.reads)
        if "request.language" in self.reads:
            require_identifier()

    def _expressions(self) -> Iterator[Expression]:
        for constraint in self.constraints:
            yield constraint.when
            if constraint.require is not None:
                yield constraint.require
        for rule in self.rules:
            yield rule.when
            if rule.where is not None:
                yield rule.where

    def route(self, request: RequestFacts, *, device: DeviceFacts, budget: BudgetFacts, now: ClockFacts) -> str:
        """The name of the first rule that holds, "" where none of the file's does: what such requests have in common
        is known before any target is looked at."""
        with self.evaluator as evaluator:
            load_scene(evaluator, request, device, budget, now)
            return next((rule.name for rule in self.rules if evaluator.ask(rule.when)[0]), "")

    def forbids(
        self,
        request: RequestFacts,
        targets: Sequence[TargetFacts],
        *,
        device: DeviceFacts,
        budget: BudgetFacts,
        now: ClockFacts,
    ) -> list[Exclusion]:
        """Whom the constraints keep away. One that cannot be evaluated keeps away whomever it could."""
        found: list[Exclusion] = []
        if not self.constraints:
            return found
        with self.evaluator as evaluator:
            load_scene(evaluator, request, device, budget, now)
            applying = list(_applying(self.constraints, evaluator))
            for target in targets if applying else ():
                evaluator.load("target", target)
                for constraint, why in applying:
                    reason = why or _objection(constraint, target, evaluator)
                    if reason:
                        found.append(Exclusion(target.name, constraint.name, reason, message=constraint.refuse))
        return found


def load_scene(
    evaluator: Evaluator, request: RequestFacts, device: DeviceFacts, budget: BudgetFacts, now: ClockFacts
) -> None:
    """All that a `when` sees."""
    evaluator.load("request", request)
    evaluator.load("device", device)
    evaluator.load("budget", budget)
    evaluator.load("now", now)


def _applying(constraints: Iterable[Constraint], evaluator: Evaluator) -> Iterator[tuple[Constraint, str]]:
    """Those whose `when` holds, and those of which nobody can say, with the reason."""
    for constraint in constraints:
        holds, why = evaluator.ask(constraint.when)
        if holds is not False:
            yield constraint, why


def _objection(constraint: Constraint, target: TargetFacts, evaluator: Evaluator) -> str:
    """Why `constraint`, which applies, keeps the loaded `target` away; "" if it does not."""
    require = constraint.require
    if require is not None:
        holds, why = evaluator.ask(require)
        return "" if holds else why or f"requires {require.source}"
    if constraint.allow is not None:
        return "" if target.name in constraint.allow else f"allows only {', '.join(constraint.allow)}"
    if constraint.forbid is not None:
        return f"forbids {', '.join(constraint.forbid)}" if target.name in constraint.forbid else ""
    return constraint.refuse


def _constraint(given: written.Constraint, where: str) -> Constraint:
    place = f"{where}: constraint {given.name!r}"
    return Constraint(
        name=given.name,
        when=Expression.compile(given.when, where=f"{place}, when", sees=SCENE),
        require=_optional(given.require, f"{place}, require"),
        allow=given.allow,
        forbid=given.forbid,
        refuse=given.refuse or "",
    )


def _rule(given: written.Rule, where: str, everyone: tuple[str, ...]) -> Rule:
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


def _weighed(rule: Rule) -> frozenset[str]:
    """The fields that the rule's objective looks at."""
    if rule.objective is None:
        return frozenset()
    fields = {"quality": "target.quality", "dollars": "target.cost", "seconds": "target.total_s"}
    return frozenset(field for weight, field in fields.items() if getattr(rule.objective, weight))


def _check_unique(what: str, names: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"{where}: a {what} of a shipped policy is called {name!r} too", hint="rename yours")
        seen.add(name)
