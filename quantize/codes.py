"""The codes of quantized weights: which of its type's levels each weight has, apart from the scales of its block.

A weight is `offset + step x level[code]`, with offset and step of its own few neighbours. Where a type keeps its codes
in the bytes of a block is told here; which bits of them are which weight's is asked of ggml, by setting one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.gguf import TENSOR_TYPES
from foreshore.quantize.blocks import dequantize, quantize

__all__ = ["Codes", "codes_of"]

# The bytes of a block that hold codes; all others are scales. Types whose codes stand for several weights at once have
# no place here, nor has q8_0, whose rounding hardly costs anything.
_BYTES = {
    "q4_0": (2, 18), "q4_1": (4, 20), "q5_0": (2, 22), "q5_1": (4, 24), "iq4_nl": (2, 18), "iq4_xs": (8, 136),
    "q2_k": (16, 80), "q3_k": (0, 96), "q4_k": (16, 144), "q5_k": (16, 176), "q6_k": (0, 192),
}  # fmt: skip
_BLOCKS = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}

Bytes = NDArray[np.uint8]
Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codes:
    """How `kind` keeps them. `places` (weights of a block, bits of a code): bits of the block's codes, lowest first;
    `levels` (codes,) rise from 0, and the second is 1."""

    kind: str
    places: NDArray[np.intp]
    levels: Values

    @property
    def even(self) -> bool:
        """Whether the levels are the whole numbers."""
        return bool(np.allclose(self.levels, np.arange(len(self.levels))))

    def read(self, blocks: Bytes, columns: int) -> Bytes:
        """Of `blocks` (rows, bytes of a row): the code of each weight, (rows, columns)."""
        bits = self._bits(blocks)
        found = np.zeros((len(bits), len(self.places)), np.uint8)
        for number, place in enumerate(self.places.T):
            found |= bits[:, place] << number
        return found.reshape(-1, columns)

    def write(self, blocks: Bytes, codes: Bytes) -> Bytes:
        """A copy of `blocks` with these `codes`, (rows, columns), and the scales that they have."""
        flat = codes.reshape(-1, len(self.places))
        bits = np.empty((len(flat), self.places.size), np.uint8)
        for number, place in enumerate(self.places.T):
            bits[:, place] = flat >> number & 1
        made = blocks.reshape(len(flat), -1).copy()
        made[:, _span(self.kind)] = np.packbits(bits, axis=1, bitorder="little")
        return made.reshape(blocks.shape)

    def grid(self, blocks: Bytes, columns: int) -> tuple[Values, Values]:
        """Offset and step of each weight, (rows, columns)."""
        zeros = np.zeros((len(blocks), columns), np.uint8)
        offsets = dequantize(self.write(blocks, zeros), self.kind, columns)
        return offsets, dequantize(self.write(blocks, zeros + np.uint8(1)), self.kind, columns) - offsets

    def _bits(self, blocks: Bytes) -> Bytes:
        rows = blocks.reshape(-1, _BLOCKS[self.kind][1])
        return np.unpackbits(rows[:, _span(self.kind)], axis=1, bitorder="little")


@cache
def codes_of(kind: str) -> Codes | None:
    """`None` for a type whose weights have no codes of their own."""
    if kind not in _BYTES:
        return None
    block, _ = _BLOCKS[kind]
    empty = quantize(np.linspace(-1, 1, block, dtype=np.float32)[None], kind, np.ones(block, np.float32))
    empty[:, _span(kind)] = 0  # whatever scales these are, none is 0
    places = _places(kind, empty)
    codes = Codes(kind=kind, places=places, levels=np.zeros(1, np.float32))
    every = np.arange(1 << places.shape[1], dtype=np.uint8)
    values = np.stack([dequantize(codes.write(empty, np.full((1, block), code)), kind, block)[0] for code in every])
    values = values - values[0]
    return Codes(kind=kind, places=places, levels=np.median(values / values[1], axis=1).astype(np.float32))


def _places(kind: str, empty: Bytes) -> NDArray[np.intp]:
    """Each bit set alone changes one weight; the higher the bit, the more."""
    block, span = _BLOCKS[kind][0], _span(kind)
    count = 8 * (span.stop - span.start)
    some = np.repeat(empty, count, axis=0)
    some[:, span] = np.packbits(np.eye(count, dtype=np.uint8), axis=1, bitorder="little")
    change = np.abs(dequantize(some, kind, block) - dequantize(empty, kind, block))
    return np.lexsort((change.max(axis=1), change.argmax(axis=1))).reshape(block, -1)


def _span(kind: str) -> slice:
    return slice(*_BYTES[kind])
