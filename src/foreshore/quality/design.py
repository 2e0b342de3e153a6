"""The prompts that an estimator learns from, as rows of numbers: each block of features centred and brought to size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = ["Design"]

PIECE = 1024  # rows that are spread out at a time
DENSE = 256  # columns: a block with fewer is made of counts, each brought to the same variance

Matrix = NDArray[np.float32]


class Design:
    """Feature vectors (rows, columns), kept sparse. A block's variances add up to 1, times `scales[block]`.

    `centre` and `size` (columns,) turn a vector into a row: (vector - centre) * size.
    """

    def __init__(self, vectors: Iterable[Matrix], blocks: Mapping[str, int]) -> None:
        self.blocks = blocks
        self.columns = sum(blocks.values())
        self._places: list[NDArray[np.uint16]] = []
        self._values: list[Matrix] = []
        sums, squares = np.zeros(self.columns), np.zeros(self.columns)
        for vector in vectors:
            places = np.flatnonzero(vector)
            values = vector[places]
            self._places.append(places.astype(np.uint16))
            self._values.append(values)
            sums[places] += values
            squares[places] += values.astype(np.float64) ** 2
        self.centre = sums / max(1, len(self))
        self._unit = self._sizes(np.maximum(squares / max(1, len(self)) - self.centre**2, 0.0))
        self.scales: Mapping[str, float] = dict.fromkeys(blocks, 1.0)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def size(self) -> NDArray[np.float64]:
        scales = [np.full(count, self.scales[block] ** 0.5) for block, count in self.blocks.items()]
        return np.asarray(self._unit * np.concatenate(scales))

    def rows(self, at: NDArray[np.intp]) -> Matrix:
        """(at, columns)"""
        found = np.zeros((len(at), self.columns), np.float32)
        for row, i in zip(found, at, strict=True):
            row[self._places[i]] = self._values[i]
        found -= self.centre.astype(np.float32)
        found *= self.size.astype(np.float32)
        return found

    def pieces(self, at: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], Matrix]]:
        for start in range(0, len(at), PIECE):
            part = at[start : start + PIECE]
            yield part, self.rows(part)

    def _sizes(self, variances: NDArray[np.float64]) -> NDArray[np.float64]:
        """What brings each block's variances to 1 in total. A column that never varies is left out."""
        found = np.zeros(self.columns)
        for part in self.parts().values():
            here = variances[part]
            varies = here > 1e-9
            if len(here) < DENSE:
                found[part] = np.where(varies, 1 / np.sqrt(np.maximum(here, 1e-9) * max(1, varies.sum())), 0.0)
            elif varies.any():
                found[part] = 1 / np.sqrt(here.sum())
        return found

    def parts(self) -> dict[str, slice]:
        """Where each block's columns stand."""
        ends = np.cumsum(list(self.blocks.values())).tolist()
        return {name: slice(end - count, end) for (name, count), end in zip(self.blocks.items(), ends, strict=True)}
