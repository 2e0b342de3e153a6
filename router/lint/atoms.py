"""What stands between `&&`, `||`, `!` and `?:`: one comparison or call, and the fields that it looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import cel

from foreshore.router.facts import PARTS
from foreshore.router.syntax import Beyond, Node, parse, walk

__all__ = [
    "ANY",
    "COMPARISONS",
    "ERROR",
    "FALSE",
    "HEADERS",
    "SAFE_CALLS",
    "TRUE",
    "Atom",
    "Slot",
    "atom_of",
    "path_of",
]

TRUE, FALSE, ERROR = 1, 2, 4  # outcomes, as bits of a set
ANY = TRUE | FALSE | ERROR
HEADERS = "request.headers"
SAFE_CALLS = frozenset(("contains", "startsWith", "endsWith", "matches", "size", "has", "exists", "all", "exists_one"))
COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">=", "in"))


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


def atom_of(node: Node, source: str, target: str) -> Atom:
    """Of a part of `source`. `target`: whose fields `target.*` are."""
    slots = frozenset(_slots(node, target))
    whose = target if any(slot.target for slot in slots) else ""
    text = _bare(source[node.start : node.end])
    return Atom(text, whose, slots, TRUE | FALSE if _safe(node) else ANY, node)


def path_of(node: Node) -> str:
    """ "request.tenant" for that field, "" for anything else."""
    if node.kind == "member" and node.parts[0].kind == "name" and node.parts[0].text in PARTS:
        return f"{node.parts[0].text}.{node.text}"
    return ""


def _slots(node: Node, target: str) -> Iterator[Slot]:
    if name := _header(node):
        yield Slot(f"{HEADERS}['{name}']")
    elif path := path_of(node):
        yield Slot(path, target if path.startswith("target.") else "")
    else:
        for part in node.parts:
            yield from _slots(part, target)


def _header(node: Node) -> str:
    """The one header that `node` looks at, by its name as written; "" where there is none or many."""
    if node.kind == "member" and path_of(node.parts[0]) == HEADERS:
        return node.text
    if node.kind == "index" and path_of(node.parts[0]) == HEADERS:
        return _text(node.parts[1])
    if (node.kind, node.text) == ("binary", "in") and path_of(node.parts[1]) == HEADERS:
        return _text(node.parts[0])
    return ""


def _text(node: Node) -> str:
    """The string that a literal stands for, "" for anything else."""
    value = cel.evaluate(node.text, {}) if node.kind == "literal" else None
    return value if isinstance(value, str) else ""


def _bare(text: str) -> str:
    """Without parentheses around the whole: the same atom may stand with and without."""
    while text[:1] == "(" and text[-1:] == ")":
        try:
            parse(text[1:-1])
        except Beyond:
            return text
        text = text[1:-1].strip()
    return text


def _safe(node: Node) -> bool:
    """Whether it cannot fail, given that its types are right."""
    for part in walk(node):
        if part.kind in ("index", "map") or (part.kind == "call" and part.text not in ("size", "has")):
            return False
        if part.kind == "method" and part.text not in SAFE_CALLS:
            return False
        if part.kind == "member" and not path_of(part):
            return False
        if part.kind == "method" and part.text == "matches" and part.parts[1].kind != "literal":
            return False
        if part.kind == "binary" and part.text not in COMPARISONS and part.text not in ("&&", "||"):
            return False
    return True
