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
    "Chunk",
    "FinishReason",
    "Message",
    "Request",
    "Sampling",
    "Task",
    "TerminalState",
    "Timings",
    "TokenLogprob",
    "ToolCallDelta",
    "Usage",
    "new_id",
]

Message = Mapping[str, Any]
Task = Literal["chat", "completion", "embedding"]
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


def new_id(prefix: str) -> str:
    """A fresh identifier, `prefix-` and 24 hexadecimal digits."""
    return f"{prefix}-{uuid.uuid4().hex[:24]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. `None` means: the model's own default, else the value named here.

    Defaults follow OpenAI's API reference where it has the parameter (temperature 1, top_p 1,
    penalties 0); `top_k`, `min_p` and `repeat_penalty` are off unless asked for.
    """

    max_tokens: int | None = None  # None: until the context is full
    temperature: float | None = None  # None: the model's `general.sampling.temp`, else 1.0; 0 is greedy
    top_p: float | None = None  # None: 1.0
    top_k: int | None = None  # None or 0: off
    min_p: float | None = None  # None or 0: off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
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
    prompt: str | tuple[int, ...] = ""  # completion: text or token ids
    inputs: tuple[str, ...] = ()  # embedding
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    response_format: Mapping[str, Any] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    tenant: str = "default"
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

    Of an embedding request each chunk has the vector of input `index`, and the last one `usage`.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0
    embedding: tuple[float, ...] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
