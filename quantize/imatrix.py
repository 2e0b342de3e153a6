"""Importance matrices, in the GGUF format that llama.cpp's llama-imatrix writes and llama-quantize reads."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreshore.disk import disk_errors, require_space
from foreshore.edge.gguf import GgufInfo, Tensor, scan
from foreshore.errors import ModelError, UsageError

__all__ = ["Imatrix", "check_fits", "read_imatrix"]

SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, CHUNKS, CONTEXT = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_LAYER = re.compile(r"blk\.(\d+)\.")
Sums = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Imatrix:
    """For each weight the sum of its inputs' squares by column, `sums` (matrices, columns), over `counts` (matrices,)
    tokens. A matrix of its own is each expert; other stacked matrices lie one behind the other in a single row."""

    sums: Sums
    counts: Mapping[str, NDArray[np.int64]]
    chunks: int  # of `context` tokens each, where the file says so
    context: int
    datasets: tuple[str, ...] = ()  # what was read: files, or hashes of texts

    @classmethod
    def load(cls, path: str | Path) -> Imatrix:
        """Raises `ModelError` if the file is no importance matrix, or holds what no sum of squares can be."""
        info = scan(path)
        tensors = {t.name: t for t in info.tensors}
        names = [n.removesuffix(SUMS) for n in tensors if n.endswith(SUMS)]
        if info.metadata.get("general.type") != "imatrix" or not names:
            hint = "make one with `foreshore quantize` or llama-imatrix, in GGUF format"
            raise ModelError(f"{str(path)!r} is not an importance matrix", hint=hint)
        entries = {name: _entry(info, name, tensors) for name in names}
        return cls(
            sums={name: sums for name, (sums, _) in entries.items()},
            counts={name: counts for name, (_, counts) in entries.items()},
            chunks=_number(info, CHUNKS),
            context=_number(info, CONTEXT),
            datasets=tuple(map(str, info.metadata.get(DATASETS) or ())),
        )

    def means(self) -> dict[str, NDArray[np.float32]]:
        """Mean squared input of each column, by weight; experts lie one behind the other."""
        return {name: _means(sums, self.counts[name]) for name, sums in self.sums.items()}

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all. Raises `SetupError` if the disk is full or forbids it."""
        path = Path(path)
        if path.is_dir():
            raise UsageError(f"{str(path)!r} is a folder, not a place for an importance matrix")
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        needed = sum(sums.nbytes + 4 * sums.shape[0] + 256 for sums in self.sums.values())
        with disk_errors(path.parent, needed):
            path.parent.mkdir(parents=True, exist_ok=True)
            require_space(path.parent, needed)
            try:
                self._write(part)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def _write(self, path: Path) -> None:
        import gguf

        writer = gguf.GGUFWriter(path, "")
        writer.kv_data[0].clear()  # an importance matrix names no architecture
        writer.add_type("imatrix")
        if self.datasets:  # GGUF's writer takes no empty list
            writer.add_array(DATASETS, list(self.datasets))
        writer.add_uint32(CHUNKS, self.chunks)
        writer.add_uint32(CONTEXT, self.context)
        for name in sorted(self.sums):
            for part, rows in ((SUMS, self.sums[name]), (COUNTS, self.counts[name][:, None])):
                kept = rows if len(rows) > 1 else rows[0]  # llama.cpp drops dimensions of one
                writer.add_tensor(name + part, np.ascontiguousarray(kept, np.float32))
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            os.fsync(writer.fout[0].fileno())
        finally:
            writer.close()


def read_imatrix(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """`Imatrix.load(path).means()`: what llama.cpp's quantizer takes."""
    return Imatrix.load(path).means()


def check_fits(means: Sums, info: GgufInfo) -> None:
    """Raise `ModelError` unless `means` (see `Imatrix.means`) can be of the model `info`, quantized or not.

    Each weight of a layer must be in the model, with as many columns, and each layer that the model computes in every
    pass must have some weight in it. Weights outside the layers may be missing on either side.
    """
    weights = {t.name: t for t in info.tensors}
    unknown = [name for name in means if _LAYER.match(name) and name not in weights]
    odd = [(n, row.size, _columns(weights[n])) for n, row in means.items() if n in weights]
    odd = [entry for entry in odd if entry[1] != entry[2]]
    layers = info.block_count - int(info.get(".nextn_predict_layers", 0))
    missing = sorted(set(range(layers)) - {int(m[1]) for name in means if (m := _LAYER.match(name))})
    if unknown:
        why = f"{len(unknown)} of its weights are not in the model, such as {unknown[0]!r}"
    elif odd:
        name, found, wanted = odd[0]
        why = f"it has {found} values for {name!r}, which takes {wanted}"
    elif missing:
        why = f"it has nothing for {len(missing)} of the model's {layers} layers, such as layer {missing[0]}"
    else:
        return
    raise ModelError(
        f"the importance matrix is of another model than {info.path.name!r}: {why}",
        hint="collect one from this model, or from the file that it was quantized from",
    )


def _columns(weight: Tensor) -> int:
    """Values an importance matrix has for a weight: a row's length for each of its stacked matrices."""
    row, _, *stacked = (*weight.shape, 1)
    return int(np.prod([row, *stacked]))


def _entry(info: GgufInfo, name: str, tensors: dict[str, Tensor]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    where = str(info.path)
    if name + COUNTS not in tensors:
        raise ModelError(f"{where!r} has sums for {name!r}, but no counts")
    sums, counts = (_read(info, tensors[name + part]) for part in (SUMS, COUNTS))
    if not counts.size or sums.size % counts.size:
        raise ModelError(f"{where!r} has {sums.size} sums for {name!r} and {counts.size} counts")
    if not np.isfinite(sums).all() or not np.isfinite(counts).all():
        raise ModelError(f"{where!r} has values that are not finite for {name!r}")
    if (sums < 0).any() or (counts < 0).any():
        raise ModelError(f"{where!r} has negative values for {name!r}, where sums of squares belong")
    return sums.reshape(counts.size, -1), np.rint(counts).astype(np.int64)


def _means(sums: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    # An expert that was never asked says nothing: all its columns matter alike.
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts[:, None], 1), 1.0)
    return means.astype(np.float32).reshape(-1)


def _read(info: GgufInfo, tensor: Tensor) -> NDArray[np.float32]:
    if tensor.type != "f32":
        raise ModelError(f"{str(info.path)!r} has {tensor.name!r} in {tensor.type}, not f32")
    return np.fromfile(info.path, dtype="<f4", count=tensor.nbytes // 4, offset=tensor.offset)


def _number(info: GgufInfo, key: str) -> int:
    value = info.metadata.get(key, 0)
    return value if type(value) is int else 0
