"""A condition as a formula over atoms: what `&&`, `||`, `!` and `?:` join, down to comparisons and calls.

Outcomes are sets of bits, for what an atom can give where not everything about a request is known yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from foreshore.router.lint.atoms import ANY, COMPARISONS, ERROR, FALSE, SAFE_CALLS, TRUE, Atom, atom_of, path_of
from foreshore.router.lint.fields import FIELDS
from foreshore.router.syntax import Beyond, Node, parse

__all__ = ["Term", "among", "atoms_of", "both", "either", "negated", "term_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """`among`: whether the one part's outcome is in `wanted`; that itself never fails."""

    sign: Literal["atom", "known", "and", "or", "not", "if", "same", "differ", "among"]
    parts: tuple[Term, ...] = ()
    atom: Atom | None = None
    wanted: int = 0

    def outcome(self, of: Callable[[Atom], int], memo: dict[int, int] | None = None) -> int:
        """What it can give where an atom can give `of(atom)`. `memo` keeps what shared parts gave, by identity."""
        memo = {} if memo is None else memo
        key = id(self)
        if key not in memo:
            memo[key] = self._outcome(of, memo)
        return memo[key]

    def _outcome(self, of: Callable[[Atom], int], memo: dict[int, int]) -> int:
        if self.atom is not None:
            return of(self.atom)
        if self.sign == "known":
            return self.wanted
        if self.sign in ("and", "or"):
            return _joined(self.sign, (part.outcome(of, memo) for part in self.parts))
        found = [part.outcome(of, memo) for part in self.parts]
        if self.sign == "among":
            return (TRUE if found[0] & self.wanted else 0) | (FALSE if found[0] & ~self.wanted & ANY else 0)
        if self.sign == "not":
            return _negated(found[0])
        if self.sign == "if":
            return _chosen(*found)
        return _same(*found) if self.sign == "same" else _negated(_same(*found))


def term_of(source: str, target: str = "") -> Term:
    """The formula of an expression, its target's fields being those of `target`."""
    return _term(source, target)


@lru_cache(maxsize=4096)
def _term(source: str, target: str) -> Term:
    try:
        return _Terms(source, target).term(parse(source))
    except Beyond:
        return Term("atom", atom=Atom(source, target, frozenset(), ANY, None))


def among(term: Term, wanted: int) -> Term:
    return Term("among", (term,), wanted=wanted)


def negated(term: Term) -> Term:
    return Term("not", (term,))


def both(*terms: Term) -> Term:
    return Term("and", terms) if terms else Term("known", wanted=TRUE)


def either(*terms: Term) -> Term:
    return Term("or", terms) if terms else Term("known", wanted=FALSE)


def atoms_of(term: Term) -> Iterator[Atom]:
    """Each once, in order."""
    found: dict[Atom, None] = {}
    seen: set[int] = set()
    stack = [term]
    while stack:
        here = stack.pop()
        if id(here) in seen:
            continue
        seen.add(id(here))
        if here.atom is not None:
            found.setdefault(here.atom)
        stack.extend(reversed(here.parts))
    return iter(found)


class _Terms:
    def __init__(self, source: str, target: str) -> None:
        self._source, self._target = source, target
        self._atoms: dict[str, Atom] = {}

    def term(self, node: Node) -> Term:
        if node.kind == "binary" and node.text in ("&&", "||"):
            return Term("and" if node.text == "&&" else "or", tuple(map(self.term, node.parts)))
        if node.kind == "unary" and node.text == "!":
            return Term("not", (self.term(node.parts[0]),))
        if node.kind == "ternary" and all(map(_boolean, node.parts)):
            return Term("if", tuple(map(self.term, node.parts)))
        if node.text in ("==", "!=") and node.kind == "binary" and all(map(_boolean, node.parts)):
            return Term("same" if node.text == "==" else "differ", tuple(map(self.term, node.parts)))
        if node.kind == "literal" and node.text in ("true", "false"):
            return Term("known", wanted=TRUE if node.text == "true" else FALSE)
        return Term("atom", atom=self._atom(node))

    def _atom(self, node: Node) -> Atom:
        atom = atom_of(node, self._source, self._target)
        return self._atoms.setdefault(atom.text, atom)


def _joined(sign: str, parts: Iterable[int]) -> int:
    """`&&`: false beats an error, an error beats true; `||` the other way round. In any order of the parts."""
    winner, neutral = (FALSE, TRUE) if sign == "and" else (TRUE, FALSE)
    can, quiet, failing = 0, True, False
    for found in parts:
        if found == winner:
            return winner
        can |= found & winner
        quiet = quiet and bool(found & neutral)
        failing = failing or bool(found & ERROR)
    return can | (neutral if quiet else 0) | (ERROR if failing else 0)


def _negated(found: int) -> int:
    return (found & ERROR) | (TRUE if found & FALSE else 0) | (FALSE if found & TRUE else 0)


def _chosen(condition: int, yes: int, no: int) -> int:
    return (condition & ERROR) | (yes if condition & TRUE else 0) | (no if condition & FALSE else 0)


def _same(left: int, right: int) -> int:
    equal = TRUE if (left & right) & (TRUE | FALSE) else 0
    unequal = FALSE if (left & TRUE and right & FALSE) or (left & FALSE and right & TRUE) else 0
    return equal | unequal | ((left | right) & ERROR)


def _boolean(node: Node) -> bool:
    if node.kind == "binary":
        return node.text in COMPARISONS or node.text in ("&&", "||")
    if node.kind == "member":
        found = FIELDS.get(path_of(node))
        return found is not None and found.type.name == "bool"
    if node.kind in ("call", "method"):
        return node.text in SAFE_CALLS and node.text != "size"
    if node.kind == "ternary":
        return all(map(_boolean, node.parts))
    return (node.kind, node.text) == ("unary", "!") or node.text in ("true", "false")
