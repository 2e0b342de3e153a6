"""Values that make given atoms true or false, guessed from their constants. A guess: the engine is asked about each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import permutations
from typing import Any

import cel

from foreshore.router.lint.atoms import TRUE, Atom, Slot
from foreshore.router.syntax import Node, walk

_parser: Any = import_module("re._parser")  # the reader of patterns that `re` itself has
_codes: Any = import_module("re._constants")

__all__ = ["examples"]

MOST = 40
LONGEST = 20_000  # characters of a string made to be long
_CLASSES = {
    "CATEGORY_DIGIT": "0", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_DIGIT": "a", "CATEGORY_NOT_WORD": " ", "CATEGORY_NOT_SPACE": "a",
}  # fmt: skip


def examples(slot: Slot, like: Any, asked: Sequence[tuple[Atom, int]]) -> list[Any]:
    """Values of `slot` for which each atom may give its outcome; `like` is one of the same type."""
    if isinstance(like, str):
        return list(dict.fromkeys(_strings(asked)))[:MOST]
    if isinstance(like, (int, float)) and not isinstance(like, bool):
        return list(dict.fromkeys(_numbers(like, asked)))[:MOST]
    return []


def _numbers(like: float, asked: Iterable[tuple[Atom, int]]) -> Iterator[float]:
    kind = type(like)
    found = [v for atom, _ in asked for v in _literals(atom) if isinstance(v, (int, float)) and not isinstance(v, bool)]
    yield from (kind(v) for v in (1, 10, 1000, 100_000))  # two fields may be compared with each other
    for value in found:
        for near in (value, value + 1, value - 1, value * 2, value / 2, value * 10, value * 1000):
            if near >= 0:
                yield kind(min(near, 2**53))


def _strings(asked: Sequence[tuple[Atom, int]]) -> Iterator[str]:
    """Begin with what it must begin with, then hold what it must hold, then end so; longer where a size is asked."""
    wanted = [atom for atom, outcome in asked if outcome == TRUE]
    start = max(_arguments(wanted, "startsWith"), key=len, default="")
    end = max(_arguments(wanted, "endsWith"), key=len, default="")
    middle = [*_arguments(wanted, "contains"), *(e for p in _arguments(wanted, "matches") for e in [_like(p)] if e)]
    sizes = [int(v) + d for atom, _ in asked for v in _literals(atom) if isinstance(v, int) for d in (-1, 0, 1)]
    for order in list(permutations(middle))[:6]:
        for joint in ("", " "):
            text = start + joint.join(order) + end
            yield from (text, text.upper())
            yield from (
                start + joint.join(order) + "~" * (n - len(text)) + end for n in sizes if len(text) < n <= LONGEST
            )
    for atom, _ in asked:
        for value in _literals(atom):
            if isinstance(value, str):
                yield from (value, value + "~", value[:-1], value.upper(), value.lower())


def _arguments(atoms: Iterable[Atom], method: str) -> list[str]:
    """The literals that `method` is given in `atoms`."""
    found = []
    for atom in atoms:
        for node in walk(atom.node) if atom.node is not None else ():
            if (node.kind, node.text) == ("method", method) and isinstance(v := _value(node.parts[1]), str):
                found.append(v)
    return found


def _literals(atom: Atom) -> list[Any]:
    found = [_value(node) for node in walk(atom.node)] if atom.node is not None else []
    return [value for value in found if value is not None]


def _value(node: Node) -> Any:
    try:
        return cel.evaluate(node.text, {}) if node.kind == "literal" else None
    except ValueError:
        return None


def _like(pattern: str) -> str | None:
    """A string that a simple pattern matches; None where none is found."""
    try:
        text = _written(_parser.parse(pattern))
    except (re.error, KeyError, OverflowError, RecursionError, ValueError):
        return None
    return text if len(text) <= LONGEST else None


def _written(parts: Any) -> str:
    return "".join(_one(code, value) for code, value in parts)


def _one(code: Any, value: Any) -> str:
    if code == _codes.LITERAL:
        return chr(value)
    if code in (_codes.ANY, _codes.NOT_LITERAL):
        return "a" if value != ord("a") else "b"
    if code == _codes.IN:
        return _member(value)
    if code == _codes.BRANCH:
        return _written(value[1][0])
    if code == _codes.SUBPATTERN:
        return _written(value[-1])
    if code in (_codes.MAX_REPEAT, _codes.MIN_REPEAT):
        return _written(value[2]) * min(value[0] or 1, 1000)
    if code == _codes.AT:
        return " " if value == _codes.AT_BOUNDARY else ""
    raise KeyError(code)


def _member(choices: Any) -> str:
    code, value = choices[0]
    if code == _codes.LITERAL:
        return chr(value)
    if code == _codes.RANGE:
        return chr(value[0])
    if code == _codes.CATEGORY:
        return _CLASSES[str(value)]
    return "~"  # of everything but a few
