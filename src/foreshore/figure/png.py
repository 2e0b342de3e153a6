"""Figures as a PNG: each mark is painted by its distance to every pixel, so that edges are smooth at any scale."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from foreshore.figure.figure import Box, Dot, Figure, Line, Mark, Point, Text
from foreshore.figure.letters import CAPITAL, letter

__all__ = ["draw_png"]

Pixels = NDArray[np.float32]
CAP_HEIGHT = 0.72  # of a text's size, as in common sans-serif fonts
PEN, BOLD_PEN = 0.085, 0.13  # of a text's size
SPACING = 0.55  # units after each letter
DASH = 4.0
TITLE = 16.0


def draw_png(figures: Sequence[Figure], colours: dict[str, str], *, scale: float = 2.0, margin: float = 20) -> bytes:
    """The figures below each other on one sheet, each under its title, in `colours` (role -> `#rrggbb`)."""
    width = max(f.width for f in figures) + 2 * margin
    height = sum(_head(f) + f.height + margin for f in figures) + margin
    sheet = _Sheet(width, height, scale, {role: _rgb(colour) for role, colour in colours.items()})
    top = margin
    for figure in figures:
        sheet.origin = (margin, top)
        sheet.draw(Text(x=4, y=16, text=figure.title, size=TITLE, bold=True))
        sheet.origin = (margin, top + _head(figure))
        for mark in figure.marks:
            sheet.draw(mark)
        top += _head(figure) + figure.height + margin
    return _encode(sheet.pixels)


def _head(figure: Figure) -> float:
    return TITLE + 8 if figure.title else 0


class _Sheet:
    def __init__(self, width: float, height: float, scale: float, colours: dict[str, Pixels]) -> None:
        self.scale, self.colours, self.origin = scale, colours, (0.0, 0.0)
        self.pixels = np.empty((round(height * scale), round(width * scale), 3), np.float32)
        self.pixels[:] = colours["surface"]

    def draw(self, mark: Mark) -> None:
        if isinstance(mark, Text):
            for strokes in _written(mark):
                self.stroke(strokes, mark.role, (BOLD_PEN if mark.bold else PEN) * mark.size)
        elif isinstance(mark, Line):
            for ends in _dashes(mark.points) if mark.dashed else pairwise(mark.points):
                self.stroke([ends], mark.role, mark.width)  # each alone: the window of them all may be the sheet
        elif isinstance(mark, Box):
            x, y, right, bottom = mark.x, mark.y, mark.x + mark.width, mark.y + mark.height
            self.fill([(x, y), (right, y), (right, bottom), (x, bottom)], mark.role)
        else:
            self.dot(mark)

    def dot(self, dot: Dot) -> None:
        x, y, r = dot.x, dot.y, dot.radius
        inner = "surface" if dot.hollow else dot.role
        corners = [(x, y - r), (x + r, y), (x, y + r), (x - r, y)]
        if dot.shape == "circle":
            self.stroke([[(x, y), (x, y)]], inner, 2 * r)
            corners = [(x + r * np.cos(a), y + r * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 25)]
        else:
            self.fill(corners, inner)
        self.stroke([[*corners, corners[0]]], dot.role if dot.hollow else "surface", 1.5)

    def stroke(self, strokes: Sequence[Sequence[Point]], role: str, width: float) -> None:
        """Round pens along lines; where strokes overlap the colour is laid on once."""
        points = self.placed([p for stroke in strokes for p in stroke])
        if not len(points):
            return
        half = width * self.scale / 2
        ys, xs, area = self.window(points, half + 1)
        nearest = np.full(np.broadcast_shapes(ys.shape, xs.shape), np.inf, np.float32)
        for stroke in strokes:
            for (ax, ay), (bx, by) in pairwise(self.placed(stroke)):
                dx, dy = bx - ax, by - ay
                along = np.clip(((xs - ax) * dx + (ys - ay) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
                np.minimum(nearest, np.hypot(xs - ax - along * dx, ys - ay - along * dy), out=nearest)
        self.blend(area, np.clip(half - nearest + 0.5, 0, 1), role)

    def fill(self, corners: Sequence[Point], role: str) -> None:
        """A convex polygon, its corners clockwise on the sheet."""
        points = self.placed(corners)
        ys, xs, area = self.window(points, 1)
        inside = np.full(np.broadcast_shapes(ys.shape, xs.shape), np.inf, np.float32)
        for (ax, ay), (bx, by) in pairwise([*points, points[0]]):
            length = np.hypot(bx - ax, by - ay)
            if length:
                np.minimum(inside, ((bx - ax) * (ys - ay) - (by - ay) * (xs - ax)) / length, out=inside)
        self.blend(area, np.clip(inside + 0.5, 0, 1), role)

    def placed(self, points: Sequence[Point]) -> Pixels:
        moved = np.array(points, np.float32).reshape(-1, 2) + np.array(self.origin, np.float32)
        return moved.astype(np.float32) * np.float32(self.scale)

    def window(self, points: Pixels, room: float) -> tuple[Pixels, Pixels, tuple[slice, slice]]:
        """The pixels' centres around `points`, and where they lie on the sheet."""
        left, top = np.maximum(np.floor(points.min(axis=0) - room), 0).astype(int)
        right, bottom = np.ceil(points.max(axis=0) + room).astype(int)
        area = slice(top, min(bottom, self.pixels.shape[0])), slice(left, min(right, self.pixels.shape[1]))
        ys, xs = (
            np.arange(part.start, max(part.stop, part.start), dtype=np.float32) + np.float32(0.5) for part in area
        )
        return ys[:, None], xs[None, :], area

    def blend(self, area: tuple[slice, slice], cover: Pixels, role: str) -> None:
        part = self.pixels[area]
        part += cover[..., None] * (self.colours[role] - part)


def _written(text: Text) -> Iterator[list[list[Point]]]:
    """The strokes of each letter."""
    unit = text.size * CAP_HEIGHT / CAPITAL
    letters = [letter(c) for c in text.text]
    width = sum(advance + SPACING for advance, _ in letters) * unit
    x = text.x - {"start": 0.0, "middle": width / 2, "end": width}[text.anchor]
    for advance, strokes in letters:
        yield [[(x + px * unit, text.y - py * unit) for px, py in stroke] for stroke in strokes]
        x += (advance + SPACING) * unit


def _dashes(points: Sequence[Point]) -> list[list[Point]]:
    found: list[list[Point]] = []
    for (ax, ay), (bx, by) in pairwise(points):
        length = max(float(np.hypot(bx - ax, by - ay)), 1e-9)
        for start in np.arange(0, length, 2 * DASH):
            ends = start / length, min(start + DASH, length) / length
            found.append([(ax + (bx - ax) * share, ay + (by - ay) * share) for share in ends])
    return found


def _rgb(colour: str) -> Pixels:
    return np.frombuffer(bytes.fromhex(colour.removeprefix("#")), np.uint8).astype(np.float32)


def _encode(pixels: Pixels) -> bytes:
    """PNG: 8 bits a channel, RGB, no filter (Portable Network Graphics, third edition, sections 5 and 11)."""
    rows = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
    height, width, _ = rows.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), rows.reshape(height, -1)], axis=1)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
