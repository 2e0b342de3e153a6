"""A known incident: a chat tenant beside a batch tenant's long prompts, with and without fair scheduling.

The same requests both times: the batch tenant queues its prompts at once, chat requests come at a steady pace.
TTFT is the chat's, at its 95th percentile; throughput is all tokens, read and written, over the time until all is done.
Chat is of the tier `priority` (its TTFT SLO is the engine's `priority_ttft_s`), the batch of `flex`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from benchmarks.models import digits
from benchmarks.peers import THREADS
from benchmarks.row import Row, of_pairs, percentile
from benchmarks.scale import Scale
from foreshore.backend import Answer, collect
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.errors import UpstreamError
from foreshore.types import Request, Sampling, ServiceTier

__all__ = ["fairness"]

CHAT_PROMPT, CHAT_TOKENS, BATCH_TOKENS = 32, 16, 16
CHAT_SLO_S = 0.5
_seeds = count(700_001)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    chat_ttfts: tuple[float, ...]  # seconds
    tokens_per_s: float
    seconds: float

    @property
    def p95(self) -> float:
        return percentile(self.chat_ttfts, 0.95)


def fairness(scale: Scale, model: Path) -> dict[str, Row]:
    fifo, fair = (asyncio.run(_run(scale, model, policy)) for policy in ("fifo", "fair"))
    facts = {
        "chat_requests": scale.chat_requests,
        "chat_every_s": scale.chat_every_s,
        "batch_prompts": [scale.batch_prompt] * scale.batch_requests,
        "seconds": {"fair": round(fair.seconds, 1), "fifo": round(fifo.seconds, 1)},
        "within_slo": {"fair": _within(fair), "fifo": _within(fifo)},
    }
    ttft, speed = "fair_ttft_vs_fifo", "fair_throughput_vs_fifo"
    return {
        ttft: of_pairs(ttft, [fair.p95], [fifo.p95], unit="s", **facts),
        speed: of_pairs(speed, [fair.tokens_per_s], [fifo.tokens_per_s], unit="tokens/s", **facts),
    }


def _within(run: Run) -> float:
    return round(sum(t <= CHAT_SLO_S for t in run.chat_ttfts) / len(run.chat_ttfts), 3)


async def _run(scale: Scale, model: Path, policy: Literal["fair", "fifo"]) -> Run:
    context = scale.batch_prompt + BATCH_TOKENS + 64
    options = EngineOptions(
        slots=8, threads=THREADS, context_tokens=context, kv_tokens=3 * context, policy=policy,
        priority_ttft_s=CHAT_SLO_S, queue_limit=256, queue_tokens=100 * context, queue_wait_s=3600.0,
    )  # fmt: skip
    backend = LocalBackend(model, options=options)
    try:
        await collect(backend, _request("chat", "priority", CHAT_PROMPT, CHAT_TOKENS))
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            batch = [_request("batch", "flex", scale.batch_prompt, BATCH_TOKENS) for _ in range(scale.batch_requests)]
            batches = [group.create_task(collect(backend, request)) for request in batch]
            chats = []
            for i in range(scale.chat_requests):
                await asyncio.sleep(max(0.0, begun + (i + 1) * scale.chat_every_s - time.perf_counter()))
                request = _request("chat", "priority", CHAT_PROMPT, CHAT_TOKENS)
                chats.append(group.create_task(collect(backend, request)))
        seconds = time.perf_counter() - begun
    finally:
        await backend.close()
    answers = [task.result() for task in (*batches, *chats)]
    tokens = sum(answer.usage.total_tokens for answer in answers if answer.usage)
    return Run(chat_ttfts=tuple(_ttft(task.result()) for task in chats), tokens_per_s=tokens / seconds, seconds=seconds)


def _request(tenant: str, tier: ServiceTier, prompt: int, tokens: int) -> Request:
    return Request(
        task="completion",
        prompt=digits(prompt, next(_seeds)),
        sampling=Sampling(max_tokens=tokens, temperature=0),
        tenant=tenant,
        service_tier=tier,
    )


def _ttft(answer: Answer) -> float:
    if answer.timings is None or answer.usage is None or answer.usage.completion_tokens != CHAT_TOKENS:
        raise UpstreamError("a chat answer has too few tokens, or no timings")
    return answer.timings.ttft_s
