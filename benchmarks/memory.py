"""Memory of a worker beyond its model and cache, and what requests leave behind in it and in the gateway.

    python -m benchmarks.memory MODEL.gguf

prints the buffers that llama.cpp makes for a model's weights, as one JSON object of names and bytes; the benchmark
runs it in a process of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks import peers
from benchmarks.load import Stream, completion, open_stream
from benchmarks.models import digits
from benchmarks.peers import THREADS, Server
from benchmarks.row import Row, of_values
from benchmarks.scale import Scale
from foreshore.backend import collect
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.edge.gguf import inspect
from foreshore.errors import SetupError
from foreshore.types import Request, Sampling

__all__ = ["leak", "main", "overhead"]

MB = 1e6
SLOTS, CONTEXT = 8, 1024
CONCURRENT = 8  # requests at a time, of those that are looked at for leaks
SHORT_PROMPT, SHORT_TOKENS, LONG_TOKENS = 16, 8, 256
CANCEL_OF_TEN = 3
CHECKPOINTS = 5
KEPT = 4 << 20  # bytes of ended beginnings: full after some hundred requests
_BUFFER = re.compile(r"(\S+) model buffer size = +([\d.]+) MiB")
_seeds = count(800_001)


def overhead(scale: Scale, model: Path) -> dict[str, Row]:
    """After a burst that fills every slot, so that all buffers have been touched."""
    pss, mapped, kv = asyncio.run(_worker(model))
    copied = sum(size for name, size in _buffers(model).items() if "Mapped" not in name)
    parts = {"pss": pss, "mapped_weights": mapped, "copied_weights": copied, "kv": kv}
    details = {name: round(size / MB, 1) for name, size in parts.items()}
    return {"rss_overhead_mb": of_values("rss_overhead_mb", [(pss - mapped - copied - kv) / MB], **details)}


async def _worker(model: Path) -> tuple[int, int, int]:
    """Bytes: the worker's proportional set, the model file's pages in it, and its KV cache."""
    options = EngineOptions(slots=SLOTS, threads=THREADS, context_tokens=CONTEXT)
    backend = LocalBackend(model, options=options)
    try:
        info = await backend.start()
        prompt = CONTEXT // 2
        await asyncio.gather(*(collect(backend, _burst(prompt)) for _ in range(SLOTS)))
        assert backend.pid is not None
        maps = psutil.Process(backend.pid).memory_maps(grouped=True)
        total = sum(m.pss for m in maps)
        mapped = sum(m.pss for m in maps if m.path == str(model))
        return total, mapped, info.kv_tokens * _kv_bytes(model)
    finally:
        await backend.close()


def _burst(prompt: int) -> Request:
    sampling = Sampling(max_tokens=16, temperature=0.8, top_k=40)
    return Request(task="completion", prompt=digits(prompt, next(_seeds)), sampling=sampling)


def _kv_bytes(model: Path) -> int:
    """Of one token: keys and values of every layer, two bytes a number."""
    info = inspect(model)
    heads, kv_heads = int(info.get(".attention.head_count")), int(info.get(".attention.head_count_kv"))
    return 2 * 2 * info.block_count * kv_heads * info.embedding_length // heads


def _buffers(model: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.memory", str(model)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupError(f"benchmarks.memory ended with {done.returncode}: {done.stderr[-400:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    import llama_cpp.llama_cpp as native

    lines: list[str] = []

    @native.llama_log_callback  # type: ignore[untyped-decorator]
    def log(level: int, text: bytes, data: Any) -> None:
        lines.append(text.decode("utf-8", "replace"))

    native.llama_log_set(log, ctypes.c_void_p(0))
    native.llama_backend_init()
    params = native.llama_model_default_params()
    native.llama_model_free(native.llama_model_load_from_file(sys.argv[1].encode(), params))
    print(json.dumps({name: float(mib) * 2**20 for name, mib in _BUFFER.findall("".join(lines))}))


def leak(scale: Scale, model: Path) -> dict[str, Row]:
    """Short requests, 3 of 10 dropped after their first token; RSS of gateway and worker between checkpoints.

    Ended beginnings may keep `KEPT` only: the memory for them is a bound, and its filling would hide a leak.
    """
    each = scale.leak_requests // CHECKPOINTS
    with peers.foreshore(model, slots=CONCURRENT, context=CONTEXT // 2, prefix_cache_bytes=KEPT) as server:
        asyncio.run(_short_requests(server, scale.leak_warm_up))
        sizes = [_rss(server)]
        for _ in range(CHECKPOINTS):
            asyncio.run(_short_requests(server, each))
            sizes.append(_rss(server))
    steps = [(b - a) / each / 1024 for a, b in pairwise(sizes)]
    value = (sizes[-1] - sizes[0]) / (each * CHECKPOINTS) / 1024
    key = "leak_kib_per_request"
    details = {
        "requests": each * CHECKPOINTS,
        "warm_up": scale.leak_warm_up,
        "rss_mb": [round(s / MB, 1) for s in sizes],
    }
    return {key: Row(key=key, value=value, low=min(steps), high=max(steps), details=details)}


def _rss(server: Server) -> int:
    return sum(int(psutil.Process(pid).memory_info().rss) for pid in server.pids)


async def _short_requests(server: Server, number: int) -> None:
    numbers = iter(range(number))
    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENT):
            group.create_task(_one_after_the_other(server, numbers))


async def _one_after_the_other(server: Server, numbers: Iterator[int]) -> None:
    for i in numbers:
        cancels = i % 10 < CANCEL_OF_TEN
        body = completion(digits(SHORT_PROMPT, next(_seeds)), LONG_TOKENS if cancels else SHORT_TOKENS)
        answer = await open_stream(server.url, body, until=_started if cancels else lambda stream: False)
        if not cancels:
            answer.check(SHORT_TOKENS)


def _started(stream: Stream) -> bool:
    return bool(stream.arrivals)


if __name__ == "__main__":
    main()
