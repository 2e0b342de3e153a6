"""What a field can be, cut into cells on which no atom changes: one value of each cell stands for all of it.

Booleans, words, labels and the clock are taken whole. Numbers are cut at the constants they are compared with; strings
into those constants and one other. What an atom asks beyond that is not settled by a cell, and its outcome stays open.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations, pairwise
from typing import Any

import cel

from foreshore.config import Config
from foreshore.router.facts import PARTS
from foreshore.router.lint_bounds import Range
from foreshore.router.lint_fields import FIELDS, LABELS, Field
from foreshore.router.lint_syntax import Node, walk
from foreshore.router.lint_terms import ERROR, FALSE, HEADERS, TRUE, Atom, Slot

__all__ = ["ABSENT", "Cell", "Domain", "outcome"]

ABSENT = None  # a header that the request does not have
OTHER = "other"
MAX_INT = 2**53  # of a count: beyond it doubles, which integers are compared with, have gaps
WHOLE = 64  # integers: a range of so many is taken whole
_UNSCANNED = LABELS[:4]
Values = Mapping[Slot, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """`value` stands for all values of the cell; of a `point` it is the only one. `range`: the least and the greatest
    integer in it, where it has such."""

    value: Any
    point: bool = True
    range: Range | None = None


class Domain:
    """What `config` lets each slot be. `fixed`: what is certain of a slot, such as the name of a target."""

    def __init__(self, config: Config, fixed: Values | None = None) -> None:
        self._config, self.fixed = config, dict(fixed or {})
        self._distinct: dict[tuple[Slot, tuple[Atom, ...]], tuple[Cell, ...]] = {}

    def with_(self, fixed: Values) -> Domain:
        return Domain(self._config, {**self.fixed, **fixed})

    def default(self, slot: Slot) -> Any:
        """What a slot is where nothing asks more of it."""
        if slot in self.fixed:
            return self.fixed[slot]
        if slot.header:
            return ABSENT
        part, _, name = slot.path.partition(".")
        found = PARTS[part](name="") if part == "target" else PARTS[part]()
        return getattr(found, name)

    def cells(self, slot: Slot, atoms: Sequence[Atom]) -> tuple[Cell, ...]:
        """All values of `slot`, the likeliest first. `atoms` are those that look at it."""
        if slot in self.fixed:
            return (Cell(self.fixed[slot]),)
        settled = [a for a in atoms if self.settles(slot, a)]
        constants = [c for a in settled for c in _constants(a)]
        if slot.header:
            return _header_cells(slot.header, constants)
        field = FIELDS.get(slot.path)
        if field is None or field.type.name == "map":
            return (Cell(self.default(slot), point=False),)
        whole = self._whole(field)
        if whole:
            return tuple(map(Cell, sorted(whole, key=lambda v: v != self.default(slot))))
        if field.type.name in ("int", "double"):
            return _number_cells(field, constants, self.default(slot))
        return _string_cells(field, constants, self.default(slot))

    def distinct(self, slot: Slot, atoms: tuple[Atom, ...]) -> tuple[Cell, ...]:
        """The cells, those that all atoms take for the same put together, where cells settle all that is asked."""
        key = (slot, atoms)
        if key not in self._distinct:
            self._distinct[key] = self._merged(slot, atoms)
        return self._distinct[key]

    def _merged(self, slot: Slot, atoms: Sequence[Atom]) -> tuple[Cell, ...]:
        cells = self.cells(slot, atoms)
        if not all(self.settles(slot, atom) for atom in atoms):
            return cells
        kinds: dict[tuple[int, ...], Cell] = {}
        for cell in cells:
            kinds.setdefault(tuple(outcome(atom, {slot: cell.value}) for atom in atoms), cell)
        return tuple(kinds.values())

    def settles(self, slot: Slot, atom: Atom) -> bool:
        """Whether the cells of `slot` alone say what `atom` gives."""
        if atom.node is None or atom.slots != {slot}:
            return False
        if slot in self.fixed:
            return True
        field = FIELDS.get(slot.path)
        if field is None and not slot.header:
            return False
        if field is not None and self._whole(field):
            return True
        return field is None or field.type.name in ("int", "double", "string") if _plain(atom) else False

    def _whole(self, field: Field) -> Sequence[Any]:
        """Every value of a field that has few."""
        if field.type.name == "bool":
            return (False, True)
        if field.name == "request.labels":
            return _label_sets(self._labels())
        if field.words:
            return field.words
        if field.type.name == "int" and field.low is not None and field.high is not None:
            return range(int(field.low), int(field.high) + 1) if field.high - field.low < WHOLE else ()
        return ()

    def _labels(self) -> tuple[str, ...]:
        privacy = self._config.privacy
        first = [w for w in _UNSCANNED if w != "unscannable" or privacy.unscannable == "private"]
        return (*first, *privacy.detectors)


def outcome(atom: Atom, values: Values) -> int:
    """What the engine makes of `atom`, `values` having all its slots."""
    return _run(atom.text, _variables(values, atom.slots))


def _run(text: str, variables: Mapping[str, Any]) -> int:
    try:
        found = _compiled(text).execute(dict(variables))
    except Exception:  # whatever the binding raises, the expression cannot be evaluated
        return ERROR
    return ERROR if not isinstance(found, bool) else TRUE if found else FALSE


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Any:
    return cel.compile(text)


def _variables(values: Values, slots: Iterable[Slot]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for slot in slots:
        value = values[slot]
        part, _, name = slot.path.partition(".")
        if slot.header or slot.path == HEADERS:
            headers = found.setdefault("request", {}).setdefault("headers", {})
            headers.update({slot.header: value} if slot.header and value is not ABSENT else value or {})
        else:
            found.setdefault(part, {})[name] = list(value) if isinstance(value, tuple) else value
    return found


@lru_cache(maxsize=64)
def _label_sets(labels: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """As `label` writes them: too long a content was not scanned, so no detector has found anything in it."""
    found = chain.from_iterable(combinations(labels, n) for n in range(len(labels) + 1))
    return tuple(s for s in found if "too_long" not in s or not set(s) - set(_UNSCANNED))


def _plain(atom: Atom) -> bool:
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


def _constants(atom: Atom) -> list[Any]:
    """The values that a plain atom compares with."""
    if atom.node is None or atom.node.kind != "binary" or _presence(atom):
        return []
    found = [v for part in atom.node.parts if (v := _value(part)) is not None]
    return [c for v in found for c in (v if isinstance(v, list) else [v])]


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


def _header_cells(name: str, constants: Iterable[Any]) -> tuple[Cell, ...]:
    if not name.startswith("x-") or name != name.lower():
        return (Cell(ABSENT),)  # no request is ever given such a header
    words = sorted({c for c in constants if isinstance(c, str)})
    return (Cell(ABSENT), *map(Cell, words), Cell(_other(words), point=False))


def _string_cells(field: Field, constants: Iterable[Any], default: Any) -> tuple[Cell, ...]:
    words = sorted({c for c in constants if isinstance(c, str)})
    rest = Cell(_other(words) if default in words else default, point=False)
    return (rest, *map(Cell, words))


def _other(words: Sequence[str]) -> str:
    return next(
        w for n in range(len(words) + 1) if (w := OTHER + ("-" * min(n, 1)) + (str(n) if n else "")) not in words
    )


def _number_cells(field: Field, constants: Iterable[Any], default: Any) -> tuple[Cell, ...]:
    whole = field.type.name == "int"
    low = -math.inf if field.low is None else field.low
    high = (MAX_INT if whole else math.inf) if field.high is None else field.high
    cuts = sorted({c for k in constants for c in _cuts(k, whole) if low <= c <= high})
    cells = [Cell(c, range=Range(c, c)) if whole else Cell(c) for c in cuts]
    edges = [low, *cuts, high]
    for i, (left, right) in enumerate(pairwise(edges)):
        cells += _between(left, right, whole, default, closed=(i == 0, i == len(edges) - 2))
    return tuple(sorted(cells, key=lambda cell: cell.value != default))


def _cuts(constant: Any, whole: bool) -> tuple[Any, ...]:
    if isinstance(constant, bool) or not isinstance(constant, (int, float)) or not math.isfinite(constant):
        return ()
    return (math.floor(constant), math.ceil(constant)) if whole else (float(constant),)


def _between(left: Any, right: Any, whole: bool, default: Any, *, closed: tuple[bool, bool]) -> list[Cell]:
    """The cell of the values between two cuts, if there are any. `closed`: whether an edge is a bound, and belongs."""
    if whole:
        first = left if closed[0] else left + 1
        last = right if closed[1] else right - 1
        if first > last:
            return []
        near = min(max(default, first), last)
        return [Cell(int(near), point=first == last, range=Range(int(first), int(last)))]
    if left < default < right or (left == default and closed[0]) or (right == default and closed[1]):
        return [Cell(float(default), point=False)] if left != right or all(closed) else []
    if left >= right:
        return []
    if math.isinf(left):
        return [Cell(right - 1.0, point=False)]
    return [Cell(left + 1.0 if math.isinf(right) else (left + right) / 2, point=False)]
