"""Weights in safetensors files, found and checked without reading them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.errors import ModelError

__all__ = ["FLOATS", "INDEX", "WHOLE", "Weight", "read_file", "read_weights", "unbounded", "weight_files"]

MAX_HEADER = 100 << 20  # bytes, safetensors' own limit
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# BF16 is read as its bit pattern: numpy has no such type.
FLOATS: Mapping[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_NOT_WEIGHTS = {"I64", "I32", "I16", "I8", "U8", "BOOL", "F64", "U16", "U32", "U64"}  # buffers such as position ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One tensor in a file; `shape` is in numpy's order, rows first."""

    name: str
    dtype: str  # F32, F16 or BF16; another name for what is no weight
    shape: tuple[int, ...]
    path: Path
    offset: int  # bytes from the start of the file

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * FLOATS[self.dtype].itemsize

    def raw(self) -> NDArray[Any]:
        """The values, mapped, not read; BF16 as uint16."""
        if not self.nbytes:
            raise ModelError(f"tensor {self.name!r} in {str(self.path)!r} is empty")
        return np.memmap(self.path, dtype=FLOATS[self.dtype], mode="r", offset=self.offset, shape=self.shape)

    def rows(self, start: int, stop: int) -> Weight:
        """Its rows from `start` to before `stop`."""
        skipped = start * prod(self.shape[1:]) * FLOATS[self.dtype].itemsize
        return replace(self, shape=(stop - start, *self.shape[1:]), offset=self.offset + skipped)

    def parts(self, count: int) -> tuple[Weight, ...]:
        """Equal parts of its rows. Raises `ModelError` if they cannot be equal."""
        if count == 1:
            return (self,)
        size, rest = divmod(self.shape[0] if self.shape else 0, count)
        if rest or not size:
            raise ModelError(f"tensor {self.name!r} of shape {self.shape} does not divide into {count} parts")
        return tuple(self.rows(i * size, (i + 1) * size) for i in range(count))

    def float32(self) -> NDArray[np.float32]:
        raw = self.raw()
        if self.dtype == "BF16":  # its 16 bits are the upper half of a float32's
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return raw.astype(np.float32)


def unbounded(values: NDArray[Any]) -> bool:
    """Whether a NaN or an infinity is among `values`; float32, float16, or BF16 as its bit pattern."""
    if values.dtype == np.float32:
        return not bool(np.isfinite(values).all())
    exponent = np.uint16(0x7C00 if values.dtype == np.float16 else 0x7F80)
    return bool(((values.view(np.uint16) & exponent) == exponent).any())


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The folder's safetensors files: those that the index lists, or model.safetensors, or all there are.

    Raises `ModelError` if there are none, naming pickles that are there instead.
    """
    index, whole = folder / INDEX, folder / WHOLE
    if index.is_file():
        return _from_index(index)
    if whole.is_file():
        return (whole,)  # beside it some keep the same weights in another layout
    if files := sorted(folder.glob("*.safetensors")):
        return tuple(files)
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{str(folder)!r} has its weights only as pickles ({', '.join(pickles[:3])}), and loading those runs code",
            hint="fetch the model's safetensors, or save it again with `save_pretrained(safe_serialization=True)`",
        )
    raise ModelError(f"{str(folder)!r} has no weights", hint="a model folder has *.safetensors files")


def read_weights(folder: Path) -> dict[str, Weight]:
    """Every tensor of the folder by name. Raises `ModelError` for a damaged file."""
    weights: dict[str, Weight] = {}
    for path in weight_files(folder):
        for weight in read_file(path):
            if weight.name in weights:
                raise ModelError(f"tensor {weight.name!r} is in {weights[weight.name].path.name!r} and {path.name!r}")
            weights[weight.name] = weight
    return weights


def _from_index(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = tuple(index.parent / Path(name).name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{str(index)!r} is damaged: {error}") from error
    if not files:
        raise ModelError(f"{str(index)!r} lists no files", hint="fetch the model again")
    missing = [f.name for f in files if not f.is_file()]
    if missing:
        raise ModelError(f"{str(index.parent)!r} lacks {', '.join(map(repr, missing))}", hint="fetch the model again")
    return files


def read_file(path: Path) -> list[Weight]:
    """The tensors of one safetensors file. Raises `ModelError` for a damaged one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            raise _damaged(path, f"its header claims {length} bytes in a file of {size}")
        text = file.read(length)
    try:
        header = json.loads(text)
        items = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        return [_weight(path, name, entry, 8 + length, size) for name, entry in items]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"its header is not what safetensors writes ({error})") from error


def _weight(path: Path, name: str, entry: dict[str, Any], start: int, size: int) -> Weight:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError(f"tensor {name!r} has the shape {shape} at {begin}..{end}")
    if not begin <= end <= size - start:
        raise _damaged(path, f"tensor {name!r} ends at byte {start + end}, the file at {size} (truncated?)")
    if dtype not in FLOATS and dtype not in _NOT_WEIGHTS:
        hint = "fetch the model in bf16, f16 or f32"
        raise ModelError(f"tensor {name!r} in {path.name!r} has the unsupported type {dtype!r}", hint=hint)
    weight = Weight(name=name, dtype=dtype, shape=shape, path=path, offset=start + begin)
    if dtype in FLOATS and weight.nbytes != end - begin:
        raise ValueError(f"tensor {name!r} of shape {shape} has {end - begin} bytes")
    return weight


def _damaged(path: Path, reason: str) -> ModelError:
    return ModelError(f"{str(path)!r} is not a usable safetensors file: {reason}", hint="fetch the model again")
