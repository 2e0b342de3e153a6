"""What a comparison of sums can give, from the ranges of the fields in it: `request.messages + request.max_tokens > 9`
holds wherever `request.messages > 9` does.

Sums and differences of integers, compared. They are too small to overflow. Doubles are left out: a fact that happens to
be an integer does not add up with one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from foreshore.router.lint.atoms import FALSE, TRUE, Atom
from foreshore.router.lint.fields import FIELDS
from foreshore.router.syntax import Node

__all__ = ["Range", "bounded"]

MAX_TEXT = 1000  # characters, in which fewer than 2**9 numbers below 2**53 stand: their sum stays below 2**63
LARGEST = 2**53


class Range(NamedTuple):
    """Both ends included."""

    low: int
    high: int


def bounded(atom: Atom, ranges: Mapping[str, Range]) -> int | None:
    """The outcomes that `atom` can have where each field, by its path, lies in its range. None: it is no such atom."""
    node = atom.node
    if node is None or node.kind != "binary" or node.text not in ("<", "<=", ">", ">="):
        return None
    if len(atom.text) > MAX_TEXT or not all(_whole(slot.path) for slot in atom.slots):
        return None
    left, right = (_range(part, ranges) for part in node.parts)
    if left is None or right is None:
        return None
    if node.text in ("<", "<="):
        left, right = right, left
    holds = left.high > right.low or (node.text in ("<=", ">=") and left.high == right.low)
    fails = left.low < right.high or (node.text in ("<", ">") and left.low == right.high)
    return (TRUE if holds else 0) | (FALSE if fails else 0)


def _whole(path: str) -> bool:
    return path in FIELDS and FIELDS[path].type.name == "int"


def _range(node: Node, ranges: Mapping[str, Range]) -> Range | None:
    if node.kind == "member" and node.parts[0].kind == "name":
        return ranges.get(f"{node.parts[0].text}.{node.text}")
    if node.kind == "literal" and node.text.isdigit():
        value = int(node.text)
        return Range(value, value) if value <= LARGEST else None
    if node.kind != "binary" or node.text not in ("+", "-"):
        return None
    left, right = (_range(part, ranges) for part in node.parts)
    if left is None or right is None:
        return None
    if node.text == "-":
        right = Range(-right.high, -right.low)
    return Range(left.low + right.low, left.high + right.high)
