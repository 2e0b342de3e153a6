"""What we add to llama.cpp: microseconds a token outside `llama_decode`.

    python -m benchmarks.own_time MODEL.gguf [--sampled] [--streams 8] [--steps 40] [--blocks 5]

In a process of its own, the worker's loop without its socket's other end: each step plans, decodes, draws and makes
chunks; then its results are encoded and sent, to a process that throws them away. The time inside `llama_decode`,
measured around the native call, is taken off. Prints one JSON list, a number for each block of steps.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.models import digits
from benchmarks.peers import THREADS
from benchmarks.row import Row, failed, of_values
from benchmarks.scale import Scale
from foreshore.edge.options import EngineOptions
from foreshore.edge.protocol import Results, encode
from foreshore.errors import ForeshoreError, SetupError, UpstreamError
from foreshore.types import Chunk, Request, Sampling

__all__ = ["main", "own_time"]

PROMPT = 32
GREEDY = Sampling(temperature=0)
SAMPLED = Sampling(temperature=0.8, top_k=40, top_p=0.95, seed=1)


def own_time(scale: Scale, model: Path) -> dict[str, Row]:
    return {key: _row(key, scale, model) for key in ("own_us_per_token_greedy", "own_us_per_token_sampled")}


def _row(key: str, scale: Scale, model: Path) -> Row:
    sizes = {"streams": scale.own_streams, "steps": scale.own_steps, "blocks": scale.own_blocks}
    command = [sys.executable, "-m", "benchmarks.own_time", str(model)]
    command += [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [*command, *(["--sampled"] if key.endswith("sampled") else [])], capture_output=True, text=True
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return failed(key, SetupError(f"benchmarks.own_time ended with {done.returncode}: {last[:400]}"))
    return of_values(key, json.loads(done.stdout), unit="µs", **sizes)


def main(argv: list[str] | None = None) -> None:
    options = _arguments(argv)
    sampling = SAMPLED if options.sampled else GREEDY
    with _sink() as sink:
        blocks = _measure(options.model, sampling, options.streams, options.steps, options.blocks, sink)
    print(json.dumps(blocks))


class _Clock:
    """Stands where `llama_decode` stands, and adds up its time."""

    def __init__(self, native: Any) -> None:
        self._decode, self.seconds, self.calls = native.llama_decode, 0.0, 0
        native.llama_decode = self

    def __call__(self, *arguments: Any) -> Any:
        begun = time.perf_counter()
        try:
            return self._decode(*arguments)
        finally:
            self.seconds += time.perf_counter() - begun
            self.calls += 1


def _measure(
    model: Path, sampling: Sampling, streams: int, steps: int, blocks: int, sink: socket.socket
) -> list[float]:
    import llama_cpp.llama_cpp as native

    from foreshore.edge.loader import load
    from foreshore.edge.prepare import Prepared

    clock = _Clock(native)
    tokens = steps * (blocks + 1) + 8 * streams  # the first block warms up; prompts are read in between at first
    loaded = load(model, EngineOptions(slots=streams, threads=THREADS, context_tokens=PROMPT + tokens))
    for i in range(streams):
        request = Request(
            task="completion",
            prompt=digits(PROMPT, i + 1),
            sampling=replace(sampling, max_tokens=tokens),
            extra={"ignore_eos": True},
        )
        prepared = loaded.prepare(request, time.monotonic())
        assert isinstance(prepared, Prepared)
        loaded.steps.submit(prepared)
    _until_all_run(loaded.steps, streams)
    found = [_block(loaded.steps, clock, steps, streams, sink) for _ in range(blocks + 1)]
    loaded.steps.close()
    return found[1:]


def _until_all_run(stepper: Any, streams: int) -> None:
    while _chunks(stepper.step()) < streams:
        if stepper.idle:
            raise UpstreamError("the answers ended before all of them ran")


def _block(stepper: Any, clock: _Clock, steps: int, streams: int, sink: socket.socket) -> float:
    calls, inside, drawn = clock.calls, clock.seconds, 0
    begun = time.perf_counter()
    for _ in range(steps):
        events = stepper.step()
        chunks = tuple((i, e) for i, e in events if not isinstance(e, ForeshoreError))
        sink.sendall(encode(Results(chunks=chunks, load=stepper.report())))
        drawn += len(chunks)
    seconds = time.perf_counter() - begun - (clock.seconds - inside)
    if clock.calls - calls != steps or drawn != steps * streams:
        raise UpstreamError(f"{steps} steps made {clock.calls - calls} decodes and {drawn} chunks, not one a stream")
    return 1e6 * seconds / drawn


def _chunks(events: list[Any]) -> int:
    return sum(isinstance(event, Chunk) for _, event in events)


@contextmanager
def _sink() -> Iterator[socket.socket]:
    """A socket like a worker's, read by a process of its own."""
    ours, theirs = socket.socketpair()
    reader = subprocess.Popen(["cat"], stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        reader.wait()


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Microseconds a token outside llama_decode.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--sampled", action="store_true", help="top-k 40, top-p 0.95, temperature 0.8; else greedy")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--blocks", type=int, default=5)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
