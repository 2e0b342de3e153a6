"""Figures as plain marks, drawn once and rendered twice: `html` for pages, `png` for pictures.

A mark names the role of its colour, never the colour: a page has one for light and one for dark. Lengths are pixels,
`y` grows downward, a text's `y` is its baseline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Axis", "Box", "Dot", "Figure", "Line", "Mark", "Point", "Text", "number", "width_of"]

Point = tuple[float, float]
Shape = Literal["circle", "diamond"]
Anchor = Literal["start", "middle", "end"]
LETTER = 0.56  # of a text's size: the mean width of a letter


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    x: float
    y: float
    text: str
    role: str = "ink"
    size: float = 12
    anchor: Anchor = "start"
    bold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    points: Sequence[Point]
    role: str
    width: float = 1
    dashed: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    role: str
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """Filled, or hollow: a ring with the surface's colour inside."""

    x: float
    y: float
    role: str
    shape: Shape = "circle"
    hollow: bool = False
    radius: float = 5
    title: str = ""


Mark = Text | Line | Box | Dot


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """`description` says in words what is to be seen."""

    title: str
    description: str
    width: float
    height: float
    marks: Sequence[Mark]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Maps values from `low` to `high` onto pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Sequence[float], start: float, end: float, *, log: bool = False, room: float = 0.06
    ) -> Axis:
        """With `room`, a share of the whole, on either side. On a log axis all `values` are positive."""
        found = [math.log(v) for v in values] if log else list(values)
        low, high = min(found), max(found)
        spare = (high - low) * room or (0.5 if log else abs(high) * 0.1 or 1)
        low, high = low - spare, high + spare
        if log:
            return cls(low=math.exp(low), high=math.exp(high), start=start, end=end, log=True)
        return cls(low=max(low, 0.0) if min(found) >= 0 else low, high=high, start=start, end=end)

    def __call__(self, value: float) -> float:
        """The pixel of `value`; one beyond the axis lies on its edge."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values inside the axis, about `count` of them."""
        found = self._log_ticks(count) if self.log else self._even_ticks(count)
        return [tick for tick in found if self.low <= tick <= self.high]  # rounding may have put one beyond

    def _even_ticks(self, count: int) -> list[float]:
        raw = (self.high - self.low) / count
        power = 10 ** math.floor(math.log10(raw))
        step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * (1 - 1e-9))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [float(f"{i * step:.12g}") for i in range(first, last + 1)]

    def _log_ticks(self, count: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for parts in ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [float(f"{part}e{power}") for power in powers for part in parts]
            inside = [tick for tick in found if self.low <= tick <= self.high]
            if len(inside) <= count + 1:
                return inside
        return inside[:: -(-len(inside) // count)]


def number(value: float, digits: int = 3) -> str:
    """Short and without exponents where people expect none: 0.00123, 12.3, 4,560."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) < 1e-5:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def width_of(text: str, size: float) -> float:
    """About; letters differ."""
    return LETTER * size * len(text)
