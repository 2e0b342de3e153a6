"""A condition as a formula over atoms: what `&&`, `||`, `!` and `?:` join, down to comparisons and calls.

Outcomes are sets of bits, for what an atom can give where not everything about a request is known yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import cel

from foreshore.router.facts import PARTS
from foreshore.router.lint_fields import FIELDS
from foreshore.router.lint_syntax import Beyond, Node, parse, walk

__all__ = [
    "ANY",
    "ERROR",
    "FALSE",
    "TRUE",
    "Atom",
    "Slot",
    "Term",
    "among",
    "atoms_of",
    "both",
    "either",
    "negated",
    "term_of",
]

TRUE, FALSE, ERROR = 1, 2, 4
ANY = TRUE | FALSE | ERROR
HEADERS = "request.headers"
_SAFE_CALLS = frozenset(("contains", "startsWith", "endsWith", "matches", "size", "has", "exists", "all", "exists_one"))
_COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">=", "in"))


@dataclass(frozen=True, slots=True)
class Slot:
    """One thing that can have a value: a field, or one header. `target`: whose, of a target's fields."""

    path: str  # "request.tenant", "request.headers['x-team']"
    target: str = ""

    @property
    def header(self) -> str:
        """The header's name, "" for a field."""
        return self.path[len(HEADERS) + 2 : -2] if self.path.startswith(HEADERS + "[") else ""

    def __str__(self) -> str:
        return f"{self.path} of {self.target!r}" if self.target else self.path


@dataclass(frozen=True, slots=True)
class Atom:
    """The same text of the same target is the same atom, wherever it stands. `can`: the outcomes it may have where
    nothing is known. `node` is None where nothing could be read."""

    text: str
    target: str  # "" where it looks at no target
    slots: frozenset[Slot] = field(compare=False)
    can: int = field(compare=False)
    node: Node | None = field(compare=False)


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
        text = _bare(self._source[node.start : node.end])
        if text not in self._atoms:
            slots = frozenset(_slots(node, self._target))
            can = TRUE | FALSE if _safe(node) else ANY
            target = self._target if any(slot.target for slot in slots) else ""
            self._atoms[text] = Atom(text, target, slots, can, node)
        return self._atoms[text]


def _bare(text: str) -> str:
    """Without parentheses around the whole: the same atom may stand with and without."""
    while text[:1] == "(" and text[-1:] == ")":
        try:
            parse(text[1:-1])
        except Beyond:
            return text
        text = text[1:-1].strip()
    return text


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
        return node.text in _COMPARISONS or node.text in ("&&", "||")
    if node.kind == "member":
        found = FIELDS.get(_path(node))
        return found is not None and found.type.name == "bool"
    if node.kind in ("call", "method"):
        return node.text in _SAFE_CALLS and node.text != "size"
    if node.kind == "ternary":
        return all(map(_boolean, node.parts))
    return (node.kind, node.text) == ("unary", "!") or node.text in ("true", "false")


def _path(node: Node) -> str:
    """ "request.tenant" for that field, "" for anything else."""
    if node.kind == "member" and node.parts[0].kind == "name" and node.parts[0].text in PARTS:
        return f"{node.parts[0].text}.{node.text}"
    return ""


def _slots(node: Node, target: str) -> Iterator[Slot]:
    if name := _header(node):
        yield Slot(f"{HEADERS}['{name}']")
    elif path := _path(node):
        yield Slot(path, target if path.startswith("target.") else "")
    else:
        for part in node.parts:
            yield from _slots(part, target)


def _header(node: Node) -> str:
    """The one header that `node` looks at, by its name as written; "" where there is none or many."""
    if node.kind == "member" and _path(node.parts[0]) == HEADERS:
        return node.text
    if node.kind == "index" and _path(node.parts[0]) == HEADERS:
        return _text(node.parts[1])
    if (node.kind, node.text) == ("binary", "in") and _path(node.parts[1]) == HEADERS:
        return _text(node.parts[0])
    return ""


def _text(node: Node) -> str:
    """The string that a literal stands for, "" for anything else."""
    value = cel.evaluate(node.text, {}) if node.kind == "literal" else None
    return value if isinstance(value, str) else ""


def _safe(node: Node) -> bool:
    """Whether it cannot fail, given that its types are right."""
    for part in walk(node):
        if part.kind in ("index", "map") or (part.kind == "call" and part.text not in ("size", "has")):
            return False
        if part.kind == "method" and part.text not in _SAFE_CALLS:
            return False
        if part.kind == "member" and not _path(part):
            return False
        if part.kind == "method" and part.text == "matches" and part.parts[1].kind != "literal":
            return False
        if part.kind == "binary" and part.text not in _COMPARISONS and part.text not in ("&&", "||"):
            return False
    return True
