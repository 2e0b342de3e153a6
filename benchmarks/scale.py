"""How much a benchmark does: FULL for numbers to keep, QUICK to see within a minute that all of it runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "Scale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Tokens, requests, and rounds: how often each side of a comparison runs, in turns."""

    models: tuple[str, ...]  # the first one alone where one is enough
    rounds: int
    slow_rounds: int  # of what takes long: the long prompt, and the server that answers one after the other
    tokens: int  # that each stream generates
    decode_tokens: int  # of the single stream beside llama-bench
    prompt: int  # tokens of a short prompt
    long_prompt: int
    runners: int = 4  # streams that run while it comes
    settle: int  # tokens of each runner before it comes
    own_blocks: int  # of `own_steps` steps each
    own_steps: int
    own_streams: int = 8
    kv_tokens: int  # of the over-committed cache
    kv_request: tuple[int, int]  # prompt and answer tokens of each request to it
    prefix: int  # tokens of a shared system prompt
    sharers: int = 16
    batch_prompt: int  # of the incident: the batch tenant's prompts
    batch_requests: int
    chat_every_s: float
    chat_requests: int
    leak_warm_up: int
    leak_requests: int


FULL = Scale(
    models=("0.5b-q4_0", "0.5b-q4_k_m"),
    rounds=5,
    slow_rounds=3,
    tokens=96,
    decode_tokens=128,
    prompt=32,
    long_prompt=4096,
    settle=64,
    own_blocks=5,
    own_steps=40,
    kv_tokens=2048,
    kv_request=(128, 256),
    prefix=1024,
    batch_prompt=8192,
    batch_requests=2,
    chat_every_s=1.0,
    chat_requests=45,
    leak_warm_up=2000,
    leak_requests=10_000,
)

# The starters' context is 1,024 tokens.
QUICK = Scale(
    models=("starter-s-q4_k_m",),
    rounds=2,
    slow_rounds=2,
    tokens=32,
    decode_tokens=64,
    prompt=16,
    long_prompt=900,
    settle=128,
    own_blocks=2,
    own_steps=40,
    kv_tokens=512,
    kv_request=(32, 64),
    prefix=512,
    batch_prompt=900,
    batch_requests=6,
    chat_every_s=0.02,
    chat_requests=20,
    leak_warm_up=200,
    leak_requests=300,
)
