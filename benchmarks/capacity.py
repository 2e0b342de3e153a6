"""More demand than memory, and prompts that begin alike: what the KV cache makes of both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.models import digits
from benchmarks.peers import THREADS
from benchmarks.row import Row, of_values
from benchmarks.scale import Scale
from foreshore.backend import Answer, Backend, collect
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.errors import UpstreamError
from foreshore.types import Request, Sampling

__all__ = ["overcommit", "shared_prefix"]

DEMAND = 3  # times the cache
_seeds = count(600_001)


def overcommit(scale: Scale, model: Path) -> dict[str, Row]:
    """All at once, as many slots as requests: together they would hold 3 times what the cache holds."""
    prompt, tokens = scale.kv_request
    requests = -(-DEMAND * scale.kv_tokens // (prompt + tokens))
    options = EngineOptions(
        slots=requests, threads=THREADS, context_tokens=prompt + tokens, kv_tokens=scale.kv_tokens, queue_limit=requests
    )
    results = asyncio.run(_all(model, options, [_completion(prompt, tokens) for _ in range(requests)]))
    whole = [r for r in results if isinstance(r, Answer) and r.usage and r.usage.completion_tokens == tokens]
    errors = sorted({f"{type(r).__name__}: {r}" for r in results if isinstance(r, BaseException)})
    share = len(whole) / requests
    parked = sum(r.timings.parked for r in whole if r.timings)
    facts = {"requests": requests, "completed": len(whole), "kv_tokens": scale.kv_tokens, "parked": parked}
    details = {**facts, "prompt": prompt, "tokens": tokens, "errors": errors[:4]}
    return {"overcommit_completed": of_values("overcommit_completed", [share], **details)}


def shared_prefix(scale: Scale, model: Path) -> dict[str, Row]:
    """One system prompt, one request alone and then 16 at once with another; each user's word is one token."""
    context = scale.prefix + 256
    options = EngineOptions(slots=scale.sharers, threads=THREADS, context_tokens=context, kv_tokens=4 * context)
    alone, together = (digits(scale.prefix, next(_seeds)) for _ in range(2))
    groups = [[_chat(alone, "x")], [_chat(together, chr(ord("a") + i)) for i in range(scale.sharers)]]
    (one,), many = asyncio.run(_in_turn(model, options, groups))
    computed = [_computed(r) for r in many]
    share = sum(computed) / _computed(one)
    details = {"requests": scale.sharers, "prefix": scale.prefix, "one": _computed(one), "computed": computed}
    return {"shared_prefix_prefill": of_values("shared_prefix_prefill", [share], **details)}


def _computed(answer: Any) -> int:
    if isinstance(answer, BaseException):
        raise answer
    if answer.timings is None:
        raise UpstreamError("an answer of the local engine has no timings")
    return int(answer.timings.prefill_tokens)


def _completion(prompt: int, tokens: int) -> Request:
    return Request(
        task="completion", prompt=digits(prompt, next(_seeds)), sampling=Sampling(max_tokens=tokens, temperature=0)
    )


def _chat(system: str, word: str) -> Request:
    messages = ({"role": "system", "content": system}, {"role": "user", "content": word})
    return Request(messages=messages, sampling=Sampling(max_tokens=8, temperature=0))


async def _all(model: Path, options: EngineOptions, requests: Sequence[Request]) -> list[Answer | BaseException]:
    (results,) = await _in_turn(model, options, [requests])
    return results


async def _in_turn(
    model: Path, options: EngineOptions, groups: Sequence[Sequence[Request]]
) -> list[list[Answer | BaseException]]:
    """The requests of a group at once, one group after the other, in one worker."""
    backend: Backend = LocalBackend(model, options=options)
    try:
        return [
            await asyncio.gather(*(collect(backend, request) for request in group), return_exceptions=True)
            for group in groups
        ]
    finally:
        await backend.close()
