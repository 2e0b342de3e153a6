"""What the ledger keeps of one request. Never content: counts, names from the config, durations, codes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from foreshore.types import TerminalState, Timings, Usage

__all__ = ["Event"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One for every request that reached the door, refused and broken ones too.

    `facts` and `estimates` are what the decision looked at; `propensity` is the probability of the first choice, which
    off-policy estimates divide by. Values must come from the config, from a counter or from a clock.
    """

    decision_id: str
    terminal_state: TerminalState
    error_code: str = ""  # `ForeshoreError.code`, "" for none
    task: str = ""
    tenant: str = ""
    rule: str = ""
    target: str = ""  # whose answer the caller got, in part or whole
    policy: str = ""  # digest of the config that decided
    propensity: float = 1.0
    strategy: str = "fallback"
    explored: bool = False  # the first choice was drawn by chance
    influenced: bool = False  # the decision looked at an estimate that was learnt
    holdout: bool = False  # of the slice that nothing is ever trained on
    stream: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    targets: Sequence[str] = ()  # as decided, in order
    estimates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # and each target's state, as numbers
    scene: Mapping[str, Mapping[str, Any]] | None = None  # device, budget, time: those looked at, where not as usual
    attempts: Sequence[Mapping[str, Any]] = ()
    usage: Usage | None = None
    timings: Timings | None = None
    cost: float = 0.0  # US dollars, by the config's prices
    decision_s: float = 0.0
    ttft_s: float = 0.0  # from arrival at the gateway to the first content, failed attempts included
    total_s: float = 0.0
    at: float = field(default_factory=time.time)  # seconds since 1970, UTC
