"""Importance matrices, as llama.cpp's llama-imatrix writes them into a GGUF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.gguf import GgufInfo, Tensor, scan
from foreshore.errors import ModelError

__all__ = ["read_imatrix"]

SUMS, COUNTS = ".in_sum2", ".counts"


def read_imatrix(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """Mean squared activation of each column, by weight name; experts lie one behind the other.

    Raises `ModelError` if the file is not an importance matrix, or holds a value that is not finite.
    """
    info = scan(path)
    tensors = {t.name: t for t in info.tensors}
    names = [n.removesuffix(SUMS) for n in tensors if n.endswith(SUMS)]
    if info.metadata.get("general.type") != "imatrix" or not names:
        raise ModelError(
            f"{str(path)!r} is not an importance matrix", hint="make one with llama-imatrix, in GGUF format"
        )
    return {name: _means(info, name, tensors) for name in names}


def _means(info: GgufInfo, name: str, tensors: dict[str, Tensor]) -> NDArray[np.float32]:
    if name + COUNTS not in tensors:
        raise ModelError(f"{str(info.path)!r} has sums for {name!r}, but no counts")
    sums, counts = (_read(info, tensors[name + part]) for part in (SUMS, COUNTS))
    if sums.size % counts.size:
        raise ModelError(f"{str(info.path)!r} has {sums.size} sums for {name!r} and {counts.size} counts")
    rows = sums.reshape(counts.size, -1)
    # An expert that was never asked says nothing: all its columns matter alike.
    means = np.where(counts[:, None] > 0, rows / np.maximum(counts[:, None], 1), 1.0).astype(np.float32)
    if not np.isfinite(means).all():
        raise ModelError(f"{str(info.path)!r} has values that are not finite for {name!r}")
    return means.reshape(-1)


def _read(info: GgufInfo, tensor: Tensor) -> NDArray[np.float32]:
    if tensor.type != "f32":
        raise ModelError(f"{str(info.path)!r} has {tensor.name!r} in {tensor.type}, not f32")
    return np.fromfile(info.path, dtype="<f4", count=tensor.nbytes // 4, offset=tensor.offset)
