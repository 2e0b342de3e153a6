"""llama.cpp's quantizer, driven in a child process: an assertion in native code costs the child, not the caller."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path

from foreshore.disk import require_space
from foreshore.edge.gguf import TENSOR_TYPES, GgufInfo, inspect
from foreshore.errors import ModelError, SetupError
from foreshore.quantize.child import Child
from foreshore.quantize.ftypes import ftypes

__all__ = ["Plan", "plan", "quantize", "quantizer"]

# The buffers of each tensor come and go: clearing huge pages for them takes a second or two of a gigabyte's nine.
SMALL_PAGES = "glibc.malloc.hugetlb=0"
_TENSOR = re.compile(r"\[\s*\d+/\s*\d+\]\s+(\S+)\s+- \[.*size = .*?(?:\((\w+)\))?\s*$")
_FALLBACK = re.compile(r"warning: (\S+)\s+- ncols\s+(\d+) not divisible by\s+(\d+) .*falling back to\s+(\w+)")
_SIZES = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What quantizing will yield, worked out by llama.cpp without doing it."""

    types: dict[str, str]  # tensor -> type
    nbytes: int  # of all tensors
    fallbacks: tuple[str, ...]  # tensors whose rows do not fit the type asked for
    needs_imatrix: bool
    imatrix: Path | None = None  # that it was worked out with: some types depend on whether there is one


def quantizer() -> Child:
    """The process that works: of use to whoever plans and quantizes, for starting one takes half a second."""
    own = {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", SMALL_PAGES)}
    return Child("foreshore.quantize.native_child", doing="quantized with llama.cpp", environment=own)


def plan(
    source: GgufInfo,
    ftype: str,
    *,
    requantize: bool = False,
    imatrix: Path | None = None,
    child: Child | None = None,
) -> Plan:
    """In `child`, or in a process of its own. Raises `ModelError` if llama.cpp cannot work with `source`."""
    lines = _run(source, None, ftype, imatrix, requantize, child=child)
    matches = [m for line in lines if (m := _TENSOR.search(line))]
    types = {t.name: t.type for t in source.tensors} | {m[1]: m[2].lower() for m in matches if m[2]}
    fallbacks = [m for line in lines if (m := _FALLBACK.search(line))]
    return Plan(
        types=types,
        nbytes=sum(_bytes(types[t.name], t.shape) for t in source.tensors),
        fallbacks=tuple(f"{m[1]} became {m[4].lower()}: its rows of {m[2]} do not divide by {m[3]}" for m in fallbacks),
        needs_imatrix=any("will require an imatrix" in line for line in lines),
        imatrix=imatrix,
    )


def quantize(
    source: GgufInfo,
    target: Path,
    ftype: str,
    planned: Plan,
    *,
    imatrix: Path | None = None,
    requantize: bool = False,
    progress: Callable[[int], None] = lambda done: None,
    child: Child | None = None,
) -> GgufInfo:
    """Write `target` and check it. `progress` is told the bytes of `source` worked on so far. What was `planned` with
    another matrix, or without one, is planned anew.

    Raises `SetupError` if the disk is full or the native code crashed, `ModelError` if it refused the model.
    """
    if planned.imatrix != imatrix:
        planned = plan(source, ftype, requantize=requantize, imatrix=imatrix, child=child)
    require_space(target.parent, planned.nbytes)
    try:
        _run(source, target, ftype, imatrix, requantize, progress, child)
    except ModelError as error:
        if "iostream error" not in error.message:
            raise
        raise _incomplete(target, ftype, planned, error) from error
    try:
        made = inspect(target)
    except ModelError as error:  # llama.cpp does not always notice a disk that fills up
        raise _incomplete(target, ftype, planned, error) from error
    wrong = [t.name for t in made.tensors if planned.types.get(t.name) != t.type]
    if wrong or made.file_type != ftype:
        raise SetupError(f"llama.cpp made {made.file_type!r} of {ftype!r}, differing in {wrong[:3]}")
    return made


def _run(
    source: GgufInfo,
    target: Path | None,
    ftype: str,
    imatrix: Path | None,
    requantize: bool,
    progress: Callable[[int], None] = lambda done: None,
    child: Child | None = None,
) -> list[str]:
    """Do one job and return what llama.cpp logged; a dry run if there is no `target`."""
    job = {
        "source": str(source.path),
        "target": str(target or os.devnull),
        "ftype": ftypes()[ftype],
        "imatrix": str(imatrix) if imatrix else None,
        "requantize": requantize,
        "dry_run": target is None,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
    }
    with quantizer() if child is None else nullcontext(child) as process:
        done = process.ask(job, lambda done, total: progress(source.size * done // total))
    lines: list[str] = done["lines"]
    if done["status"] != 0:
        raise _refused(ftype, lines)
    return lines


def _refused(ftype: str, lines: list[str]) -> ModelError:
    said = [line for line in lines if "failed to quantize" in line] or lines[-1:]
    reason = said[-1].split("failed to quantize: ")[-1] if said else "it did not say why"
    again = "add --requantize to allow it; quality suffers twice" if "requantizing" in reason else None
    return ModelError(f"llama.cpp cannot quantize this model to {ftype!r}: {reason}", hint=again)


def _incomplete(target: Path, ftype: str, planned: Plan, error: ModelError) -> SetupError:
    require_space(target.parent, planned.nbytes - (target.stat().st_size if target.exists() else 0))
    hint = "look for limits on file sizes (ulimit -f) and quotas"
    return SetupError(f"{ftype!r} was not written completely: {error.message}", hint=hint)


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    block, size = _SIZES[kind]
    return prod(shape) // block * size
