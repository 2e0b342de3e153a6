"""The process that writes a file of mixed types: `python -P -m foreshore.quantize.assembler`, driven by `assemble`.

It tells the bytes of the source that are done after each tensor.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from foreshore.edge.gguf import inspect
from foreshore.errors import ModelError
from foreshore.quantize.blocks import TYPE_NUMBERS, library
from foreshore.quantize.channel import Json, Tell, serve
from foreshore.quantize.imatrix import read_imatrix
from foreshore.quantize.search.moments import Moments
from foreshore.quantize.tensor_cache import TensorCache

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION


class _Parameters(ctypes.Structure):
    """`struct gguf_init_params` of gguf.h."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p)]


def write(job: Json, tell: Tell) -> Json:
    info, types = inspect(job["base"]), job["types"]
    importance = read_imatrix(job["imatrix"]) if job["imatrix"] else None
    moments = Moments(Path(job["moments"])) if job["moments"] else None
    cache = TensorCache(Path(job["cache"]) if job["cache"] else None, importance, moments)
    done = 0
    with Path(job["target"]).open("wb") as file:
        file.write(_header(job))
        for tensor in info.tensors:  # in the order of the header, which is the source's
            kind = types.get(tensor.name, tensor.type)
            if job["stand_in"]:
                blocks = cache.stand_in(info, tensor, kind)
            else:
                blocks = cache.blocks(info, tensor, kind, threads=job["threads"])
            file.write(blocks.data)
            file.write(bytes(-file.tell() % info.alignment))
            done += tensor.nbytes
            tell(done, info.size)
        file.flush()
        os.fsync(file.fileno())
    return {}


def _header(job: Json) -> bytes:
    """The source's header with the new types, written by ggml, which also places the tensors anew."""
    gguf = _gguf()
    context = gguf.gguf_init_from_file(os.fsencode(job["base"]), _Parameters(no_alloc=True, context=None))
    if not context:
        raise ModelError(f"the engine cannot read {job['base']!r}", hint="its log says why: `foreshore doctor`")
    gguf.gguf_set_val_u32(context, b"general.quantization_version", QUANTIZATION_VERSION)
    gguf.gguf_set_val_u32(context, b"general.file_type", job["file_type"])
    for name, kind in job["types"].items():
        gguf.gguf_set_tensor_type(context, name.encode(), TYPE_NUMBERS[kind])
    header = ctypes.create_string_buffer(gguf.gguf_get_meta_size(context))
    gguf.gguf_get_meta_data(context, header)
    gguf.gguf_free(context)
    return header.raw


def _gguf() -> Any:
    found = library()
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32
    found.gguf_init_from_file.argtypes, found.gguf_init_from_file.restype = [text, _Parameters], pointer
    found.gguf_set_val_u32.argtypes, found.gguf_set_val_u32.restype = [pointer, text, number], None
    found.gguf_set_tensor_type.argtypes = [pointer, text, ctypes.c_int]
    found.gguf_set_tensor_type.restype = None
    found.gguf_get_meta_size.argtypes, found.gguf_get_meta_size.restype = [pointer], ctypes.c_size_t
    found.gguf_get_meta_data.argtypes, found.gguf_get_meta_data.restype = [pointer, pointer], None
    found.gguf_free.argtypes, found.gguf_free.restype = [pointer], None
    return found


if __name__ == "__main__":
    serve(write)
