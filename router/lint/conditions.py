"""Conditions that cannot be meant: they never hold, always do, or cannot be evaluated on some requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from foreshore.router.lint.atoms import ERROR, FALSE, TRUE, Atom
from foreshore.router.lint.finding import SHIPPED, Finding, in_words
from foreshore.router.lint.reach import Reach
from foreshore.router.lint.solve import Found, Nothing, solve
from foreshore.router.lint.terms import Term, among, atoms_of, both, term_of
from foreshore.router.rules import Expression

__all__ = ["conditions", "never"]


def conditions(reach: Reach) -> Iterator[Finding]:
    for constraint in reach.policy.constraints:
        yield from _expression(reach, constraint.when)
        if constraint.require is not None:
            yield from _expression(reach, constraint.require, reach.config.targets)
    for rule in reach.policy.rules:
        yield from _expression(reach, rule.when)
        if rule.where is not None:
            yield from _expression(reach, rule.where, rule.prefer)


def _expression(reach: Reach, expression: Expression, targets: Iterable[str] = ("",)) -> Iterator[Finding]:
    """What the file's own `expression` cannot be, as a whole or in one of its comparisons."""
    if expression.where.startswith(SHIPPED):
        return
    terms = [term_of(expression.source, target) for target in targets]
    if not never(reach, terms, TRUE):
        dead = [
            _atom_finding(reach, expression, [a for t in terms for a in atoms_of(t) if a.text == text])
            for text in _texts(terms)
        ]
        yield from (finding for finding in dead if finding is not None)
    else:
        yield Finding(code="never", where=expression.where, message=f"never holds: {expression.source!r}")
    failing = next((s for t in terms if isinstance(s := solve(_within(reach, t, ERROR), reach.domain), Found)), None)
    if failing is not None:
        what = f"cannot be evaluated {in_words(reach, failing.values)}: {expression.source!r}"
        yield Finding(code="fails", where=expression.where, message=what, serious=False)


def _texts(terms: Iterable[Term]) -> list[str]:
    return list(dict.fromkeys(atom.text for term in terms for atom in atoms_of(term) if atom.slots))


def _atom_finding(reach: Reach, expression: Expression, atoms: Sequence[Atom]) -> Finding | None:
    terms = [Term("atom", atom=atom) for atom in atoms]
    if never(reach, terms, TRUE):
        return Finding(code="never", where=expression.where, message=f"can never hold: {atoms[0].text!r}")
    if never(reach, terms, FALSE | ERROR) and not all(atom.target for atom in atoms):
        return Finding(code="always", where=expression.where, message=f"always holds: {atoms[0].text!r}", serious=False)
    return None


def never(reach: Reach, terms: Iterable[Term], wanted: int) -> bool:
    """Whether no request, whatever it asks and of whatever target, gives an outcome in `wanted`."""
    return all(isinstance(solve(_within(reach, term, wanted), reach.domain), Nothing) for term in terms)


def _within(reach: Reach, term: Term, wanted: int) -> Term:
    return both(reach.possible, among(term, wanted))
