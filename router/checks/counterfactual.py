"""The smallest change that would have another target asked first: of one field, else of two. Every change named was
decided on again.

Changes are compared by size: a number's by how far it moves, as a share of the larger of both values, at most 1 (2
where its sign changes); a flag, a word or a label counts 1. A number is brought as near to what it was as still flips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

from foreshore.config import Config
from foreshore.errors import UsageError
from foreshore.router.lint.atoms import Slot
from foreshore.router.lint.cells import ABSENT
from foreshore.router.lint.fields import FIELDS
from foreshore.router.lint.reach import Reach
from foreshore.router.lint.terms import atoms_of, term_of
from foreshore.router.policy import Policy
from foreshore.router.situation import Situation

__all__ = ["Change", "Flip", "smallest_flip"]

Judge = Callable[[Mapping[str, Any]], str]  # who is asked first under these settings; "" for nobody

HALVINGS = 24
MAX_PAIRS = 1500
PAIRED = 3  # offers of each field that are tried with others
ROUNDING = 1e-3  # of a change: what writing it shorter may add
_FACTORS = (0.0, 0.5, 0.9, 1.1, 1.5, 2.0, 10.0, 100.0)
_LEFT_OUT = ("request.model", "request.text", "request.session", "target.best")  # a pin is no reason, content no field


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    name: str  # "request.prompt_tokens", "target.edge.healthy", "request.headers.x-team"
    before: Any
    after: Any

    @property
    def size(self) -> float:
        if not (_number(self.before) and _number(self.after)):
            return 1.0
        before, after = float(self.before), float(self.after)
        return abs(after - before) / max(abs(after), abs(before), 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """`target` would be asked first, "" if nobody would."""

    changes: Sequence[Change]
    target: str

    @property
    def size(self) -> float:
        return sum(change.size for change in self.changes)


def smallest_flip(situation: Situation, config: Config, policy: Policy, judge: Judge) -> Flip | None:
    """None where no change of two fields that the policy can see does. `judge` decides on `situation` as changed."""
    search = _Search(judge)
    offers = list(_offers(situation, config, policy))
    singles = [flip for change in offers if (flip := search.flip([change])) is not None]
    if singles:
        return min((search.nearest(flip) for flip in singles), key=_order)
    pairs = ([a, b] for a, b in combinations(_few(offers), 2) if a.name != b.name)
    doubles = [flip for pair in islice(pairs, MAX_PAIRS) if (flip := search.flip(pair)) is not None]
    return min((search.nearest(flip) for flip in sorted(doubles, key=_order)[:8]), key=_order, default=None)


def _few(offers: Iterable[Change]) -> list[Change]:
    """Of each field the first offers, which are those that the policy's comparisons suggest."""
    counts: dict[str, int] = {}
    found = []
    for change in offers:
        counts[change.name] = counts.get(change.name, 0) + 1
        found += [change] if counts[change.name] <= PAIRED else []
    return found


def _order(flip: Flip) -> tuple[float, bool, bool, bool, str]:
    """The smallest; of equal ones one that has an answer, of the target that gives it, and rather not privacy."""
    names = [change.name for change in flip.changes]
    own = any(name.startswith(f"target.{flip.target}.") for name in names)
    return round(flip.size, 9), not flip.target, not own, "request.private" in names, names[0]


class _Search:
    def __init__(self, judge: Judge) -> None:
        self._judge, self._now = judge, judge({})

    def flip(self, changes: Sequence[Change]) -> Flip | None:
        try:
            target = self._judge({change.name: change.after for change in changes})
        except UsageError:  # no such value of that field
            return None
        return None if target == self._now else Flip(changes=tuple(changes), target=target)

    def nearest(self, flip: Flip) -> Flip:
        """With each number as near to what it was as still flips the choice."""
        for i, change in enumerate(flip.changes):
            if _number(change.before) and _number(change.after):
                flip = self._nearer(flip, i)
        return flip

    def _nearer(self, flip: Flip, index: int) -> Flip:
        change = flip.changes[index]
        whole = isinstance(change.before, int)
        stays, flips = change.before, change.after
        for _ in range(64 if whole else HALVINGS):
            middle = (stays + flips) // 2 if whole else (stays + flips) / 2
            if whole and abs(flips - stays) <= 1:
                break
            tried = [*flip.changes]
            tried[index] = Change(name=change.name, before=change.before, after=middle)
            found = self.flip(tried)
            stays, flips, flip = (middle, flips, flip) if found is None else (stays, middle, found)
        return flip if whole else self._rounded(flip, index)

    def _rounded(self, flip: Flip, index: int) -> Flip:
        """Written with as few digits as leave it about as small."""
        change = flip.changes[index]
        near = abs(change.after - change.before) * ROUNDING
        for digits in range(1, 12):
            for value in _written(change.after, digits):
                tried = [*flip.changes]
                tried[index] = Change(name=change.name, before=change.before, after=value)
                if abs(value - change.after) <= near and value != change.before:
                    found = self.flip(tried)
                    if found is not None and found.target == flip.target:
                        return found
        return flip


def _written(value: float, digits: int) -> Iterator[float]:
    """The nearest numbers of so many digits."""
    middle = float(f"{value:.{digits}g}")
    step = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1) if value else 0.0
    yield from (float(f"{v:.{digits}g}") for v in (middle, middle - step, middle + step))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _offers(situation: Situation, config: Config, policy: Policy) -> Iterator[Change]:
    """Values that each field the policy can see might have instead."""
    reach = Reach(config, policy)
    slots = _slots(reach)
    seen = {path for path in policy.reads if path.partition(".")[0] != "target" and path not in _LEFT_OUT}
    for path in sorted((seen | {"request.private", "request.deadline_s"}) - {"request.headers"}):
        if Slot(path) in reach.domain.fixed:
            continue
        now = getattr(getattr(situation, path.partition(".")[0]), path.partition(".")[2])
        yield from _values(path, path, now, _constants(reach, slots, Slot(path)), ())
    for slot in slots:
        if slot.header:
            yield from _headers(situation, slot, _constants(reach, slots, slot))
    yield from _target_offers(situation, reach, slots, policy)


def _target_offers(
    situation: Situation, reach: Reach, slots: Mapping[Slot, list[Any]], policy: Policy
) -> Iterator[Change]:
    paths = {path for path in policy.reads if path.startswith("target.") and path not in _LEFT_OUT} | {"target.healthy"}
    paths |= {"target.total_s"} if situation.request.deadline_s else set()
    for path in sorted(paths):
        field = path.partition(".")[2]
        others = [getattr(t, field) for t in situation.targets]
        for target in situation.targets:
            if Slot(path, target.name) not in reach.domain.fixed:
                constants = _constants(reach, slots, Slot(path, target.name))
                yield from _values(path, f"target.{target.name}.{field}", getattr(target, field), constants, others)


def _slots(reach: Reach) -> dict[Slot, list[Any]]:
    """What the policy's expressions look at, with the atoms that do."""
    found: dict[Slot, list[Any]] = {}
    wheres = [(e, name) for c in reach.policy.constraints for e in (c.when, c.require) for name in reach.config.targets]
    wheres += [(e, name) for r in reach.policy.rules for e in (r.when, r.where) for name in reach.config.targets]
    for expression, name in wheres:
        for atom in atoms_of(term_of(expression.source, name)) if expression is not None else ():
            for slot in atom.slots:
                if atom not in found.setdefault(slot, []):
                    found[slot].append(atom)
    return found


def _constants(reach: Reach, slots: Mapping[Slot, list[Any]], slot: Slot) -> list[Any]:
    """One value of each cell that the policy's comparisons cut the slot into."""
    return [cell.value for cell in reach.domain.distinct(slot, tuple(slots.get(slot, ())))]


def _values(path: str, name: str, now: Any, constants: Iterable[Any], others: Iterable[Any]) -> Iterator[Change]:
    field = FIELDS[path]
    if field.type.name == "bool":
        options: list[Any] = [not now]
    elif field.type.name in ("int", "double"):
        low, high = field.low if field.low is not None else -1e18, field.high if field.high is not None else 1e18
        reach = [*constants, *others, *(max(now, 1) * factor for factor in _FACTORS), low, high if high < 1e18 else 0]
        kind = int if field.type.name == "int" else float
        options = [kind(v) for v in (*reach, *(v * 1.01 for v in others)) if low <= v <= high]
    elif path == "request.labels":
        return  # they go with request.private
    else:
        options = list(constants)
    for value in dict.fromkeys(v for v in options if v != now):
        yield Change(name=name, before=now, after=value)


def _headers(situation: Situation, slot: Slot, constants: Iterable[Any]) -> Iterator[Change]:
    now = situation.request.headers.get(slot.header, ABSENT)
    for value in constants:
        if value != now:
            yield Change(name=f"request.headers.{slot.header}", before=now, after=value)
