"""One simulated request, and what a simulated target is asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from foreshore.edge.options import Load
from foreshore.types import TerminalState

__all__ = ["Cascade", "Held", "Job", "Moment", "Refusal", "Service"]

NEVER = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a target does not take a job. `retry_after`: seconds; 0 where it names none."""

    code: Literal["overloaded", "context_length_exceeded", "unavailable"]
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """The answers of all targets but `last` are held back, and kept only from `confidence` on. `expected`: seconds."""

    last: str
    confidence: float
    expected: Mapping[str, float]


class Held(NamedTuple):
    """A whole answer that inspired too little confidence. `doubt` is the smaller, the more it inspired."""

    doubt: float
    target: str
    tokens: int


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """`state` is set exactly once, when it ends. Times are seconds of the simulation."""

    number: int  # its place in the trace
    at: float
    prompt_tokens: int
    output_tokens: int  # at least 1
    deadline: float = NEVER
    tenant: str = "default"
    rule: str = ""
    left: list[str] = field(default_factory=list)  # targets still to be asked in this round
    failures: list[tuple[str, Refusal]] = field(default_factory=list)  # of this round
    turn: int = 0  # rounds before this one
    attempts: int = 0
    target: str = ""  # that answers, or answered
    asked_at: float = 0.0  # when that target took it
    token_at: float = NEVER  # when it gave its first token
    first_at: float = NEVER  # when the caller got one
    ended_at: float = NEVER
    state: TerminalState | None = None
    tokens: int = 0  # of the answer, once it has ended
    cost: float = 0.0  # US dollars
    cascade: Cascade | None = None
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to a job at `at`."""

    at: float
    kind: Literal["first", "end", "error"]
    job: Job


class Service(Protocol):
    """A target's own clockwork. Between two calls of `step` nothing happens but what its rates foretell."""

    next_at: float  # when something happens next, if nothing comes before; infinity where nothing will

    def step(self) -> Moment:
        """Go on to `next_at` and do what happens then: exactly one thing."""
        ...

    def offer(self, job: Job, now: float) -> Refusal | None:
        """Take `job`, or say why not. `now` never lies before a call before, nor after `next_at`."""
        ...

    def cancel(self, job: Job, now: float) -> None:
        """Forget a job that was taken and has not ended; `job.tokens` becomes what there was of its answer."""
        ...

    def load(self, now: float) -> Load: ...

    def busy_s(self, now: float) -> float:
        """Seconds so far in which it worked on anything."""
        ...

    def stream_s(self, now: float) -> float:
        """Seconds so far, summed over the jobs that were in it and did not wait."""
        ...
