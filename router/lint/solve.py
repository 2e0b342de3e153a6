"""Can a formula be true? By cases: each step gives one field a cell, or one atom that cells do not settle an outcome.

Sound both ways. "No" holds for every request: cells cover all values, and an unsettled atom may give anything. "Yes"
comes with values on which the engine itself was asked. Where neither is certain, the atoms in the way are named.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

from foreshore.router.lint.atoms import ANY, ERROR, FALSE, HEADERS, TRUE, Atom, Slot
from foreshore.router.lint.bounds import bounded
from foreshore.router.lint.cells import ABSENT, Cell
from foreshore.router.lint.examples import examples
from foreshore.router.lint.terms import Term, atoms_of
from foreshore.router.lint.values import Domain, outcome

__all__ = ["Found", "Nothing", "Open", "solve"]

MAX_WORK = 2_000_000  # parts of formulas looked at: a few seconds
MAX_CASES = 32  # abstract solutions for which values are looked for
MAX_TRIES = 200  # values tried for one of them
TOO_MANY = "(too many cases)"
ALL_HEADERS = Slot(HEADERS)
Values = Mapping[Slot, Any]


@dataclass(frozen=True, slots=True)
class Nothing:
    """No values make the formula true."""


@dataclass(frozen=True, slots=True)
class Found:
    values: Values


@dataclass(frozen=True, slots=True)
class Open:
    """Not known. `because`: the expressions that could not be settled, as written."""

    because: tuple[str, ...]


def solve(term: Term, domain: Domain, verify: Callable[[Values], bool] = lambda values: True) -> Nothing | Found | Open:
    """`verify` has the last word on values: it asks the whole policy."""
    search = _Search(term, domain)
    because: dict[str, None] = {}
    try:
        for case in islice(search.cases(), MAX_CASES):
            for values in search.concrete(case):
                if verify(values):
                    return Found(values)
            because.update(dict.fromkeys(atom.text for atom in case.guessed))
            if not case.guessed:
                because.setdefault("(the decision itself)")
    except _TooMany:
        return Open((*because, TOO_MANY))
    return Open(tuple(because)) if because else Nothing()


class _TooMany(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Case:
    """Cells and guessed outcomes under which the formula is true."""

    cells: Mapping[Slot, Cell]
    guessed: Mapping[Atom, int]


class _Search:
    def __init__(self, term: Term, domain: Domain) -> None:
        self._term, self._domain = term, domain
        self._atoms = tuple(atoms_of(term))
        looking: dict[Slot, list[Atom]] = {}
        for atom in self._atoms:
            for slot in atom.slots:
                looking.setdefault(slot, []).append(atom)
        self._settled = {a for a in self._atoms if len(a.slots) == 1 and domain.settles(next(iter(a.slots)), a)}
        self._cells = {slot: domain.distinct(slot, tuple(atoms)) for slot, atoms in looking.items()}
        self._hopes = {atom: self._hope(atom) for atom in self._atoms}
        self._now: dict[Slot, Cell] = {}
        self._guessed: dict[Atom, int] = {}
        self._work = 0

    def cases(self) -> Iterator[_Case]:
        memo: dict[int, int] = {}
        found = self._term.outcome(self._can, memo)
        self._work += len(memo)
        if self._work > MAX_WORK:
            raise _TooMany
        if not found & TRUE:
            return
        if found == TRUE:
            yield _Case(dict(self._now), dict(self._guessed))
            return
        atom = self._undecided(self._term, memo)
        assert atom is not None  # else the formula has one outcome
        slots = sorted(
            (s for s in atom.slots if s not in self._now), key=lambda s: (len(self._cells[s]), s.path, s.target)
        )
        if slots:
            for cell in self._cells[slots[0]]:
                self._now[slots[0]] = cell
                yield from self.cases()
            del self._now[slots[0]]
            return
        can = self._can(atom)
        for one in (TRUE, FALSE, ERROR):
            if can & one:
                self._guessed[atom] = one
                yield from self.cases()
        del self._guessed[atom]

    def concrete(self, case: _Case) -> Iterator[Values]:
        """Values of every slot on which the engine finds the formula true, a few where there are many."""
        values = {
            slot: case.cells[slot].value if slot in case.cells else self._domain.default(slot) for slot in self._cells
        }
        values = self._whole(values)
        if self._true(values):
            yield values
        if not case.guessed:
            return
        open_slots = sorted({slot for atom in case.guessed for slot in atom.slots}, key=lambda s: (s.path, s.target))
        offers = {slot: self._offers(slot, case) for slot in open_slots}
        climbed = self._climbed(values, case, offers)
        for tried in (climbed, *(self._whole({**climbed, **chosen}) for chosen in _mixed(offers))):
            if self._true(tried):
                yield tried
                return

    def _climbed(self, values: dict[Slot, Any], case: _Case, offers: Mapping[Slot, Sequence[Any]]) -> dict[Slot, Any]:
        """With one value after the other exchanged while that brings more atoms to what was guessed of them."""
        for slot in [*offers, *offers]:
            tried = [self._whole({**values, slot: value}) for value in (values[slot], *offers[slot])]
            values = max(tried, key=lambda v: self._agreeing(v, case))
        return values

    def _agreeing(self, values: Values, case: _Case) -> int:
        return sum(self._real(atom, values) == guess for atom, guess in case.guessed.items())

    def _whole(self, values: dict[Slot, Any]) -> dict[Slot, Any]:
        """With the headers as a whole, where an atom looks at them so, made of the single ones."""
        if ALL_HEADERS in values:
            values[ALL_HEADERS] = {s.header: v for s, v in values.items() if s.header and v is not ABSENT}
        return values

    def _offers(self, slot: Slot, case: _Case) -> list[Any]:
        cell = case.cells[slot]
        if cell.point:
            return [cell.value]
        asked = [(atom, case.guessed[atom]) for atom in case.guessed if slot in atom.slots]
        return [cell.value, *examples(slot, cell.value, asked)]

    def _true(self, values: Values) -> bool:
        return self._term.outcome(lambda atom: self._real(atom, values)) == TRUE

    def _real(self, atom: Atom, values: Values) -> int:
        return ANY if atom.node is None else self._ask(atom, tuple(values[slot] for slot in atom.slots))

    def _can(self, atom: Atom) -> int:
        """What `atom` can give in the cells chosen so far."""
        if atom in self._guessed:
            return self._guessed[atom]
        if not atom.slots or atom.node is None:
            return atom.can if atom.node is None else self._ask(atom, ())
        cells = [self._now.get(slot) for slot in atom.slots]
        if any(cell is None for cell in cells):
            return self._hopes[atom]
        if atom in self._settled or all(cell is not None and cell.point for cell in cells):
            return self._ask(atom, tuple(cell.value for cell in cells if cell is not None))
        ranges = {slot.path: cell.range for slot, cell in zip(atom.slots, cells, strict=True) if cell and cell.range}
        return bounded(atom, ranges) or atom.can

    def _ask(self, atom: Atom, given: tuple[Any, ...]) -> int:
        return outcome(atom, dict(zip(atom.slots, given, strict=True)))

    def _hope(self, atom: Atom) -> int:
        """What a settled atom gives over all cells; what any other may give."""
        if atom not in self._settled:
            return atom.can
        found = 0
        for cell in self._cells[next(iter(atom.slots))]:
            found |= self._ask(atom, (cell.value,))
        return found

    def _undecided(self, term: Term, memo: dict[int, int]) -> Atom | None:
        """The first atom that keeps `term` from having one outcome."""
        found = term.outcome(self._can, memo)
        if found & (found - 1) == 0:
            return None
        return term.atom or next((a for part in term.parts if (a := self._undecided(part, memo))), None)


def _mixed(offers: Mapping[Slot, Sequence[Any]]) -> Iterator[dict[Slot, Any]]:
    """Combinations of what each slot is offered: all where they are few, else a fixed sample."""
    if math.prod(map(len, offers.values())) <= MAX_TRIES:
        yield from (dict(zip(offers, chosen, strict=True)) for chosen in product(*offers.values()))
        return
    dice = random.Random(0)
    for _ in range(MAX_TRIES):
        yield {slot: dice.choice(values) for slot, values in offers.items()}
