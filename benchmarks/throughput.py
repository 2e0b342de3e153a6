"""Tokens per second: single stream against llama-bench, several over HTTP against the peers' servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.load import completion, open_stream, tokens_per_s
from benchmarks.models import digits
from benchmarks.peers import THREADS, Server
from benchmarks.row import Row, of_pairs
from benchmarks.scale import Scale
from foreshore.edge import EngineOptions
from foreshore.edge.speed import SpeedTest

__all__ = ["aggregate", "decode", "llama_cpp_server", "xllamacpp"]

_seeds = count(1)
Start = Callable[[], AbstractContextManager[Server]]


def decode(scale: Scale, model: Path) -> dict[str, Row]:
    """Through our worker process, scheduler and streams, against llama-bench's bare loop; in turns."""
    ours: list[float] = []
    theirs: list[float] = []
    tokens = scale.decode_tokens
    with SpeedTest(str(model), EngineOptions(slots=1, threads=THREADS)) as test:
        test.decode(tokens)
        for _ in range(scale.rounds):
            ours.append(test.decode(tokens))
            theirs.append(peers.llama_bench(model, tokens=tokens))
    key = "decode_vs_llama_bench"
    return {key: of_pairs(key, ours, theirs, unit="tokens/s", tokens=tokens)}


def aggregate(scale: Scale, model: Path, streams: int) -> dict[str, Row]:
    """`streams` at once, each a short prompt and a long answer."""
    sizes = {"slots": streams, "context": _context(scale)}
    key = f"aggregate_vs_llama_server_{streams}"
    ours, theirs, commands = _compare(
        scale, streams, lambda: peers.foreshore(model, **sizes), lambda: peers.llama_server(model, **sizes)
    )
    return {key: of_pairs(key, ours, theirs, **_details(scale, commands))}


def llama_cpp_server(scale: Scale, model: Path, streams: int = 8) -> dict[str, Row]:
    """Its throughput where it finishes one stream after the other; and how many it drops if left at its default."""
    context, shorter = _context(scale), replace(scale, rounds=scale.slow_rounds)
    ours, theirs, commands = _compare(
        shorter,
        streams,
        lambda: peers.foreshore(model, slots=streams, context=context),
        lambda: peers.llama_cpp_server(model, context=context, interrupt=False),
    )
    with peers.llama_cpp_server(model, context=context, interrupt=True) as server:
        answers = asyncio.run(_answers(server, scale, streams))
    dropped = sum(a.tokens != scale.tokens for a in answers)
    key = f"aggregate_vs_llama_cpp_server_{streams}"
    facts = {"dropped_streams_at_its_default": dropped, "streams": streams}
    return {key: of_pairs(key, ours, theirs, **facts, **_details(scale, commands))}


def xllamacpp(scale: Scale, model: Path, streams: int = 8) -> dict[str, Any]:
    """For the record, where it is installed: no target names it, and its wheel's build flags are not ours.

    One short round, for on some CPUs that wheel is many times slower.
    """
    scale = replace(scale, rounds=1, tokens=scale.tokens // 3)
    sizes = {"slots": streams, "context": _context(scale)}
    ours, theirs, _ = _compare(
        scale, streams, lambda: peers.foreshore(model, **sizes), lambda: peers.xllamacpp(model, **sizes)
    )
    return {"streams": streams, "ratio": ours[0] / theirs[0], "ours": ours[0], "theirs": theirs[0], "unit": "tokens/s"}


def _compare(scale: Scale, streams: int, ours: Start, theirs: Start) -> tuple[list[float], list[float], list[str]]:
    """Both wait side by side, idle, while one of them works."""
    with ours() as a, theirs() as b:
        speeds: dict[str, list[float]] = {a.name: [], b.name: []}
        for i in range(scale.rounds + 1):
            for server in (a, b):
                answers = asyncio.run(_answers(server, scale, streams))
                for answer in answers:
                    answer.check(scale.tokens)
                speeds[server.name] += [tokens_per_s(answers)] if i else []  # the first round warms up
        return speeds[a.name], speeds[b.name], [a.command, b.command]


async def _answers(server: Server, scale: Scale, streams: int) -> list[Any]:
    bodies = [completion(digits(scale.prompt, next(_seeds)), scale.tokens) for _ in range(streams)]
    return await asyncio.gather(*(open_stream(server.url, body) for body in bodies))


def _context(scale: Scale) -> int:
    """With room to spare, in llama.cpp's steps of 256 cells."""
    return -(-(scale.prompt + scale.tokens + 16) // 256) * 256


def _details(scale: Scale, commands: list[str]) -> dict[str, Any]:
    return {"unit": "tokens/s", "prompt": scale.prompt, "tokens": scale.tokens, "servers": commands}
