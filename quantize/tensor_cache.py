"""Quantized tensors, kept on disk by content: the tensor's bytes, its importance, the type and the engine name one."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.gguf import TENSOR_TYPES, GgufInfo, Tensor
from foreshore.errors import ModelError
from foreshore.quantize.blocks import dequantize, quantize, row_bytes, to_float32
from foreshore.quantize.ftypes import FLOATS
from foreshore.quantize.search.moments import Moments
from foreshore.quantize.search.refine import SWEEPS, rounded

__all__ = ["TensorCache", "finite", "raw_bytes"]

EMBEDDING = "token_embd.weight"  # has moments where it is the output too
BLOCKS = {name: block for name, block, _ in TENSOR_TYPES.values()}
DAMPING = 0.01
TIED_DAMPING = 0.2  # of an embedding that is the output too: its rows are also read as they are
SAMPLE_WEIGHTS = 1 << 14  # of a tensor, whose error stands for all of it
SAMPLE_SWEEPS = 2  # of refining those

Values = NDArray[np.float32]


class TensorCache:
    """`importance`: mean squared activations by tensor name, as `read_imatrix` gives them; none: all columns alike.

    With `moments` the tensors that they speak of are refined. Any number of processes may share `folder`. Without one,
    or on a full disk, everything is made anew.
    """

    def __init__(
        self,
        folder: Path | None,
        importance: Mapping[str, NDArray[np.float32]] | None = None,
        moments: Moments | None = None,
    ) -> None:
        self.folder, self._importance, self._moments = folder, importance or {}, moments
        self._digests: dict[str, str] = {}
        if folder:
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)

    def importance(self, tensor: Tensor) -> NDArray[np.float32] | None:
        """(experts, columns); `None` if the matrix lacks this tensor. Raises `ModelError` if it is of another model."""
        found = self._importance.get(tensor.name)
        if found is None:
            return None
        columns, experts = tensor.shape[0], prod(tensor.shape[2:])
        if found.size != columns * experts:
            if tensor.name == EMBEDDING:  # that of the output where both are one: the quantizer skips it too
                return None
            reason = f"it has {found.size} values for {tensor.name!r}, which has {columns * experts} columns"
            raise ModelError(f"the importance matrix is of another model: {reason}", hint="collect one from this model")
        return found.reshape(experts, columns)

    def blocks(self, info: GgufInfo, tensor: Tensor, kind: str, *, threads: int = 1) -> NDArray[np.uint8]:
        """The bytes of `tensor` in `kind`, (rows, bytes of a row); as the file has them where that is its type."""
        rows = prod(tensor.shape[1:])
        if kind == tensor.type:
            return raw_bytes(info, tensor).reshape(rows, -1)
        path = self._path(info, tensor, kind)
        shape = (rows, row_bytes(kind, tensor.shape[0]))
        found = _read(path, shape[0] * shape[1])
        if found is None:
            values = finite(to_float32(raw_bytes(info, tensor), tensor.type, tensor.shape[0]), tensor)
            found = self._quantized(values, tensor, kind, threads)
            _write(path, found)
        return found.reshape(shape)

    def error(self, info: GgufInfo, tensor: Tensor, kind: str) -> float:
        """The squared error of `kind`, weighted by importance, as a share of the squared values; with moments that of
        the outputs, of which rounding the inputs is a part. Of some rows spread over the tensor."""
        values, columns = self._sample(info, tensor), tensor.shape[0]
        moments, weights = self._second_moments(tensor), self._shared_importance(tensor)
        if moments is not None:
            off = dequantize(rounded(values, kind, moments, SAMPLE_SWEEPS), kind, columns) - values
            lost = float(((off @ moments) * off).sum()) + self._lost_to_inputs(tensor, kind, values)
            return lost / max(float(((values @ moments) * values).sum()), 1e-30)
        back = dequantize(quantize(values, kind, weights), kind, columns)
        weights = np.ones(columns, np.float32) if weights is None else weights
        return float(((back - values) ** 2 @ weights).sum() / max(float((values**2 @ weights).sum()), 1e-30))

    def pace(self, info: GgufInfo, tensor: Tensor, kind: str) -> float:
        """Seconds that a thread takes to quantize one weight."""
        values = self._sample(info, tensor)
        quantize(values[:1], kind, self._shared_importance(tensor))  # some types make tables when first used
        began = time.perf_counter()
        quantize(values, kind, self._shared_importance(tensor))
        return (time.perf_counter() - began) / values.size

    def stand_in(self, info: GgufInfo, tensor: Tensor, kind: str) -> NDArray[np.uint8]:
        """Blocks as `blocks` gives them, but of some rows, again and again: to measure speed with."""
        if kind == tensor.type:
            return self.blocks(info, tensor, kind)
        rows = quantize(self._sample(info, tensor), kind, self._shared_importance(tensor))
        return np.resize(rows, (prod(tensor.shape[1:]), rows.shape[1]))

    def _quantized(self, values: Values, tensor: Tensor, kind: str, threads: int) -> NDArray[np.uint8]:
        moments = None if kind in FLOATS else self._second_moments(tensor)
        if moments is None:
            return quantize(values, kind, self.importance(tensor), threads)
        return rounded(values, kind, moments, SWEEPS, threads)

    def _second_moments(self, tensor: Tensor) -> Values | None:
        """With some of the mean of the diagonal added to it: directions that the text did not show count too."""
        found = None if self._moments is None or len(tensor.shape) != 2 else self._moments.get(tensor.name)
        if found is None or not found.any():  # nothing ever went into it
            return None
        share = TIED_DAMPING if tensor.name == EMBEDDING else DAMPING
        return found + np.float32(share * np.diag(found).mean()) * np.eye(len(found), dtype=np.float32)

    def _lost_to_inputs(self, tensor: Tensor, kind: str, values: Values) -> float:
        """The squared error of the outputs of `values` where the inputs are rounded as they are for `kind`: in blocks
        as large as its own (`vec_dot_type` of ggml-cpu: Q8_0 or Q8_1, and Q8_K). Not for floats."""
        errors = self._moments.rounding(tensor.name, BLOCKS[kind]) if self._moments and kind not in FLOATS else None
        return 0.0 if errors is None else float((values**2 @ errors).sum())

    def _sample(self, info: GgufInfo, tensor: Tensor) -> NDArray[np.float32]:
        columns, rows = tensor.shape[0], prod(tensor.shape[1:])
        raw = np.memmap(info.path, np.uint8, "r", offset=tensor.offset, shape=(rows, tensor.nbytes // rows))
        chosen = np.linspace(0, rows - 1, max(1, min(rows, SAMPLE_WEIGHTS // columns))).astype(int)
        return finite(to_float32(raw[chosen].reshape(-1), tensor.type, columns), tensor)

    def _shared_importance(self, tensor: Tensor) -> NDArray[np.float32] | None:
        """(columns,): of experts, the mean."""
        importance = self.importance(tensor)
        return None if importance is None else np.ascontiguousarray(importance.mean(axis=0))

    def _path(self, info: GgufInfo, tensor: Tensor, kind: str) -> Path | None:
        if self.folder is None:
            return None
        if tensor.name not in self._digests:
            importance = self.importance(tensor)
            digest = hashlib.blake2b(digest_size=16)
            digest.update(f"{version('llama_cpp_python')} {tensor.type} {tensor.shape}".encode())
            digest.update(raw_bytes(info, tensor).data)
            digest.update(b"" if importance is None else importance.tobytes())
            moments = self._second_moments(tensor)
            digest.update(b"" if moments is None else moments.tobytes())
            self._digests[tensor.name] = digest.hexdigest()
        return self.folder / f"{self._digests[tensor.name]}.{kind}"


def raw_bytes(info: GgufInfo, tensor: Tensor) -> NDArray[np.uint8]:
    return np.fromfile(info.path, np.uint8, tensor.nbytes, offset=tensor.offset)


def finite(values: NDArray[np.float32], tensor: Tensor) -> NDArray[np.float32]:
    """`values`, if all are finite: the native quantizer ends its process otherwise. Raises `ModelError`."""
    if not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        raise ModelError(f"{tensor.name!r} has {count} weights that are not finite", hint="fetch the model again")
    return values


def _read(path: Path | None, nbytes: int) -> NDArray[np.uint8] | None:
    if path is None:
        return None
    try:
        found = np.fromfile(path, np.uint8)
    except OSError:
        return None
    return found if found.size == nbytes else None


def _write(path: Path | None, blocks: NDArray[np.uint8]) -> None:
    """Whole or not at all; a disk that is full costs only the time to make them again."""
    if path is None:
        return
    draft = path.with_name(f".{uuid.uuid4().hex}")
    try:
        blocks.tofile(draft)
        os.replace(draft, path)
    except OSError:
        with suppress(OSError):
            draft.unlink()
