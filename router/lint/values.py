"""What a field can be, cut into cells on which no atom changes: one value of each cell stands for all of it.

Booleans, words, labels and the clock are taken whole. Numbers are cut at the constants they are compared with; strings
into those constants and one other. What an atom asks beyond that is not settled by a cell, and its outcome stays open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import cel

from foreshore.config import Config
from foreshore.router.facts import PARTS
from foreshore.router.lint.atoms import ERROR, FALSE, HEADERS, TRUE, Atom, Slot
from foreshore.router.lint.cells import ABSENT, Cell, header_cells, label_sets, number_cells, string_cells
from foreshore.router.lint.constants import compares_plainly, constants_of
from foreshore.router.lint.fields import FIELDS, LABELS, Field

__all__ = ["Domain", "Values", "outcome"]

MOST_KNOWN = 200_000  # outcomes kept: asking the engine costs more than all else
_KNOWN: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
WHOLE = 64  # integers: a range of so many is taken whole
_UNSCANNED = LABELS[:4]
Values = Mapping[Slot, Any]


class Domain:
    """What `config` lets each slot be. `fixed`: what is certain of a slot, such as the name of a target; `least`: what
    its number is at least, where that is more than of others."""

    def __init__(self, config: Config, fixed: Values, least: Mapping[Slot, float]) -> None:
        self._config, self.fixed, self._least = config, dict(fixed), least
        self._distinct: dict[tuple[Slot, tuple[Atom, ...]], tuple[Cell, ...]] = {}

    def with_(self, fixed: Values) -> Domain:
        return Domain(self._config, {**self.fixed, **fixed}, self._least)

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
        constants = [c for a in settled for c in constants_of(a)]
        if slot.header:
            return header_cells(slot.header, constants)
        field = FIELDS.get(slot.path)
        if field is None or field.type.name == "map":
            return (Cell(self.default(slot), point=False),)
        whole = self._whole(field)
        if whole:
            return tuple(map(Cell, sorted(whole, key=lambda v: v != self.default(slot))))
        if field.type.name in ("int", "double"):
            low = self._least.get(slot, field.low)
            return number_cells(replace(field, low=low), constants, self.default(slot))
        return string_cells(field, constants, self.default(slot))

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
        return field is None or field.type.name in ("int", "double", "string") if compares_plainly(atom) else False

    def _whole(self, field: Field) -> Sequence[Any]:
        """Every value of a field that has few."""
        if field.type.name == "bool":
            return (False, True)
        if field.name == "request.labels":
            return label_sets(self._labels())
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
    key = (atom.text, tuple(sorted((slot.path, repr(values[slot])) for slot in atom.slots)))
    if key not in _KNOWN:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = _run(atom.text, _variables(values, atom.slots))
    return _KNOWN[key]


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
