"""ggml's blocks: one tensor's values to a quantized type and back, and a loaded model's tensors as they lie in memory.

Native code that may assert: only processes that may die import this (`foreshore.quantize.search.sensitivity`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from foreshore.edge.gguf import TENSOR_TYPES
from foreshore.errors import SetupError

__all__ = [
    "TYPE_NUMBERS",
    "TensorStruct",
    "check_layout",
    "dequantize",
    "library",
    "overwrite",
    "quantize",
    "row_bytes",
    "sources",
    "to_float32",
]

TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_BLOCKS = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}
_FLOATS: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype("<u2")}
CHUNK_WEIGHTS = 1 << 18  # that a thread quantizes at once
MAX_SOURCES = 10  # GGML_MAX_SRC
OBJECT_BYTES = 32  # struct ggml_object, which the overhead of a tensor counts in

Values = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class TensorStruct(ctypes.Structure):
    """`struct ggml_tensor` of ggml.h, as the pinned engine has it."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * MAX_SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


def check_layout() -> None:
    """Raise `SetupError` where the engine's tensors are not laid out as `TensorStruct`."""
    library().ggml_tensor_overhead.restype = ctypes.c_size_t
    if library().ggml_tensor_overhead() - OBJECT_BYTES != ctypes.sizeof(TensorStruct):
        raise SetupError("this engine's tensors are not laid out as known", hint="install the pinned llama-cpp-python")


class _Traits(ctypes.Structure):
    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float", ctypes.c_void_p),
    ]


def row_bytes(kind: str, columns: int) -> int:
    """Of one row of `columns` weights; 0 if such a row does not divide into the type's blocks."""
    block, size = _BLOCKS[kind]
    return 0 if columns % block else columns // block * size


def to_float32(raw: Bytes, kind: str, columns: int) -> Values:
    """The values of f32, f16 or bf16 `raw` bytes, (rows, columns)."""
    values = raw.view(_FLOATS[kind])
    if kind == "bf16":  # its 16 bits are the upper half of a float32's
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(values.reshape(-1, columns), dtype=np.float32)


def quantize(values: Values, kind: str, importance: Values | None = None, threads: int = 1) -> Bytes:
    """`values` (rows, columns) in the blocks of `kind`, byte for byte as llama.cpp's quantizer makes them.

    `importance` is (columns,), or (experts, columns) where `values` holds so many experts one behind the other.
    """
    rows, columns = values.shape
    out = np.empty((rows, row_bytes(kind, columns)), np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32).reshape(-1, columns)
    per_expert = rows // (len(weights) if weights is not None else 1)
    library().ggml_quantize_init(TYPE_NUMBERS[kind])  # before the threads, which would wait for one another

    def fill(part: tuple[int, int]) -> None:
        start, stop = part
        slice_ = None if weights is None else weights[start // per_expert].ctypes.data
        number, source = TYPE_NUMBERS[kind], values[start:stop].ctypes.data
        library().ggml_quantize_chunk(number, source, out[start:].ctypes.data, 0, stop - start, columns, slice_)

    step = max(1, CHUNK_WEIGHTS // columns)
    starts = [
        (s, min(s + step, e + per_expert)) for e in range(0, rows, per_expert) for s in _steps(e, per_expert, step)
    ]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, starts))
    return out


def _steps(start: int, length: int, step: int) -> range:
    return range(start, start + length, step)


def dequantize(blocks: Bytes, kind: str, columns: int) -> Values:
    """The inverse of `quantize`, as far as it can be: (rows, columns)."""
    if kind in _FLOATS:
        return to_float32(blocks.reshape(-1), kind, columns)
    values = np.empty((len(blocks), columns), np.float32)
    traits = _Traits.from_address(library().ggml_get_type_traits(TYPE_NUMBERS[kind]))
    traits.to_float(blocks.ctypes.data, values.ctypes.data, values.size)
    return values


def sources(address: int) -> Iterator[TensorStruct]:
    """The tensors that the tensor at `address` is computed from."""
    for source in TensorStruct.from_address(address).src:
        if source:
            yield TensorStruct.from_address(source)


def overwrite(tensor: TensorStruct, blocks: Bytes, kind: str) -> None:
    """Make a loaded model's `tensor` one of `kind` with these `blocks`: what is computed next is computed with it.

    It lies where the old one lay, so it must not be larger than the tensor was when it was loaded, and the memory must
    be the process's own and in no layout but ggml's own (no map, no repacking).
    """
    block, size = _BLOCKS[kind]
    columns, rows, experts, _ = tensor.ne
    tensor.type = TYPE_NUMBERS[kind]
    strides = [size, columns // block * size]
    strides += [strides[1] * rows, strides[1] * rows * experts]
    tensor.nb = (ctypes.c_size_t * 4)(*strides)
    flat = np.ascontiguousarray(blocks).reshape(-1)
    library().ggml_backend_tensor_set(ctypes.addressof(tensor), flat.ctypes.data, 0, flat.nbytes)


@cache
def library() -> Any:
    folder = Path(llama_cpp.__file__).parent / "lib"
    found = next(p for p in sorted(folder.iterdir()) if p.name.startswith(("libggml-base.", "ggml-base.")))
    library = ctypes.CDLL(str(found))
    pointer, integer, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    library.ggml_quantize_init.argtypes, library.ggml_quantize_init.restype = [integer], None
    library.ggml_quantize_chunk.argtypes = [integer, pointer, pointer, long, long, long, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_get_type_traits.argtypes, library.ggml_get_type_traits.restype = [integer], pointer
    library.ggml_backend_tensor_set.argtypes = [pointer, pointer, ctypes.c_size_t, ctypes.c_size_t]
    library.ggml_backend_tensor_set.restype = None
    return library
