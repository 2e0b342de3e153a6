"""What a model is loaded with, and what it turned out to be. Imports nothing native: parent and worker share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import psutil

from foreshore.errors import UsageError

__all__ = ["DEFAULT_CONTEXT", "MAX_SLOTS", "EngineOptions", "KvType", "Load", "ModelInfo"]

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
DEFAULT_CONTEXT = 4096
MAX_SLOTS = 256  # LLAMA_MAX_SEQ


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How the engine is set up.

    `context_tokens` is what one sequence may hold, prompt and answer together; `None` takes the
    model's own, at most 4096. `kv_tokens` is what all running sequences share; `None` takes
    `slots * context_tokens`, less where that would pass 1 GiB, but never less than one context.
    """

    context_tokens: int | None = None
    kv_tokens: int | None = None
    slots: int = 8  # sequences that run at the same time
    threads: int | None = None  # None: the physical cores this process may use
    batch_tokens: int = 512  # the most tokens one step computes
    kv_type: KvType = "f16"  # other types than f16 need flash attention for the V half
    flash_attention: Literal["auto", "on", "off"] = "auto"
    mmap: bool = True
    gpu_layers: int = 0  # -1: all; needs an engine built for the accelerator
    policy: Literal["fair", "fifo"] = "fair"  # fair: tenants by tokens served, tiers by their TTFT; fifo: to compare
    gap_target: float = 3.0  # while a prompt is read: a stream's gap past its first tokens, in undisturbed gaps
    priority_ttft_s: float = 0.5  # service tiers: the time to first token that each is meant to get
    default_ttft_s: float = 5.0
    flex_ttft_s: float = 60.0
    queue_limit: int = 64  # requests that may wait; more are refused with a time to come back
    queue_tokens: int | None = None  # prompt and answer tokens that may wait; None: 8 times kv_tokens
    queue_wait_s: float = 120.0  # a request predicted to wait longer is refused
    prefix_cache: bool = True  # prompts' beginnings are kept while there is room, for the next one of the same tenant
    prefix_cache_bytes: int = 256 * 1024 * 1024  # of beginnings that were moved out of the cache into memory
    prefix_cache_dir: str | None = None  # keep them over a restart too, in files here
    park_bytes: int = 256 * 1024 * 1024  # saved states of parked answers; beyond, they are computed again
    speculation: Literal["off", "lookup", "draft"] = "off"
    draft_model: str | None = None  # for speculation "draft": a small .gguf with the same vocabulary
    adapters: tuple[tuple[str, str], ...] = ()  # LoRA: (name, path of a .gguf)
    heartbeat_s: float = 4.0  # a worker silent for longer is replaced
    step_limit_s: float = 300.0  # and so is one that does not come back from a step; the longest is a full batch

    def __post_init__(self) -> None:
        _at_least("slots", self.slots, 1)
        _at_least("batch_tokens", self.batch_tokens, 1)
        _at_least("queue_limit", self.queue_limit, 0)
        for name in ("context_tokens", "kv_tokens", "threads", "queue_tokens"):
            value = getattr(self, name)
            if value is not None:
                _at_least(name, value, 1)
        if self.slots >= MAX_SLOTS:
            raise UsageError(f"slots is {self.slots!r}, but the engine runs at most {MAX_SLOTS - 1} sequences")
        if self.batch_tokens < self.slots:
            raise UsageError(
                f"batch_tokens is {self.batch_tokens!r}, less than slots ({self.slots!r})",
                hint="each running sequence needs one token of every step",
            )
        _at_least("park_bytes", self.park_bytes, 0)
        _at_least("prefix_cache_bytes", self.prefix_cache_bytes, 0)
        for name in (
            "heartbeat_s", "step_limit_s", "queue_wait_s", "priority_ttft_s", "default_ttft_s", "flex_ttft_s"
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)!r}; it must be positive")
        if not self.gap_target >= 1:
            raise UsageError(f"gap_target is {self.gap_target!r}; it must be at least 1")
        _one_of("kv_type", self.kv_type, get_args(KvType))
        _one_of("flash_attention", self.flash_attention, ("auto", "on", "off"))
        _one_of("policy", self.policy, ("fair", "fifo"))
        _one_of("speculation", self.speculation, ("off", "lookup", "draft"))
        if (self.speculation == "draft") != (self.draft_model is not None):
            raise UsageError("speculation 'draft' and draft_model belong together")

    @property
    def thread_count(self) -> int:
        """Threads for prefill and decode: physical cores, as far as this process may use them."""
        if self.threads is not None:
            return self.threads
        allowed = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else MAX_SLOTS
        return max(1, min(psutil.cpu_count(logical=False) or 1, allowed))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A loaded model: what the file says of itself and what the options made of it."""

    name: str  # the file's `general.name`, else its file name
    architecture: str
    quantization: str  # as llama.cpp describes it, e.g. "qwen2 0.5B Q4_K - Medium"
    parameters: int
    size_bytes: int
    vocab_size: int
    trained_context_tokens: int
    context_tokens: int  # one sequence: prompt and answer
    kv_tokens: int  # all running sequences together; 0: this model only embeds
    embedding_tokens: int  # the longest input that can be embedded
    embedding_size: int
    slots: int
    threads: int
    chat: bool  # has a chat template
    generates: bool  # False: an encoder, which only embeds
    system: str  # CPU features the native build uses
    adapters: tuple[str, ...] = ()  # names of LoRA adapters that a request may ask for


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How busy the worker is: requests, tokens held, and speeds of the last seconds in tokens per second.

    A speed of 0 means: not measured yet.
    """

    waiting: int = 0
    running: int = 0
    waiting_tokens: int = 0  # prompt tokens not computed yet, of waiting and running requests
    kv_used: int = 0
    kv_tokens: int = 0
    kept: int = 0  # ended sequences whose beginnings are still in the cache
    parked: int = 0  # times that a sequence gave up its place in the cache, so far
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0  # all sequences together
    steps: int = 0
    busy_s: float = 0.0  # spent in steps, so far
    native_s: float = 0.0  # of it, inside the native engine
    threads: int = 0
    drafted: int = 0  # tokens guessed, so far
    accepted: int = 0  # of them, drawn by the model too


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} is {value!r}", hint="one of " + ", ".join(known))


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise UsageError(f"{name} is {value!r}; it must be a whole number from {least}")
