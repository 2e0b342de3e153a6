"""Which requests may reach which target, as formulas: what `constrain` and `decide` do, written down for a proof.

The formulas allow what the stages allow or more: a target counts as reached by a rule that prefers it and that it may
answer, in whatever order, by whatever strategy, healthy or not, by chance or not. A rule before it counts as deciding
only where it leaves a target that honours whatever the later one does: a field too many passes a rule over.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator
from dataclasses import fields
from functools import cached_property
from typing import get_args

from foreshore.config import Config, Kind
from foreshore.router.decide import AUTO
from foreshore.router.facts import NO_BUDGET, BudgetFacts
from foreshore.router.honours import honours_too
from foreshore.router.label import PRIVATE_WORDS
from foreshore.router.lint.atoms import FALSE, HEADERS, TRUE, Slot
from foreshore.router.lint.situation import fixed_of
from foreshore.router.lint.terms import Term, among, atoms_of, both, either, negated, term_of
from foreshore.router.lint.values import Domain
from foreshore.router.policy import Constraint, Policy, Rule

__all__ = ["Reach"]

KINDS: tuple[Kind, ...] = get_args(Kind)


class Reach:
    """The formulas of one policy. Each is true or false, never undecided."""

    def __init__(self, config: Config, policy: Policy) -> None:
        self.config, self.policy = config, policy
        self._seen: dict[tuple[str, str], Term] = {}
        self._lets: dict[tuple[str, str, str], Term] = {}
        self.default = policy.default

    @cached_property
    def domain(self) -> Domain:
        fixed = {slot: value for name in self.config.targets for slot, value in fixed_of(name, self.config).items()}
        if not self.config.budgets:
            fixed |= {Slot(f"budget.{f.name}"): getattr(NO_BUDGET, f.name) for f in fields(BudgetFacts)}
        # Each answer has tokens, so one that is paid for by the token never costs nothing.
        paid = [name for name, spec in self.config.targets.items() if spec.price.output]
        return Domain(self.config, fixed, {Slot("target.cost", name): math.nextafter(0.0, 1.0) for name in paid})

    @cached_property
    def possible(self) -> Term:
        """What `label` makes true of every request, as far as the policy looks at it."""
        expressions = [e for c in self.policy.constraints for e in (c.when, c.require) if e is not None]
        expressions += [e for r in self.policy.rules for e in (r.when, r.where) if e is not None]
        found = [_holds("request.private == (size(request.labels) > 0)")]
        private = [tenant.name for tenant in self.config.tenants if tenant.private]
        if private:
            found.append(_holds(f"!(request.tenant in {_listed(private)}) || 'tenant' in request.labels"))
        return both(*found, *(self._header(*(term_of(e.source) for e in expressions))))

    def possible_of(self, kind: Term) -> Term:
        """The same, as far as the policy or `kind` looks at it."""
        return both(self.possible, *self._header(kind))

    def _header(self, *terms: Term) -> list[Term]:
        """The privacy header and its label, where one of `terms` looks at the header."""
        name = self.config.privacy.header
        if not any(Slot(f"{HEADERS}['{name}']") in atom.slots for term in terms for atom in atoms_of(term)):
            return []
        words = "|".join(word for word, private in PRIVATE_WORDS.items() if private)
        asks = f"request.headers['{name}'].matches('(?i)(^|,)\\\\s*({words})\\\\s*(,|$)')"
        return [_holds(f"!('{name}' in request.headers && {asks}) || 'header' in request.labels")]

    def open(self, slot: Slot) -> bool:
        """Whether it is of a target's state, and not certain by the config."""
        return bool(slot.target) and slot not in self.domain.fixed

    def built_in(self, target: str) -> Term:
        """Privacy and the tasks it serves. That a target may not honour some field of a request is for `comes_to`."""
        spec = self.config.targets[target]
        serves = _holds(f"request.task in {_listed(spec.serves)}")
        return serves if spec.local else both(serves, among(term_of("request.private"), FALSE))

    def may_see(self, target: str, alias: str = "") -> Term:
        """No constraint keeps a request from `target`. `alias`: a name for its state, where it is not its own."""
        key = (target, alias or target)
        if key not in self._seen:
            constraints = [self.lets(constraint, *key) for constraint in self.policy.constraints]
            self._seen[key] = both(self.built_in(target), *constraints)
        return self._seen[key]

    def lets(self, constraint: Constraint, target: str, alias: str) -> Term:
        """`constraint` does not apply, or lets `target` be. One that cannot be evaluated keeps everyone away."""
        require = constraint.require
        if require is not None and alias != target and not any(map(self.open, _slots(require.source, target))):
            alias = target  # which it does not look at
        key = (constraint.name, target, alias)
        if key not in self._lets:
            self._lets[key] = self._made(constraint, target, alias)
        return self._lets[key]

    def _made(self, constraint: Constraint, target: str, alias: str) -> Term:
        off, on = among(term_of(constraint.when.source), FALSE), among(term_of(constraint.when.source), TRUE)
        if constraint.require is not None:
            return either(off, both(on, among(term_of(constraint.require.source, alias), TRUE)))
        if constraint.allow is not None and target in constraint.allow:
            return either(off, on)
        if constraint.forbid is not None and target not in constraint.forbid:
            return either(off, on)
        return off

    def holds(self, rule: Rule) -> Term:
        return among(term_of(rule.when.source), TRUE)

    def leaves(self, rule: Rule, kinds: Container[Kind] = KINDS) -> Term:
        """Some target of `rule` may answer, among those of `kinds`."""
        return either(*(self.may_see(name) for name in rule.prefer if self.config.targets[name].kind in kinds))

    def comes_to(self, rule: Rule, kinds: Container[Kind] = KINDS) -> Term:
        """The caller pins nothing, and no rule before `rule` decides or refuses. `kinds`: which are sure to honour the
        request's fields."""
        before = self.policy.rules if rule is self.default else self.policy.rules[: self.policy.rules.index(rule)]
        ends = [self.holds(r) if r.refuse else both(self.holds(r), self.leaves(r, kinds)) for r in before]
        return both(_holds(f"request.model in {_listed(AUTO)}"), *map(negated, ends))

    def chosen(self, target: str) -> Term:
        """A rule, or the default, tries `target` for a request that pins nothing."""
        rules = [rule for rule in (*self.policy.rules, self.default) if target in rule.prefer and not rule.refuse]
        kinds = honours_too(self.config.targets[target].kind)
        ways = [both(self.holds(rule), self.comes_to(rule, kinds)) for rule in rules]
        return both(self.may_see(target), either(*ways))

    def pinned(self, target: str) -> Term:
        """The request names `target`, or its model."""
        names = _listed([target, self.config.targets[target].model])
        return both(self.may_see(target), _holds(f"request.model in {names}"))


def _slots(source: str, target: str) -> Iterator[Slot]:
    return (slot for atom in atoms_of(term_of(source, target)) for slot in atom.slots)


def _holds(source: str) -> Term:
    return among(term_of(source), TRUE)


def _listed(words: Iterable[str]) -> str:
    """A list of strings, as CEL writes it."""
    return "[" + ", ".join(_quoted(word) for word in words) + "]"


def _quoted(word: str) -> str:
    escaped = "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in word)
    return f"'{escaped}'"
