"""The nouns that all parts share. Frozen; who fills a late field stands beside it.

A chat message, a tool and a response format keep OpenAI's JSON shape: it is what clients send,
what chat templates read and what most providers take.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from foreshore.clearance import Clearance

__all__ = [
    "GAP_BOUNDS",
    "Chunk",
    "FinishReason",
    "Message",
    "Request",
    "Sampling",
    "ServiceTier",
    "Task",
    "TerminalState",
    "Timings",
    "TokenLogprob",
    "ToolCallDelta",
    "Usage",
    "new_id",
]

Message = Mapping[str, Any]
Task = Literal["chat", "completion", "embedding", "rerank", "tokenize", "detokenize"]
ServiceTier = Literal["priority", "default", "flex"]  # OpenAI's names: who waits for whom on a busy machine
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
TerminalState = Literal[
    "complete",  # finish reason and terminator both seen
    "truncated",  # the stream ended without them
    "cancelled",  # the client went away
    "upstream_error",  # a target failed and no other could take over
    "deadline",  # the request's deadline passed
    "policy_abort",  # no target was allowed to answer
    "rejected",  # the request itself was wrong: nobody could have answered it
]

# Upper bounds, in seconds, of the classes that gaps between tokens are counted in; one more class has no bound.
GAP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)


def new_id(prefix: str) -> str:
    """A fresh identifier, `prefix-` and 24 hexadecimal digits."""
    return f"{prefix}-{uuid.uuid4().hex[:24]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. `None` means: the model's own default, else the value named here.

    Defaults follow OpenAI's API reference where it has the parameter (temperature 1, top_p 1,
    penalties 0); the others have llama-server's names and values, and are off unless asked for.
    """

    max_tokens: int | None = None  # None: until the context is full
    temperature: float | None = None  # None: the model's `general.sampling.temp`, else 1.0; 0 is greedy
    top_p: float | None = None  # None: 1.0
    top_k: int | None = None  # None or 0: off
    min_p: float | None = None  # None or 0: off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64  # tokens, the prompt's among them, that the three penalties look back on; 0: none
    dry_multiplier: float = 0.0  # 0: off; DRY punishes what would continue a repetition
    dry_base: float = 1.75
    dry_allowed_length: int = 2  # tokens that may be repeated unpunished
    dry_penalty_last_n: int = 64  # tokens that DRY looks back on; 0: off
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    top_n_sigma: float = 0.0  # 0 or below: off; keeps logits within n standard deviations of the best
    typical_p: float = 1.0  # 1: off
    xtc_probability: float = 0.0  # 0: off; how often the likeliest are left out
    xtc_threshold: float = 0.1  # above 0.5: off; who counts as likeliest
    dynatemp_range: float = 0.0  # 0: off; temperature moves by so much with the entropy
    dynatemp_exponent: float = 1.0
    mirostat: int = 0  # 0: off; 1 or 2: the version, which takes the place of all that narrows or penalises
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0  # below 0: off; the probability that drawn tokens should have had on average
    adaptive_decay: float = 0.9
    min_keep: int = 0  # how many tokens typical_p, top_p, min_p and xtc leave at least
    samplers: tuple[str, ...] | None = None  # their order; None: llama.cpp's, see docs/sampling.md
    seed: int | None = None  # None: drawn at random
    stop: tuple[str, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None  # None: none; k >= 0: the sampled token's and the k best
    grammar: str | None = None  # GBNF, root rule `root`; excludes a JSON response format


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, from whichever door it came in by."""

    task: Task = "chat"
    model: str = ""  # as the caller named it; "" or "auto" leaves the choice to the router
    messages: tuple[Message, ...] = ()  # chat
    prompt: str | tuple[int, ...] = ""  # completion and tokenize: text or token ids; detokenize: token ids
    inputs: tuple[str, ...] = ()  # embedding: texts; rerank: documents
    query: str = ""  # rerank: what the documents are ranked for
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    response_format: Mapping[str, Any] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    tenant: str = "default"
    weight: float = 1.0  # the tenant's share of a busy machine, relative to other tenants'
    service_tier: ServiceTier = "default"
    deterministic: bool = False  # computed apart from all others, so that equal requests get equal answers
    adapter: str | None = None  # the name of a LoRA adapter that the local model was loaded with
    deadline: float | None = None  # absolute, on time.monotonic(); None: no deadline
    id: str = field(default_factory=lambda: new_id("req"))
    extra: Mapping[str, Any] = field(default_factory=dict)  # body fields only a cloud target understands
    clearance: Clearance | None = None  # set by the constraint stage alone; a cloud backend demands it


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts. Reasoning tokens are part of `completion_tokens`, as OpenAI counts them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # prompt tokens that were not computed again
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Measured durations of one answer, seconds on a monotonic clock.

    TTFT is from arrival to the first token; TPOT is the mean gap between later tokens,
    (last token - first token) / (tokens - 1), the definition of vLLM's and GenAI-Perf's metrics.
    """

    queue_s: float = 0.0
    prefill_s: float = 0.0
    prefill_tokens: int = 0  # computed, so without cached ones
    ttft_s: float = 0.0
    decode_s: float = 0.0  # first token to last
    decode_tokens: int = 0  # all completion tokens, the first included
    gaps: tuple[int, ...] = ()  # tokens after the first by the time since the one before, in classes of GAP_BOUNDS
    parked: int = 0  # how often the answer gave its memory up to others and went on later

    @property
    def prefill_tokens_per_s(self) -> float:
        return self.prefill_tokens / self.prefill_s if self.prefill_s > 0 else 0.0

    @property
    def tpot_s(self) -> float:
        return self.decode_s / (self.decode_tokens - 1) if self.decode_tokens > 1 else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        return 1.0 / self.tpot_s if self.tpot_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """Natural-log probability of one sampled token; `top` holds the likeliest at that place, best first."""

    token: str
    bytes: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """A piece of the tool call at `index`: the first piece carries `id` and `name`."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of an answer. Only the last has `finish_reason`, and it carries `usage` (and `timings` if local).

    Of an embedding request each chunk has the vector of input `index`, of a rerank request the `score` of
    document `index`, and the last one `usage`. A tokenize request gets one chunk, with `tokens`.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0
    embedding: tuple[float, ...] | None = None
    score: float | None = None
    tokens: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
