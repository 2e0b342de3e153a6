"""The constants that an atom compares its one field with."""

from __future__ import annotations

from typing import Any

import cel

from foreshore.router.lint.atoms import Atom
from foreshore.router.lint.fields import FIELDS
from foreshore.router.syntax import Node, walk

__all__ = ["compares_plainly", "constants_of"]


def compares_plainly(atom: Atom) -> bool:
    """Whether it compares its one slot, as it is, for order or equality with constants."""
    node = atom.node
    if node is None:
        return False
    if node.kind in ("call", "index", "member") or node.kind != "binary":
        return (node.kind, node.text) == ("call", "has")
    if _presence(atom):
        return True
    if node.text not in ("==", "!=", "in") and not (node.text in ("<", "<=", ">", ">=") and _of_number(atom)):
        return False
    left, right = (any(n.kind in ("member", "index") for n in walk(part)) for part in node.parts)
    if left == right or (right and node.text == "in"):
        return False
    slot, constant = (node.parts[0], node.parts[1]) if left else (node.parts[1], node.parts[0])
    return _bare(slot) and _value(constant) is not None


def constants_of(atom: Atom) -> list[Any]:
    """The values that a plain atom compares with."""
    if atom.node is None or atom.node.kind != "binary" or _presence(atom):
        return []
    found = [v for part in atom.node.parts if (v := _value(part)) is not None]
    return [c for v in found for c in (v if isinstance(v, list) else [v])]


def _presence(atom: Atom) -> bool:
    """Whether it asks for a header's being there, as in `'x-team' in request.headers`."""
    node = atom.node
    if node is None or (node.kind, node.text) != ("binary", "in"):
        return False
    return node.parts[0].kind == "literal" and any(slot.header for slot in atom.slots) and _names_headers(node.parts[1])


def _names_headers(node: Node) -> bool:
    return node.kind == "member" and node.text == "headers" and node.parts[0].kind == "name"


def _of_number(atom: Atom) -> bool:
    return all((f := FIELDS.get(s.path)) is not None and f.type.name in ("int", "double") for s in atom.slots)


def _bare(node: Node) -> bool:
    """A field or a header itself, nothing made of it."""
    if node.kind == "index":
        return node.parts[1].kind == "literal" and _bare(node.parts[0])
    return node.kind == "member" and (node.parts[0].kind == "name" or _bare(node.parts[0]))


def _value(node: Node) -> Any:
    """What a part without any field stands for; None where it has one, or has no value."""
    if any(n.kind in ("member", "index", "name") for n in walk(node)):
        return None
    try:
        return cel.evaluate(_source(node), {})
    except Exception:
        return None


def _source(node: Node) -> str:
    """An expression of literals, written out again."""
    if node.kind == "literal":
        return node.text
    if node.kind == "list":
        return f"[{', '.join(map(_source, node.parts))}]"
    if node.kind == "unary":
        return f"{node.text}{_source(node.parts[0])}"
    if node.kind == "binary":
        return "(" + f" {node.text} ".join(map(_source, node.parts)) + ")"
    return "?"  # cannot be evaluated, and so is no constant
