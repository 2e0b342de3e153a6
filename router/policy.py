"""The compiled half of a config: constraints and rules, its own and those of shipped policies, ready to be asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from foreshore.config import Config
from foreshore.errors import ConfigError
from foreshore.router.clauses import ALWAYS, Constraint, Exclusion, Rule, constraint_of, rule_of
from foreshore.router.facts import BudgetFacts, ClockFacts, DeviceFacts, RequestFacts, TargetFacts
from foreshore.router.language import require_identifier
from foreshore.router.library import shipped
from foreshore.router.plain import HELPERS
from foreshore.router.program import Scene, all_of, first_of
from foreshore.router.rules import Evaluator, Expression

__all__ = ["ALWAYS", "Constraint", "Exclusion", "Match", "Note", "Policy", "Rule", "Scene", "load_scene"]

Note = tuple[Any, ...]  # reasons yet to be put into words: a format, and columns of what goes into it, row by row


class Match(NamedTuple):
    """A rule that holds, the one with this `number`, and which before it could not be evaluated."""

    number: int
    rule: Rule
    notes: Sequence[Note] = ()


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
        self.constraints = tuple(constraint_of(c, place) for constraints, _, place in parts for c in constraints)
        self.rules = tuple(rule_of(r, place, tuple(config.targets)) for _, rules, place in parts for r in rules)
        self.candidates = (*self.rules, self.default)
        _check_unique("constraint", (c.name for c in self.constraints), where)
        _check_unique("rule", (r.name for r in self.rules), where)
        expressions = [*self._expressions()]
        self.evaluator = Evaluator(expressions)
        self._first = self._compiled(first_of, [rule.when for rule in self.candidates])
        self._applying = self._compiled(all_of, [constraint.when for constraint in self.constraints])
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

    def _compiled(self, how: Any, whens: Sequence[Expression]) -> Any:
        """One function of all `whens`. It raises where one cannot be evaluated: then each is asked alone."""
        trees = [None if when.plain is None else when.plain.tree for when in whens]
        return how(trees, HELPERS, lambda number, scene: self.evaluator.sure(whens[number], scene))

    def match(self, scene: Scene, after: int = -1) -> Match | None:
        """The first rule that holds, the default among them; of those after the one with the number `after`."""
        if after < 0:
            try:
                number = self._first(scene)
                return Match(number, self.candidates[number])
            except Exception:  # which of them it was is found out below
                pass
        notes: list[Note] = []
        with self.evaluator as evaluator:
            evaluator.load_scene(scene)
            for number, rule in enumerate(self.candidates[after + 1 :], start=after + 1):
                holds, why = evaluator.ask(rule.when)
                if holds:
                    return Match(number, rule, notes)
                if why:
                    notes.append(("rule %r skipped: its condition %s", [rule.name], [why]))
        return None

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
        if not self.constraints:
            return []
        scene = Scene(request, device, budget, now)
        objections = []
        for constraint, why in self._apply(scene):
            reasons = [why] * len(targets) if why else self._objections(constraint, targets, scene)
            if any(reasons):
                objections.append((constraint, reasons))
        return [
            Exclusion(target.name, constraint.name, reasons[i], message=constraint.refuse)
            for i, target in enumerate(targets if objections else ())
            for constraint, reasons in objections
            if reasons[i]
        ]

    def _apply(self, scene: Scene) -> list[tuple[Constraint, str]]:
        """Those whose `when` holds, and those of which nobody can say, with the reason."""
        try:
            return [(c, "") for c, holds in zip(self.constraints, self._applying(scene), strict=True) if holds]
        except Exception:
            pass
        with self.evaluator as evaluator:
            evaluator.load_scene(scene)
            found = [(constraint, *evaluator.ask(constraint.when)) for constraint in self.constraints]
        return [(constraint, why) for constraint, holds, why in found if holds is not False]

    def _objections(self, constraint: Constraint, targets: Sequence[TargetFacts], scene: Scene) -> list[str]:
        """Why `constraint`, which applies, keeps each target away; "" if it does not."""
        if constraint.require is not None:
            return self.evaluator.each(constraint.require, targets, scene, f"requires {constraint.require.source}")
        allow, forbid = constraint.allow, constraint.forbid
        if allow is not None:
            return ["" if target.name in allow else f"allows only {', '.join(allow)}" for target in targets]
        if forbid is not None:
            return [f"forbids {', '.join(forbid)}" if target.name in forbid else "" for target in targets]
        return [constraint.refuse] * len(targets)


def load_scene(
    evaluator: Evaluator, request: RequestFacts, device: DeviceFacts, budget: BudgetFacts, now: ClockFacts
) -> None:
    """All that a `when` sees."""
    evaluator.load_scene(Scene(request, device, budget, now))


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
