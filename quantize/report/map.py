"""Layers by tensor kinds: what each tensor costs in quality at a type, and which types a search chose."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from foreshore.figure.figure import Box, Figure, Mark, Text, number, width_of

__all__ = ["STEPS", "draw_costs", "draw_types"]

STEPS = 8  # of the colour ramp, whose roles are `heat0` to `heat7`
LAYER = re.compile(r"blk\.(\d+)\.(.+)")
HEAD, ROW, WIDEST, NARROWEST = 76.0, 26.0, 58.0, 16.0
SMALL = 10.5
# In the order in which a layer uses them; others follow by name.
ORDER = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
Cell = tuple[int, str, str, str]  # step of the ramp, what it says if there is room, its title, the tensor


def draw_costs(costs: Mapping[str, float], *, title: str, width: float = 760) -> Figure:
    """`costs`: nats a token by tensor, at least one positive. The ramp is logarithmic, at most 3 decades."""
    top = max(costs.values())
    low = max(min((v for v in costs.values() if v > 0), default=top), top / 1000)
    step = _ramp(math.log(low), math.log(top))

    def cell(tensor: str) -> Cell:
        cost = costs[tensor]
        return step(math.log(max(cost, low))), number(cost, 2), f"{tensor}: {number(cost)} nats", tensor

    worst = max(costs, key=lambda t: costs[t])
    described = f"The cost of each of {len(costs)} tensors; the dearest is {worst} with {number(costs[worst])} nats."
    ends = f"{number(low, 2)} nats or less", f"{number(top, 2)} nats"
    return _draw([cell(t) for t in costs], title, described, ends, width)


def draw_types(types: Mapping[str, str], bits: Mapping[str, float], *, title: str, width: float = 760) -> Figure:
    """`types` by tensor; `bits` a weight by type."""
    widths = [bits[kind] for kind in types.values()]
    step = _ramp(min(widths), max(widths))
    cells = [(step(bits[kind]), kind, f"{tensor}: {kind}", tensor) for tensor, kind in types.items()]
    counts = {kind: list(types.values()).count(kind) for kind in sorted(set(types.values()), key=lambda k: bits[k])}
    described = "Tensors by type: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()) + "."
    return _draw(cells, title, described, (f"{min(widths):.3g} bits a weight", f"{max(widths):.3g}"), width)


def _ramp(low: float, high: float) -> Callable[[float], int]:
    return lambda value: round((STEPS - 1) * (value - low) / (high - low)) if high > low else STEPS - 1


def _draw(cells: Sequence[Cell], title: str, described: str, ends: tuple[str, str], width: float) -> Figure:
    layered = {(_kind(m[2]), int(m[1])): cell for cell in cells if (m := LAYER.fullmatch(cell[3]))}
    others = [cell for cell in cells if not LAYER.fullmatch(cell[3])]
    kinds = sorted({kind for kind, _ in layered}, key=_rank)
    layers = sorted({layer for _, layer in layered})
    left = max([width_of(kind, 12) for kind in (*kinds, *(_kind(c[3]) for c in others))], default=0) + 14
    wide = min(WIDEST, max(NARROWEST, (width - left) / max(1, len(layers))))
    marks: list[Mark] = [Text(x=4, y=16, text=title, size=14, bold=True), *_legend(ends)]
    every = max(1, math.ceil(22 / wide))
    for i, layer in enumerate(layers):
        if i % every == 0:
            x = left + (i + 0.5) * wide
            marks.append(Text(x=x, y=HEAD - 6, text=str(layer), size=SMALL, role="muted", anchor="middle"))
    if layers:
        marks.append(Text(x=left - 8, y=HEAD - 6, text="layer", size=SMALL, role="muted", anchor="end"))
    for row, kind in enumerate(kinds):
        y = HEAD + row * ROW
        marks.append(Text(x=left - 8, y=y + 17, text=kind, anchor="end"))
        for i, layer in enumerate(layers):
            if (kind, layer) in layered:
                marks += _cell(layered[kind, layer], left + i * wide, y, wide)
    y = HEAD + len(kinds) * ROW + (8 if kinds else 0)
    for i, cell in enumerate(others):
        marks.append(Text(x=left - 8, y=y + i * ROW + 17, text=_kind(cell[3]), anchor="end"))
        marks += _cell(cell, left, y + i * ROW, WIDEST)
    height = y + len(others) * ROW + 8
    right = max(width, left + wide * len(layers) + 4)
    return Figure(title=title, description=described, width=right, height=height, marks=marks)


def _cell(cell: Cell, x: float, y: float, width: float) -> Iterable[Mark]:
    step, said, title, _ = cell
    yield Box(x=x, y=y, width=width - 1.5, height=ROW - 1.5, role=f"heat{step}", title=title)
    if width_of(said, SMALL) < width - 4:
        role = "low-ink" if step < 5 else "high-ink"
        yield Text(x=x + width / 2 - 0.75, y=y + 16, text=said, size=SMALL, role=role, anchor="middle")


def _legend(ends: tuple[str, str]) -> Iterable[Mark]:
    yield Text(x=4, y=40, text=ends[0], role="muted", size=SMALL)
    start = 12 + width_of(ends[0], SMALL)
    for step in range(STEPS):
        yield Box(x=start + step * 16, y=31, width=16, height=11, role=f"heat{step}")
    yield Text(x=start + STEPS * 16 + 8, y=40, text=ends[1], role="muted", size=SMALL)


def _kind(name: str) -> str:
    return name.removesuffix(".weight")


def _rank(kind: str) -> tuple[int, str]:
    return (ORDER.index(kind) if kind in ORDER else len(ORDER), kind)
