"""What rules and `decide` may look at: facts of one request, facts of each target. No content but `text`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from foreshore.types import Task

__all__ = ["RequestFacts", "TargetFacts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """`request.*` in a rule. Token counts are estimates made before any tokenizer has seen the text."""

    task: Task = "chat"
    model: str = ""  # as the caller named it
    tenant: str = "default"
    text: str = ""  # the last user message
    prompt_tokens: int = 0
    max_tokens: int = 0  # 0: the caller set none
    messages: int = 0
    has_tools: bool = False
    wants_json: bool = False
    stream: bool = False
    private: bool = False  # by header, tenant, detector, or content no detector can read or that is too long
    labels: tuple[str, ...] = ()  # what made it private
    headers: Mapping[str, str] = field(default_factory=dict)  # x-* headers of the HTTP request, names in lower case
    deadline_s: float = 0.0  # seconds left when it arrived

    def logged(self) -> dict[str, Any]:
        """For the ledger: everything but content and what a caller may have put in a header or a model's name."""
        hidden = ("text", "headers", "model")
        return {name: getattr(self, name) for name in self.__slots__ if name not in hidden}


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """`target.*` in a rule. 0 means: not known, or not measured yet."""

    name: str
    kind: str = "local"
    model: str = ""
    local: bool = True
    healthy: bool = True
    waiting: int = 0  # requests in its queue
    waiting_tokens: int = 0  # prompt tokens it has yet to compute
    running: int = 0
    context_tokens: int = 0
    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0  # of one stream
    answer_tokens: float = 0.0  # mean length of its answers
    first_token_s: float = 0.0  # mean measured TTFT
    input_price: float = 0.0  # US dollars per million tokens
    output_price: float = 0.0
    ttft_s: float = 0.0  # predicted for this request
    total_s: float = 0.0
    cost: float = 0.0  # predicted, US dollars

    def predicted(self, request: RequestFacts) -> TargetFacts:
        """With TTFT, total time and cost of `request` filled in.

        TTFT: prefill of this prompt and of those before it at the measured rate; a target without a rate of its own
        (a cloud) is taken at its mean. Total adds one decode step for each answer token.
        """
        answer = answer_tokens(request, self)
        ahead = request.prompt_tokens + self.waiting_tokens
        ttft_s = ahead / self.prefill_tokens_per_s if self.prefill_tokens_per_s else self.first_token_s
        decode_s = answer / self.decode_tokens_per_s if self.decode_tokens_per_s else 0.0
        cost = (request.prompt_tokens * self.input_price + answer * self.output_price) / 1e6
        return replace(self, ttft_s=ttft_s, total_s=ttft_s + decode_s, cost=cost)


TYPICAL_ANSWER = 128  # tokens, until a target has shown its own mean


def answer_tokens(request: RequestFacts, target: TargetFacts) -> float:
    """The expected length of the answer: the target's mean, at most what the caller allows."""
    mean = target.answer_tokens or TYPICAL_ANSWER
    return min(mean, request.max_tokens) if request.max_tokens else mean
