"""The bounds that a JSON Schema sets, read and checked: lengths, whole numbers, decimals."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from foreshore.edge.grammar.json_decimals import PLACES, Bound
from foreshore.edge.grammar.json_ranges import DIGITS
from foreshore.errors import BadRequest

__all__ = ["BOUNDS", "decimal_limits", "integer_limits", "refuse", "repeats"]

BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
MAX_REPEAT = 2000  # llama.cpp unrolls bounded repeats
MAX_BOUND = 10**DIGITS - 1


def repeats(schema: Mapping[str, Any], least: str, most: str, where: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    for value in (low, high if high is not None else 0):
        if not isinstance(value, int) or not 0 <= value <= MAX_REPEAT:
            raise refuse(f"the schema at {where} has {least} {low!r}, {most} {high!r}; whole numbers to {MAX_REPEAT}")
    if high is not None and high < low:
        raise refuse(f"the schema at {where} has {least} {low!r} above {most} {high!r}")
    return low, high


def integer_limits(schema: Mapping[str, Any], where: str) -> tuple[int | None, int | None]:
    """The least and the largest integer."""
    bounds = {k: schema[k] for k in BOUNDS if k in schema}
    for keyword, value in bounds.items():
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_BOUND:
            raise refuse(f"the schema at {where} has {keyword} {value!r}; whole numbers of at most {DIGITS} digits")
    lows = [bounds.get("minimum"), bounds.get("exclusiveMinimum", -MAX_BOUND - 1) + 1]
    highs = [bounds.get("maximum"), bounds.get("exclusiveMaximum", MAX_BOUND + 1) - 1]
    low, high = max(n for n in lows if n is not None), min(n for n in highs if n is not None)
    if low > high:
        raise refuse(f"the schema at {where} has {bounds!r}, which no number satisfies")
    return low, high


def decimal_limits(schema: Mapping[str, Any], where: str) -> tuple[Bound | None, Bound | None]:
    """The bound that tells of each side: of two at one place the open one."""
    found: dict[str, Bound] = {}
    for keyword in BOUNDS & set(schema):
        value = schema[keyword]
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 10**PLACES:
            raise refuse(f"the schema at {where} has {keyword} {value!r}; numbers of at most {PLACES} digits")
        exact = Decimal(str(value))
        if -int(exact.normalize().as_tuple().exponent) > PLACES:
            raise refuse(f"the schema at {where} has {keyword} {value!r}; at most {PLACES} digits after the point")
        found[keyword] = Bound(exact, open=keyword.startswith("exclusive"))
    lows = [found[k] for k in ("minimum", "exclusiveMinimum") if k in found]
    highs = [found[k] for k in ("maximum", "exclusiveMaximum") if k in found]
    low = max(lows, key=lambda b: (b.value, b.open), default=None)
    high = min(highs, key=lambda b: (b.value, not b.open), default=None)
    if low is not None and high is not None and low.value > high.value:
        raise refuse(f"the schema at {where} has {low.value} as its least and {high.value} as its largest number")
    return low, high


def refuse(message: str) -> BadRequest:
    return BadRequest(message, hint="simplify the schema, or validate that part yourself", param="response_format")
