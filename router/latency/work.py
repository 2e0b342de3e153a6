"""What a request asks of a target, and how fast targets are known to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Speeds", "Work"]


class Work(NamedTuple):
    """What one request asks of a target and what it finds there. Token counts may be estimates.

    A tuple, for one is made for each target of each decision, and a frozen dataclass takes three times as long.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of them, that need not be computed
    waiting_tokens: int = 0  # prompt tokens of those before it that are yet to be computed
    rival_tokens: int = 0  # of them, other tenants'
    running: int = 0  # requests that generate
    waiting: int = 0  # requests without a first token yet
    max_tokens: int = 0  # 0: the caller set none
    route: str = ""  # what requests of one kind have in common: a rule's name, say
    tenant: str = ""
    loaded: bool = True  # False: a model must be loaded first


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Measured before the first request, of one stream; 0 is unknown."""

    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    load_s: float = 0.0
