"""The router over both starters under load: what it foretold of each answer, and when the answer came."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.latency_traffic import Piece, play
from foreshore.cli.gateway_process import GatewayProcess
from foreshore.config import Config, parse_config
from foreshore.quantize import build
from foreshore.router.exchange import Exchange
from foreshore.router.label import Caller
from foreshore.router.latency.forecast import Work
from foreshore.router.router import Router
from foreshore.router.target import Ask

__all__ = ["EDGE", "Sample", "cloud", "live"]

KEY = "FORESHORE_BENCHMARK_KEY"
LEVELS = (0.1, 0.5, 0.9)
EDGE = "starter-s:q4_k_m"
CLOUD = """
listen: {host: 127.0.0.1, port: 0}
tenants: [{name: bench, key_env: FORESHORE_BENCHMARK_KEY}]
targets: {cloud: {kind: local, model: "starter-l:q8_0"}}
"""
GATEWAY = """
privacy: {detectors: []}  # some tasks are about addresses; here each is to go where the load sends it
targets:
  edge: {kind: local, model: "$MODEL"}
  cloud: {kind: openai, model: cloud, base_url: "$URL/v1", key_env: FORESHORE_BENCHMARK_KEY}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One whole answer, with the forecast that was made before it was asked for. Moments are on time.monotonic;
    the 10th, 50th and 90th percentiles of a forecast, seconds."""

    phase: str
    target: str
    tenant: str
    sent: float
    ended: float
    ttft_s: float
    total_s: float
    ttft: tuple[float, ...]
    total: tuple[float, ...]
    work: Work
    tokens: int


@contextmanager
def cloud() -> Iterator[str]:
    """The address of a process that plays the cloud; both starters are built."""
    for source, variant in (("starter-s", "q4_k_m"), ("starter-l", "q8_0")):
        build(source, [variant])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cloud.yaml")
        path.write_text(f"{CLOUD}ledger: {{path: {folder}/cloud.sqlite}}\n")
        key = {KEY: secrets.token_urlsafe(16)}
        os.environ |= key
        with GatewayProcess("cloud", path, Path(folder, "cloud.log"), key) as process:
            yield process.url


def live(url: str, *, seed: int, rounds: int, model: str = EDGE) -> list[Sample]:
    """All whole answers of one run, in the order in which they were asked for, by a router that has learned nothing.
    `model`: the one on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        text = GATEWAY.replace("$URL", url).replace("$MODEL", model)
        config = parse_config(f"{text}ledger: {{path: {folder}/ledger.sqlite}}\n")
        return asyncio.run(_live(config, seed, rounds))


async def _live(config: Config, seed: int, rounds: int) -> list[Sample]:
    router = Router(config)
    samples: list[Sample] = []
    try:
        await router.start()

        async def send(piece: Piece) -> float:
            sample = await _sample(router, piece)
            samples.append(sample)
            return sample.total_s

        await play(send, seed=seed, rounds=rounds)
    finally:
        await router.close()
    return sorted(samples, key=lambda sample: sample.sent)


async def _sample(router: Router, piece: Piece) -> Sample:
    sent = time.monotonic()
    exchange = await router.open(piece.request, Caller(tenant=piece.tenant, stream=True))
    target = router.loaded.targets[piece.target]  # nothing has run since the decision: it finds what that one found
    work, forecast = target.work(Ask.of(exchange.facts)), target.forecast(exchange.facts)
    first, tokens = await _read(exchange)
    ended = time.monotonic()
    return Sample(
        phase=piece.phase,
        target=piece.target,
        tenant=piece.tenant,
        sent=sent,
        ended=ended,
        ttft_s=first - sent,
        total_s=ended - sent,
        ttft=tuple(forecast.ttft.quantile(level) for level in LEVELS),
        total=tuple(forecast.total.quantile(level) for level in LEVELS),
        work=work,
        tokens=tokens,
    )


async def _read(exchange: Exchange) -> tuple[float, int]:
    """When the first content came, and how many tokens the answer has."""
    first, tokens = 0.0, 0
    async with aclosing(exchange.stream()) as chunks:
        async for chunk in chunks:
            first = first or time.monotonic()
            tokens = chunk.usage.completion_tokens if chunk.usage is not None else tokens
    return first, tokens
