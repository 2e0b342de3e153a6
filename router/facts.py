"""What rules and `decide` may look at: the request, each target, this machine, the budget and the time. No content but
`text`.

Each class is one variable of the expressions, by the names in `PARTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any

from foreshore.router.record import record
from foreshore.types import Task

__all__ = [
    "ANY_TIME",
    "NO_BUDGET",
    "ON_MAINS",
    "PARTS",
    "BudgetFacts",
    "ClockFacts",
    "DeviceFacts",
    "RequestFacts",
    "TargetFacts",
]

NO_LIMIT = 1e18  # US dollars: what is left where there is no budget; CEL knows no infinity


@record
class RequestFacts:
    """`request.*` in a rule. Token counts are estimates made before any tokenizer has seen the text."""

    task: Task = "chat"
    model: str = ""  # as the caller named it
    tenant: str = "default"
    session: str = ""  # of the header x-foreshore-session; "" without it
    text: str = ""  # the last user message
    language: str = ""  # of `text`, ISO 639-1; "" is unknown, or that no rule asks
    prompt_tokens: int = 0
    max_tokens: int = 0  # 0: the caller set none
    messages: int = 0
    has_tools: bool = False
    has_images: bool = False
    wants_json: bool = False
    stream: bool = False
    private: bool = False  # by header, tenant, detector, or content no detector can read or that is too long
    labels: tuple[str, ...] = ()  # what made it private
    headers: Mapping[str, str] = field(default_factory=dict)  # x-* headers of the HTTP request, names in lower case
    deadline_s: float = 0.0  # seconds left when it arrived

    def logged(self) -> dict[str, Any]:
        """For the ledger: everything but content and what a caller may have put in a header or a model's name."""
        return {name: getattr(self, name) for name in _LOGGED}


_LOGGED = tuple(f.name for f in fields(RequestFacts) if f.name not in ("text", "headers", "model", "session"))


@record
class TargetFacts:
    """`target.*` in a rule. 0 means: not known, or not measured yet."""

    name: str
    kind: str = "local"
    model: str = ""
    local: bool = True
    tags: tuple[str, ...] = ()  # from the config
    tools: bool = True  # whether it takes tool definitions, answers in a JSON schema, sees images
    json: bool = True
    images: bool = False
    loaded: bool = True  # False: a local model that must be loaded before it answers
    healthy: bool = True
    breaker: str = "closed"  # or "open", "half_open"
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
    ttft_s: float = 0.0  # predicted for this request: medians, then 90th percentiles
    total_s: float = 0.0
    ttft_p90_s: float = 0.0
    p90_s: float = 0.0  # of the total
    on_time: float = 1.0  # probability that the total stays within request.deadline_s; 1 where there is none
    cost: float = 0.0  # predicted, US dollars
    quality: float = 0.0  # probability that its answer is acceptable
    best: bool = False  # no other target's quality is higher


@record
class DeviceFacts:
    """`device.*`: this machine, as sampled in the background. The defaults: on mains, with a network."""

    battery_percent: float = 100.0  # 100 where there is no battery
    on_battery: bool = False
    celsius: float = 0.0  # of the hottest sensor of a processor; 0 is unknown
    cpu_percent: float = 0.0
    memory_percent: float = 0.0  # used
    memory_free_bytes: int = 0
    online: bool = True  # whether the cloud targets' hosts can be reached


@record
class BudgetFacts:
    """`budget.*`: of the request's tenant in its period, US dollars."""

    dollars: float = 0.0  # the limit; 0: none
    spent: float = 0.0
    left: float = NO_LIMIT
    share_left: float = 1.0


@record
class ClockFacts:
    """`now.*`: the local time of this machine."""

    hour: int = 0
    minute: int = 0
    weekday: int = 0  # 0 is Monday


ON_MAINS, NO_BUDGET, ANY_TIME = DeviceFacts(), BudgetFacts(), ClockFacts()  # where nobody looked
PARTS: Mapping[str, type[Any]] = {
    "request": RequestFacts,
    "target": TargetFacts,
    "device": DeviceFacts,
    "budget": BudgetFacts,
    "now": ClockFacts,
}
TYPICAL_ANSWER = 128  # tokens, until a target has shown its own mean


def answer_tokens(request: RequestFacts, mean: float) -> float:
    """The expected length of the answer: the target's `mean`, at most what the caller allows."""
    mean = mean or TYPICAL_ANSWER
    return min(mean, request.max_tokens) if request.max_tokens else mean
