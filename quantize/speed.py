"""How fast a variant is on this device, through the runtime as its users meet it, and what memory it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from foreshore.card import Speed, Spread
from foreshore.edge import machine
from foreshore.edge.onnx.folder import is_onnx
from foreshore.edge.options import EngineOptions
from foreshore.edge.speed import SpeedTest
from foreshore.quantize.device import this_device

__all__ = ["bandwidth", "measure_speed"]

PREFILL_TOKENS, DECODE_TOKENS = 256, 64
BUFFER = 512 << 20  # bytes read to measure bandwidth: far more than any cache holds
PIECE = 1 << 20  # of it at a time
PASSES = 3
WORD_TOKENS = 8  # at most, of a word that an encoder is given


def measure_speed(
    model: Path,
    *,
    threads: int | None = None,
    repeats: int = 5,
    loads: int = 3,
    prefill_tokens: int = PREFILL_TOKENS,
    decode_tokens: int = DECODE_TOKENS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Speed:
    """Of one stream of a .gguf or .onnx file: `loads` starts of a worker, then in the last of them `repeats` runs of
    each kind, after one that warms up. Loads find the file in the page cache. An encoder reads texts; it has no decode.

    Raises `UsageError` where the context cannot hold the runs.
    """
    options = EngineOptions(slots=1, threads=threads, prefix_cache=False)
    total, done = loads + 2 * (repeats + 1), 0

    def step() -> None:
        nonlocal done
        progress(done := done + 1, total)

    load_s: list[float] = []
    for _ in range(loads - 1):
        _load(model, options, load_s).close()
        step()
    with closing(_load(model, options, load_s)) as test:
        info, decode = test.info, None
        if not info.generates:
            total -= repeats + 1
        step()
        if info.generates:
            most = min(prefill_tokens, info.context_tokens - 1)
            prefill = _spread(lambda: test.prefill(most), repeats, step)
            decode = _spread(lambda: test.decode(min(decode_tokens, info.context_tokens // 2)), repeats, step)
        else:
            prefill = _spread(lambda: test.embed(max(1, info.embedding_tokens // WORD_TOKENS)), repeats, step)
        peak = _peak(test.pid)
    return Speed(
        device=this_device("onnxruntime" if is_onnx(model) else "llama.cpp"),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        threads=options.thread_count,
        load_s=_of(load_s),
        peak_bytes=peak,
        prefill=prefill,
        decode=decode,
        bandwidth_bytes_per_s=bandwidth(options.thread_count),
    )


def bandwidth(threads: int | None = None) -> float:
    """Bytes per second that `threads` read from memory together: the best of a few passes over a large buffer.

    This bounds decoding one stream: each token reads all weights once.
    """
    count = EngineOptions(threads=threads).thread_count
    size = min(BUFFER, machine.available() // 4) // PIECE * PIECE
    pieces = np.ones(size // 4, np.float32).reshape(-1, PIECE // 4)  # ones: zeros would be one shared page
    with ThreadPoolExecutor(count) as pool:

        def once() -> float:
            began = time.perf_counter()
            list(pool.map(_read, np.array_split(pieces, count)))
            return size / (time.perf_counter() - began)

        return max(once() for _ in range(PASSES))


def _read(pieces: NDArray[np.float32]) -> None:
    for piece in pieces:
        piece.max()  # lets go of Python's lock, and is faster than memory


def _load(model: Path, options: EngineOptions, seconds: list[float]) -> SpeedTest:
    """A started test; the time that its worker took to be ready goes into `seconds`."""
    test = SpeedTest(str(model), options)
    began = time.perf_counter()
    try:
        test.start()
    except BaseException:
        test.close()
        raise
    seconds.append(time.perf_counter() - began)
    return test


def _spread(once: Callable[[], float], repeats: int, step: Callable[[], None]) -> Spread:
    """Over `repeats` runs, after one to warm up."""
    runs = []
    for _ in range(repeats + 1):
        runs.append(once())
        step()
    return _of(runs[1:])


def _of(runs: Sequence[float]) -> Spread:
    return Spread(median=statistics.median(runs), low=min(runs), high=max(runs), runs=len(runs))


def _peak(pid: int | None) -> int:
    """The most bytes that the process held in memory; where the system does not keep that, what it holds now."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    held = psutil.Process(pid).memory_info()
    return int(getattr(held, "peak_wset", held.rss))
