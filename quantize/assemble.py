"""One GGUF file in which each tensor has the type that it was given."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType

from foreshore.disk import disk_errors, require_space
from foreshore.edge.gguf import FILE_TYPES, TENSOR_TYPES, GgufInfo, Tensor, inspect
from foreshore.errors import ModelError, SetupError, UsageError
from foreshore.quantize import child

__all__ = ["assemble", "file_bytes", "file_type", "tensor_bytes"]

_BLOCKS = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}
_NUMBERS = {name: number for number, name in FILE_TYPES.items()}
# The keys that a quantized file has beside its source's: general.quantization_version and general.file_type, uint32.
_KEY_BYTES = {key: 8 + len(key) + 4 + 4 for key in ("general.quantization_version", "general.file_type")}


def assemble(
    base: GgufInfo,
    types: Mapping[str, str],
    target: Path,
    *,
    imatrix: Path | None = None,
    moments: Path | None = None,
    cache: Path | None = None,
    stand_in: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> GgufInfo:
    """Write `target`, whole or not at all, and check it. A tensor that is not in `types` is copied as it is.

    Each tensor's bytes are those that llama.cpp's quantizer makes of it with the same importance matrix; with `moments`
    (`Found.moments`) they are rounded again for less error in the outputs. `cache` is a folder of tensors that were
    quantized before; `progress` is told the bytes of `base` worked on so far. `stand_in` quantizes only some rows of
    each tensor and repeats them: a file to measure speed with, quickly made.
    Raises `UsageError` for a type that a tensor's rows do not divide into, `ModelError` for weights or a matrix that
    do not do, `SetupError` where the disk is full or the process dies.
    """
    _check(base, types)
    needed = file_bytes(base, types)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    job = {
        "base": str(base.path),
        "types": dict(types),
        "file_type": _NUMBERS[file_type(base, types)],
        "target": str(draft),
        "imatrix": str(imatrix) if imatrix else None,
        "moments": str(moments) if moments else None,
        "cache": str(cache) if cache else None,
        "stand_in": stand_in,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    }
    with disk_errors(target.parent, needed):
        require_space(target.parent, needed)
        try:
            doing = f"wrote {target.name!r}"
            child.run("foreshore.quantize.assembler", job, doing=doing, progress=lambda done, total: progress(done))
            made = inspect(draft)
            wrong = [t.name for t in made.tensors if types.get(t.name, _types(base)[t.name]) != t.type]
            if wrong or made.size > needed:
                raise SetupError(f"the file was written with {made.size} bytes, not {needed}, differing in {wrong[:3]}")
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)
    return inspect(target)


def file_bytes(base: GgufInfo, types: Mapping[str, str]) -> int:
    """The size of the file that `assemble` makes: exact, or up to one alignment too large where `base` says neither
    its file type nor its quantization version."""
    start = min((t.offset for t in base.tensors), default=base.size)
    start = _pad(start + sum(n for key, n in _KEY_BYTES.items() if key not in base.metadata), base.alignment)
    return start + sum(_pad(tensor_bytes(t, types.get(t.name, t.type)), base.alignment) for t in base.tensors)


def file_type(base: GgufInfo, types: Mapping[str, str]) -> str:
    """The name that llama.cpp has for a file like this: that of the type which most weights have."""
    weights: dict[str, int] = {}
    for t in base.tensors:
        kind = types.get(t.name, t.type)
        weights[kind] = weights.get(kind, 0) + prod(t.shape)
    most = max(weights, key=lambda kind: weights[kind])
    return most if most in _NUMBERS else next((n for n in _NUMBERS if n == f"{most}_m"), base.file_type)


def tensor_bytes(tensor: Tensor, kind: str) -> int:
    block, size = _BLOCKS[kind]
    return prod(tensor.shape) // block * size


def _check(base: GgufInfo, types: Mapping[str, str]) -> None:
    known = {t.name: t for t in base.tensors}
    for name, kind in types.items():
        if name not in known:
            raise UsageError(f"{str(base.path)!r} has no tensor {name!r}")
        if kind not in _BLOCKS:
            raise UsageError(
                f"{kind!r}, asked for {name!r}, is not a tensor type", hint=f"there are {', '.join(_BLOCKS)}"
            )
        columns, block = known[name].shape[0], _BLOCKS[kind][0]
        if columns % block:
            hint = "take one of the types with blocks of 32, such as q4_0, q5_1, q8_0 or iq4_nl"
            raise UsageError(f"{name!r} cannot be {kind}: its rows of {columns} do not divide by {block}", hint=hint)
        if kind != known[name].type and known[name].type not in ("f32", "f16", "bf16"):
            raise ModelError(f"{name!r} is {known[name].type} already", hint="start from the model in f16, bf16 or f32")


def _types(base: GgufInfo) -> Mapping[str, str]:
    return MappingProxyType({t.name: t.type for t in base.tensors})


def _pad(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
