"""Types that llama-quantize makes too: whether ours are the same, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import models
from benchmarks.llama_quantize import llama_quantize, tool
from benchmarks.quantization_parent import Parent
from benchmarks.quantization_scale import Scale
from benchmarks.row import Row, of_pairs
from foreshore.disk import sha256
from foreshore.edge.gguf import inspect
from foreshore.quantize.native import plan, quantize, quantizer

__all__ = ["identical", "throughput"]

SPEED_TYPE = "q4_k_m"


def identical(scale: Scale, parent: Parent) -> dict[str, Row]:
    """The share of files that are equal byte by byte, header included."""
    tool()
    files = {}
    for ftype in scale.types:
        for imatrix in (None, parent.imatrix):
            theirs = parent.scratch / "theirs.gguf"
            llama_quantize(parent.info.path, theirs, ftype, imatrix)
            ours = parent.uniform(ftype, imatrix)
            files[f"{ftype}{' with imatrix' if imatrix else ''}"] = sha256(ours) == sha256(theirs)
            ours.unlink()
    differing = [name for name, same in files.items() if not same]
    value = 1 - len(differing) / len(files)
    details = {"files": list(files), "differing": differing}
    return {"uniform_identical": Row(key="uniform_identical", value=value, low=value, high=value, details=details)}


def throughput(scale: Scale, parent: Parent) -> dict[str, Row]:
    """Bytes of the F16 file a second, in turns; ours with its dry run, checks and child process."""
    tool()
    source = _half_billion(parent.folder) if scale.half_billion else parent.info.path
    target, size = parent.scratch / "speed.gguf", source.stat().st_size / 1e6
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(scale.rounds + 1):
        ours.append(size / _seconds(target, lambda: _quantize(source, target)))
        theirs.append(size / _seconds(target, lambda: llama_quantize(source, target, SPEED_TYPE)))
    del ours[0], theirs[0]  # the first round warms up
    target.unlink()
    key = "throughput_vs_llama_quantize"
    return {key: of_pairs(key, ours, theirs, unit="MB/s of the source", type=SPEED_TYPE, source_mb=round(size, 1))}


def _quantize(source: Path, target: Path) -> None:
    with quantizer() as child:  # starts while the header is read
        info = inspect(source)
        quantize(info, target, SPEED_TYPE, plan(info, SPEED_TYPE, child=child), child=child)


def _seconds(target: Path, run: Callable[[], None]) -> float:
    target.unlink(missing_ok=True)
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _half_billion(folder: Path) -> Path:
    path = folder / "0.5b-f16.gguf"
    return path if path.exists() else models.write(path, models.QWEN_05B)
