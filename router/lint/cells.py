"""The values of a field cut into cells: at a number's constants, into a string's constants and one other value."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations, pairwise
from typing import Any

from foreshore.router.lint.bounds import Range
from foreshore.router.lint.fields import LABELS, Field

__all__ = ["ABSENT", "Cell", "header_cells", "label_sets", "number_cells", "string_cells"]

ABSENT = None  # a header that the request does not have
OTHER = "other"
MAX_INT = 2**53  # of a count: beyond it doubles, which integers are compared with, have gaps
_UNSCANNED = LABELS[:4]


@dataclass(frozen=True, slots=True)
class Cell:
    """`value` stands for all values of the cell; of a `point` it is the only one. `range`: the least and the greatest
    integer in it, where it has such."""

    value: Any
    point: bool = True
    range: Range | None = None


@lru_cache(maxsize=64)
def label_sets(labels: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """As `label` writes them: too long a content was not scanned, so no detector has found anything in it."""
    found = chain.from_iterable(combinations(labels, n) for n in range(len(labels) + 1))
    return tuple(s for s in found if "too_long" not in s or not set(s) - set(_UNSCANNED))


def header_cells(name: str, constants: Iterable[Any]) -> tuple[Cell, ...]:
    if not name.startswith("x-") or name != name.lower():
        return (Cell(ABSENT),)  # no request is ever given such a header
    words = sorted({c for c in constants if isinstance(c, str)})
    return (Cell(ABSENT), *map(Cell, words), Cell(_other(words), point=False))


def string_cells(field: Field, constants: Iterable[Any], default: Any) -> tuple[Cell, ...]:
    words = sorted({c for c in constants if isinstance(c, str)})
    rest = Cell(_other(words) if default in words else default, point=False)
    return (rest, *map(Cell, words))


def _other(words: Sequence[str]) -> str:
    return next(
        w for n in range(len(words) + 1) if (w := OTHER + ("-" * min(n, 1)) + (str(n) if n else "")) not in words
    )


def number_cells(field: Field, constants: Iterable[Any], default: Any) -> tuple[Cell, ...]:
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
    inside = _inside(left, right)
    if inside is None:  # two neighbours, of which one belongs
        inside = left if closed[0] and not math.isinf(left) else right if closed[1] and not math.isinf(right) else None
    return [] if inside is None else [Cell(inside, point=False)]


def _inside(left: float, right: float) -> float | None:
    """A double between two others, near numbers that people write; None where there is none."""
    if math.isinf(left):
        found = min(right - 1.0, math.nextafter(right, left))
    elif math.isinf(right):
        found = max(left + 1.0, math.nextafter(left, right))
    else:
        found = left / 2 + right / 2
        found = found if left < found < right else math.nextafter(left, right)
    return found if left < found < right else None
