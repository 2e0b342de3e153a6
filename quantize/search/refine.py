"""Rounds a tensor again so that its errors cancel: what counts is the error of its outputs, not of its weights.

With H the second moments of the tensor's inputs (of tokens of a text), and E the rounding errors of a row, the squared
error of that row's output is E H E'. A diagonal H is what an importance matrix knows. Where weights have codes of their
own, each code moves by itself (`descent`). In other types blocks of columns are rounded again in turn, each towards
where it cancels the others' errors best (block coordinate descent, in the spirit of GPTQ: Frantar et al., 2022); ggml's
quantizer does the rounding, and a row keeps what is better.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.gguf import TENSOR_TYPES
from foreshore.quantize.blocks import dequantize, quantize
from foreshore.quantize.codes import codes_of
from foreshore.quantize.search.descent import descend

__all__ = ["DAMPING", "TIED_DAMPING", "refine"]

COLUMNS = 32  # of a step
SWEEPS = 2
DAMPING = 0.01  # of the mean of H's diagonal, added to it: directions that the text did not show count too
TIED_DAMPING = 0.2  # of an embedding that is the output too: its rows are also read as they are
_BLOCKS = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}

Values = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def refine(
    values: Values, blocks: Bytes, kind: str, moments: Values, threads: int = 1, *, damping: float = DAMPING
) -> Bytes:
    """`blocks` (rows, bytes of a row) of `values` (rows, columns) in `kind`, with less error under `moments`
    (columns, columns), to whose diagonal `damping` of its mean is added. No row gets worse."""
    h = moments + damping * np.float32(np.diag(moments).mean()) * np.eye(len(moments), dtype=np.float32)
    codes = codes_of(kind)
    return _by_blocks(values, blocks, kind, h, threads) if codes is None else descend(values, blocks, codes, h)


def _by_blocks(values: Values, blocks: Bytes, kind: str, h: Values, threads: int) -> Bytes:
    importance, span = np.ascontiguousarray(np.diag(h)), _BLOCKS[kind][0]
    blocks, size = blocks.copy(), _BLOCKS[kind][1]
    rounded = dequantize(blocks, kind, values.shape[1])
    gradient = (rounded - values) @ h
    for start in [c for _ in range(SWEEPS) for c in range(0, values.shape[1], COLUMNS)]:
        step = slice(start, start + COLUMNS)
        first = start // span * span
        block = slice(first, first + max(span, COLUMNS))  # what is rounded together
        aim = rounded[:, block].copy()
        aim[:, start - first : start - first + COLUMNS] -= np.linalg.solve(h[step, step], gradient[:, step].T).T
        made = quantize(np.ascontiguousarray(aim), kind, importance[block], threads)
        change = dequantize(made, kind, aim.shape[1]) - rounded[:, block]
        gain = (change * (2 * gradient[:, block] + change @ h[block, block])).sum(axis=1)
        better = gain < 0
        rounded[better, block] += change[better]
        gradient[better] += change[better] @ h[block]
        at = first // span * size
        blocks[better, at : at + made.shape[1]] = made[better]
    return blocks
