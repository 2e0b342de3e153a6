"""Whole numbers between two bounds, as a GBNF expression over their digits."""

from __future__ import annotations

__all__ = ["DIGITS", "integers"]

DIGITS = 16  # of the largest number where no bound is given: all that a double holds exactly, and one more
_MOST = 10**DIGITS - 1


def integers(low: int | None, high: int | None) -> str:
    """Matches exactly the integers from `low` to `high`, of which `low` is not above `high`; `None`: 16 digits."""
    low = -_MOST if low is None else low
    high = _MOST if high is None else high
    parts = []
    if low < 0:
        parts.append(f'"-" ({_naturals(max(1, -high), -low)})')
    if high >= 0:
        parts.append(_naturals(max(0, low), high))
    return " | ".join(parts)


def _naturals(low: int, high: int) -> str:
    """Numbers of each length apart."""
    parts = []
    for length in range(len(str(low)), len(str(high)) + 1):
        least = max(low, 10 ** (length - 1) if length > 1 else 0)
        parts.append(_same_length(str(least), str(min(high, 10**length - 1))))
    return " | ".join(parts)


def _same_length(low: str, high: str) -> str:
    """Digits from `low` to `high`, both of one length, the first digit of each apart."""
    if not low:
        return '""'
    if set(low) == {"0"} and set(high) == {"9"}:
        return _any(len(low))
    if low[0] == high[0]:
        return f'"{low[0]}" {_grouped(_same_length(low[1:], high[1:]))}' if low[1:] else f'"{low[0]}"'
    first, last = int(low[0]), int(high[0])
    rest = len(low) - 1
    if not rest:
        return f"[{first}-{last}]"
    parts = []
    if low[1:] != "0" * rest:
        parts.append(f'"{first}" {_grouped(_same_length(low[1:], "9" * rest))}')
        first += 1
    top = "" if high[1:] == "9" * rest else f'"{last}" {_grouped(_same_length("0" * rest, high[1:]))}'
    last -= bool(top)
    if first <= last:
        parts.append(f"[{first}-{last}] {_any(rest)}")
    return " | ".join([*parts, *([top] if top else [])])


def _any(count: int) -> str:
    return "[0-9]" if count == 1 else f"[0-9]{{{count}}}"


def _grouped(expression: str) -> str:
    return f"({expression})" if " | " in expression else expression
