"""The compiled half of a config: constraints and rules, ready to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from foreshore.config import Config, Constraint
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.rules import Evaluator, Expression, Undecided

__all__ = ["Policy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Constraint:
    name: str
    when: Expression
    require: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    name: str
    when: Expression
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A rule that holds of a request, or (`why_not`) one that could not be evaluated and is passed over."""

    name: str
    targets: tuple[str, ...]
    why_not: str = ""


def _by_name(constraint: Constraint) -> str:
    """`allow`, `forbid` and `refuse` as the expression that `require` would be."""
    if constraint.refuse is not None:
        return "false"
    named = ", ".join(f"'{name}'" for name in constraint.allow or constraint.forbid or ())
    return f"target.name in [{named}]" if constraint.allow else f"!(target.name in [{named}])"


class Policy:
    """Raises `ConfigError` for an expression that cannot be right. Evaluation is deterministic and keeps no state."""

    def __init__(self, config: Config, *, where: str = "foreshore.yaml") -> None:
        self.default = config.fallback_order
        self.constraints = tuple(
            _Constraint(
                name=c.name,
                when=Expression.compile(c.when, where=f"{where}: constraint {c.name!r}, when", sees=("request",)),
                require=Expression.compile(
                    c.require or _by_name(c),
                    where=f"{where}: constraint {c.name!r}, require",
                    sees=("request", "target"),
                ),
            )
            for c in config.constraints
        )
        self.rules = tuple(
            _Rule(
                name=r.name,
                when=Expression.compile(r.when, where=f"{where}: rule {r.name!r}, when", sees=("request",)),
                targets=r.prefer or tuple(config.targets),
            )
            for r in config.rules
        )
        expressions = [e for c in self.constraints for e in (c.when, c.require)] + [r.when for r in self.rules]
        self._evaluator = Evaluator(expressions)

    def forbids(self, request: RequestFacts, targets: Sequence[TargetFacts]) -> list[tuple[str, str, str]]:
        """(target, constraint, reason) for each target a constraint keeps away. What cannot be evaluated forbids."""
        found: list[tuple[str, str, str]] = []
        with self._evaluator.lock:
            self._evaluator.load("request", request)
            for constraint in self.constraints:
                applies, why = self._ask(constraint.when)
                if applies is False:
                    continue
                for target in targets:
                    self._evaluator.load("target", target)
                    allowed, why_not = (None, why) if applies is None else self._ask(constraint.require)
                    if not allowed:
                        found.append((target.name, constraint.name, why_not or f"requires {constraint.require.source}"))
        return found

    def matches(self, request: RequestFacts) -> list[Match]:
        """The rules that hold, in order, up to all of them; the default last."""
        found: list[Match] = []
        with self._evaluator.lock:
            self._evaluator.load("request", request)
            for rule in self.rules:
                holds, why = self._ask(rule.when)
                if holds is not False:
                    found.append(Match(name=rule.name, targets=rule.targets, why_not=why))
        return [*found, Match(name="default", targets=self.default)]

    def _ask(self, expression: Expression) -> tuple[bool | None, str]:
        try:
            return self._evaluator.holds(expression), ""
        except Undecided as undecided:
            return None, undecided.reason
