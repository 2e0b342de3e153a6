"""Rows of which most columns are 0, and the two products that learning needs. Numpy has no sparse matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bag", "Sparse", "spread"]

PIECE = 1 << 16  # entries that are multiplied at a time: they stay in the cache

Matrix = NDArray[np.float32]
Places = NDArray[np.intp]
Bag = tuple[Places, Matrix]  # of one row: the columns, ascending, and their values


def spread(bags: Sequence[Bag], columns: int) -> Matrix:
    """(bags, columns), with all the zeros."""
    found = np.zeros((len(bags), columns), np.float32)
    for row, (places, values) in zip(found, bags, strict=True):
        row[places] = values
    return found


class Sparse:
    """(rows, columns), made of `bags`."""

    def __init__(self, bags: Sequence[Bag], columns: int) -> None:
        self.shape = len(bags), columns
        self._lines = _Lines(bags)
        self._flipped: _Lines | None = None

    def __matmul__(self, other: Matrix) -> Matrix:
        """(rows, n) of a matrix (columns, n)."""
        return self._lines.times(other, self.shape[0])

    def transposed_times(self, other: Matrix) -> Matrix:
        """(columns, n) of a matrix (rows, n)."""
        if self._flipped is None:
            self._flipped = self._lines.flipped()
        return self._flipped.times(other, self.shape[1])

    def bag(self, row: int) -> Bag:
        return self._lines.entries(row)

    def squares(self) -> NDArray[np.float64]:
        """The sum of squares of each column."""
        found = np.bincount(self._lines.places, self._lines.values.astype(np.float64) ** 2, self.shape[1])
        return found.astype(np.float64)


class _Lines:
    """Entries line by line; lines without any are left out."""

    def __init__(self, bags: Sequence[Bag]) -> None:
        counts = np.array([len(places) for places, _ in bags], np.intp)
        self.numbers = np.flatnonzero(counts)  # of the lines that have entries
        self.places = np.concatenate([places for places, _ in bags] or [np.zeros(0, np.intp)]).astype(np.int32)
        self.values = np.concatenate([values for _, values in bags] or [np.zeros(0, np.float32)])
        self.starts = np.append(0, np.cumsum(counts[self.numbers]))

    def entries(self, line: int) -> Bag:
        at = int(np.searchsorted(self.numbers, line))
        here = slice(0, 0)
        if at < len(self.numbers) and self.numbers[at] == line:
            here = slice(self.starts[at], self.starts[at + 1])
        return self.places[here].astype(np.intp), self.values[here]

    def times(self, other: Matrix, lines: int) -> Matrix:
        found = np.zeros((lines, other.shape[1]), np.float32)
        first = 0
        while first < len(self.numbers):
            last = max(first + 1, int(np.searchsorted(self.starts, self.starts[first] + PIECE)) - 1)
            here = slice(self.starts[first], self.starts[last])
            parts = other[self.places[here]] * self.values[here, None]
            found[self.numbers[first:last]] = np.add.reduceat(parts, self.starts[first:last] - self.starts[first])
            first = last
        return found

    def flipped(self) -> _Lines:
        """The same entries, column by column."""
        found = _Lines([])
        order = np.argsort(self.places, kind="stable")
        lines = np.repeat(self.numbers, np.diff(self.starts))
        found.numbers, starts = np.unique(self.places[order], return_index=True)
        found.starts = np.append(starts, len(order))
        found.places, found.values = lines[order].astype(np.int32), self.values[order]
        return found
