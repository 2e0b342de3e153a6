"""Rounds a tensor again so that its errors cancel: what counts is the error of its outputs, not of its weights.

With H the second moments of the tensor's inputs (of tokens of a text), and E the rounding errors of a row, the squared
error of that row's output is E H E'. A diagonal H is what an importance matrix knows. Scales stay as they are, and each
code in turn moves to where it cancels the errors of its row's other weights best (coordinate descent, in the spirit of
GPTQ: Frantar et al., 2022): the least of E H E' in the error of one weight j is at E_j - (E H)_j / H_jj. The codes of a
column are moved together, since rows do not depend on one another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foreshore.quantize.blocks import dequantize, quantize
from foreshore.quantize.codes import Codes, codes_of

__all__ = ["SWEEPS", "refine", "rounded"]

SWEEPS = 8  # of which the first two bring most
COLUMNS = 32  # after which the errors of all other columns are worked out again
CHUNK_WEIGHTS = 1 << 19  # at once: they stay in the cache

Bytes = NDArray[np.uint8]
Values = NDArray[np.float32]


def rounded(values: Values, kind: str, moments: Values, sweeps: int = SWEEPS, threads: int = 1) -> Bytes:
    """`values` (rows, columns) in the blocks of `kind`, refined; their scales by what `moments` say of importance."""
    plain = quantize(values, kind, np.ascontiguousarray(np.diag(moments)), threads)
    return refine(values, plain, kind, moments, sweeps)


def refine(values: Values, blocks: Bytes, kind: str, moments: Values, sweeps: int = SWEEPS) -> Bytes:
    """`blocks` (rows, bytes of a row) of `values` (rows, columns) in `kind`, with less error under `moments`
    (columns, columns), which are positive definite. No row gets worse. As they are in types whose codes stand for
    several weights at once."""
    codes, step = codes_of(kind), max(1, CHUNK_WEIGHTS // values.shape[1])
    if codes is None:
        return blocks
    parts = range(0, len(values), step)
    return np.concatenate(
        [_Rows(values[s : s + step], blocks[s : s + step], codes, moments).swept(sweeps) for s in parts]
    )


class _Rows:
    """Some rows, with columns first, so that what is moved together lies together."""

    def __init__(self, values: Values, blocks: Bytes, codes: Codes, moments: Values) -> None:
        self.blocks, self.layout, self.h = blocks, codes, moments
        columns = values.shape[1]
        offsets, steps = codes.grid(blocks, columns)
        now = dequantize(blocks, codes.kind, columns)
        self.offsets, self.steps = np.ascontiguousarray(offsets.T), np.ascontiguousarray(steps.T)
        self.inverse = np.divide(1, self.steps, out=np.zeros_like(self.steps), where=self.steps != 0)
        self.codes = np.ascontiguousarray(codes.read(blocks, columns).T)
        self.rounded = np.ascontiguousarray(now.T)
        self.gradient = moments @ np.ascontiguousarray((now - values).T)
        self.even = codes.even
        self.halfway = (codes.levels[1:] + codes.levels[:-1]) / 2

    def swept(self, sweeps: int) -> Bytes:
        columns = len(self.rounded)
        for start in [c for _ in range(sweeps) for c in range(0, columns, COLUMNS)]:
            span = slice(start, start + COLUMNS)
            self.gradient += self.h[:, span] @ self._moved(span)
        return self.layout.write(self.blocks, np.ascontiguousarray(self.codes.T))

    def _moved(self, span: slice) -> Values:
        """Move the codes of some columns, one after the other; how far each weight went."""
        gradient, h = self.gradient[span].copy(), self.h[span, span]
        moved = np.empty_like(gradient)
        for place in range(len(gradient)):
            moved[place] = self._move(span.start + place, gradient[place] / h[place, place])
            gradient[place + 1 :] += h[place + 1 :, place, None] * moved[place]
        return moved

    def _move(self, column: int, excess: Values) -> Values:
        """Move a column's codes to the levels nearest to what its weights would best be."""
        before, offset, step = self.rounded[column], self.offsets[column], self.steps[column]
        codes, levels = self._nearest((before - excess - offset) * self.inverse[column])
        change = offset + step * levels - before
        self.codes[column] = codes
        self.rounded[column] += change
        return np.asarray(change)

    def _nearest(self, aim: Values) -> tuple[NDArray[np.generic], Values]:
        """Codes, and their levels."""
        if self.even:
            found = np.minimum(np.maximum(np.rint(aim), 0), len(self.halfway))
            return found, found
        codes = np.searchsorted(self.halfway, aim)
        return codes, self.layout.levels[codes]
