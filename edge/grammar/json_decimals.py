"""Decimal numbers between two bounds, as a GBNF expression over their digits.

Without exponents, and with at most 15 digits in all: so many a double keeps exactly, and none is rounded over a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from foreshore.edge.grammar.json_ranges import integers

__all__ = ["PLACES", "Bound", "decimals"]

PLACES = 15  # digits of a number, before and after the point
_LARGEST = Decimal(10**PLACES - 1)


@dataclass(frozen=True, slots=True)
class Bound:
    value: Decimal
    open: bool = False  # the value itself is outside


def decimals(low: Bound | None, high: Bound | None) -> str:
    """Matches numbers from `low` to `high`, of which at least one must exist; `None`: the largest that have 15 digits.

    Empty if no number of 15 digits lies between them.
    """
    low, high = low or Bound(-_LARGEST), high or Bound(_LARGEST)
    parts = []
    if low.value < 0:
        smallest = Bound(-high.value, high.open) if high.value < 0 else Bound(Decimal(0), open=True)
        below = _positive(smallest, Bound(-low.value, low.open))
        parts += [f'"-" ({below})'] if below else []
    if high.value >= 0:
        above = _positive(low if low.value >= 0 else Bound(Decimal(0)), high)
        parts += [above] if above else []
    return " | ".join(parts)


def _positive(low: Bound, high: Bound) -> str:
    """Of bounds that are not negative: those that share a whole part with a bound apart from those between."""
    first, last = int(low.value), int(high.value)
    begin, end = _places(low.value), _places(high.value)
    if first == last:
        return _joined(first, _between(begin, end, low.open, high.open, _room(first)))
    parts = [_joined(first, _from(begin, low.open, _room(first)))]
    for length in range(len(str(first + 1)), len(str(last - 1)) + 1):
        least, most = max(first + 1, 10 ** (length - 1)), min(last - 1, 10**length - 1)
        parts += [f"({integers(least, most)}) {_free(PLACES - length)}".rstrip()] if least <= most else []
    parts.append(_joined(last, _to(end, high.open, _room(last))))
    return " | ".join(part for part in parts if part)


def _room(whole: int) -> int:
    """Digits that may stand after the point."""
    return PLACES - len(str(whole))


def _joined(whole: int, fraction: str | None) -> str:
    return "" if fraction is None else f'"{whole}" {fraction}'.rstrip()


def _places(value: Decimal) -> str:
    """The digits after the point, without zeros at the end."""
    return f"{value:f}".partition(".")[2].rstrip("0")


def _from(digits: str, open_: bool, most: int) -> str | None:
    """The fraction, its point included, of what is not below `digits`."""
    if not digits and not open_:
        return _free(most)
    tail = _tail_from(digits, open_, most)
    return None if tail is None else f'"." {tail}'


def _to(digits: str, open_: bool, most: int) -> str | None:
    """The fraction of what is not above `digits`."""
    if not digits:
        return None if open_ else _optional(f'"0"{{1,{most}}}') if most > 0 else ""
    return _optional(_tail_to(digits, open_, most))


def _between(begin: str, end: str, begin_open: bool, end_open: bool, most: int) -> str | None:
    if not begin and not begin_open:
        return _to(end, end_open, most)
    length = max(len(begin), len(end))
    tail = _tail_between(begin.ljust(length, "0"), end.ljust(length, "0"), begin_open, end_open, most)
    return None if tail is None else f'"." {tail}'


def _tail_from(digits: str, open_: bool, most: int) -> str | None:
    """One or more digits whose fraction is not below that of `digits`; `None` where `most` digits do not suffice."""
    if not digits:
        return _more_than_zero(most) if open_ else _any(most)
    if most < 1:
        return None
    first, parts = int(digits[0]), []
    if (same := _tail_from(digits[1:], open_, most - 1)) is not None:
        parts.append(f'"{first}" {same}')
    if first < 9:
        parts.append(f"[{first + 1}-9] {_any(most - 1)}")
    return _grouped(parts) or None


def _tail_to(digits: str, open_: bool, most: int) -> str:
    """One or more digits whose fraction is not above that of `digits`, which do not end on a zero."""
    first, rest, parts = int(digits[0]), digits[1:], []
    if first > 0:
        parts.append(f"[0-{first - 1}] {_any(most - 1)}")
    if rest:  # it may end here: what is shorter is less
        parts.append(f'"{first}" ({_tail_to(rest, open_, most - 1)})?')
    elif not open_:
        parts.append(f'"{first}" {_zeros(most - 1)}')
    return _grouped(parts)


def _tail_between(begin: str, end: str, begin_open: bool, end_open: bool, most: int) -> str | None:
    """Of digits as many as each other, the first not above the second."""
    if not begin:
        return None if begin_open or end_open else _zeros(most)
    if begin[0] == end[0]:
        tail = _tail_between(begin[1:], end[1:], begin_open, end_open, most - 1)
        return None if tail is None else f'"{begin[0]}" {tail}'
    low, high, parts = int(begin[0]), int(end[0]), []
    if (above := _tail_from(begin[1:].rstrip("0"), begin_open, most - 1)) is not None:
        parts.append(f'"{low}" {above}')
    if high - low > 1:
        parts.append(f"[{low + 1}-{high - 1}] {_any(most - 1)}")
    rest = end[1:].rstrip("0")
    if rest:
        parts.append(f'"{high}" ({_tail_to(rest, end_open, most - 1)})?')
    elif not end_open:
        parts.append(f'"{high}" {_zeros(most - 1)}')
    return _grouped(parts) or None


def _free(most: int) -> str:
    """Any fraction, or none."""
    return _optional(f"[0-9]{{1,{most}}}") if most > 0 else ""


def _any(most: int) -> str:
    return f"[0-9]{{0,{max(0, most)}}}"


def _zeros(most: int) -> str:
    return f'"0"{{0,{max(0, most)}}}'


def _more_than_zero(most: int) -> str | None:
    return None if most < 1 else f"{_zeros(most // 2)} [1-9] {_any(most - most // 2 - 1)}"


def _optional(digits: str) -> str:
    return f'("." {digits})?'


def _grouped(parts: list[str]) -> str:
    return f"({' | '.join(parts)})" if len(parts) > 1 else "".join(parts)
