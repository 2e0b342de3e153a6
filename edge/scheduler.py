"""Decides what the next step computes. Knows counts and times, but no model, no token and no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from foreshore.edge.ledger import KvLedger
from foreshore.errors import Overloaded

__all__ = ["Plan", "Scheduler", "Sequence", "Slice"]


@dataclass(slots=True, eq=False, kw_only=True)
class Sequence:
    """One request's place in the schedule. The scheduler alone writes the last four fields."""

    id: str
    prompt_tokens: int
    max_tokens: int  # answer tokens it may produce, at least 1
    arrived: float
    deadline: float | None = None
    tenant: str = "default"
    slot: int | None = None
    admitted: float | None = None
    computed: int = 0  # prompt tokens in the cache
    generated: int = 0  # answer tokens so far

    @property
    def cost(self) -> int:
        """The most cache tokens it can come to hold."""
        return self.prompt_tokens + self.max_tokens

    @property
    def decodes(self) -> bool:
        return self.computed == self.prompt_tokens

    @property
    def exhausted(self) -> bool:
        return self.generated >= self.max_tokens


@dataclass(frozen=True, slots=True)
class Slice:
    """`count` tokens of `sequence` from position `start` on. `wanted`: a new token follows from the last of them."""

    sequence: Sequence
    start: int
    count: int
    wanted: bool


@dataclass(frozen=True, slots=True)
class Plan:
    slices: tuple[Slice, ...]

    @property
    def tokens(self) -> int:
        return sum(s.count for s in self.slices)

    @property
    def decode_tokens(self) -> int:
        return sum(s.count for s in self.slices if s.sequence.generated > 0)

    @property
    def prefill_tokens(self) -> int:
        return self.tokens - self.decode_tokens


class Scheduler:
    """All decoders first, then prompt chunks within a budget; first come, first served.

    `submit` -> (`plan` -> `commit`)* -> `finish`. A step that was not computed is simply not committed:
    the next `plan` is the same again. A sequence is admitted only when its whole cost fits the cache, so
    that no running one ever fails for want of room.
    """

    def __init__(
        self, *, slots: int, kv_tokens: int, batch_tokens: int, shared_prefill_tokens: int, queue_limit: int
    ) -> None:
        self.ledger = KvLedger(kv_tokens)
        self.waiting: deque[Sequence] = deque()
        self.running: dict[str, Sequence] = {}
        self._free = list(range(slots))[::-1]
        self._batch_tokens = batch_tokens
        self._shared_prefill_tokens = shared_prefill_tokens
        self._queue_limit = queue_limit

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens still to be computed."""
        return sum(s.prompt_tokens - s.computed for s in (*self.waiting, *self.running.values()))

    def submit(self, sequence: Sequence, *, retry_after: float = 1.0) -> None:
        """Queue it. Raises `Overloaded` where the queue is full, and `ValueError` for what could never run."""
        if sequence.cost > self.ledger.capacity or sequence.prompt_tokens < 1 or sequence.max_tokens < 1:
            raise ValueError(f"a sequence of {sequence.cost} tokens can never run in {self.ledger.capacity}")
        if len(self.waiting) >= self._queue_limit + len(self._free):
            raise Overloaded(
                f"{len(self.waiting)} requests wait already, and the queue holds {self._queue_limit}",
                hint=f"try again in {retry_after:.0f} s",
                retry_after=retry_after,
            )
        self.waiting.append(sequence)

    def expire(self, now: float) -> list[Sequence]:
        """Take out, and return, all whose deadline has passed."""
        late = [s for s in (*self.waiting, *self.running.values()) if s.deadline is not None and s.deadline <= now]
        for sequence in late:
            self.finish(sequence)
        return late

    def find(self, request_id: str) -> Sequence | None:
        return self.running.get(request_id) or next((s for s in self.waiting if s.id == request_id), None)

    def plan(self, now: float) -> Plan:
        """The next step's work, at most `batch_tokens`; empty only when nothing is there to do."""
        self._admit(now)
        decodes = [Slice(s, s.prompt_tokens + s.generated - 1, 1, True) for s in self.running.values() if s.decodes]
        budget = self._batch_tokens - len(decodes)
        if decodes:
            budget = min(budget, self._shared_prefill_tokens)
        return Plan((*decodes, *self._prefills(budget)))

    def commit(self, plan: Plan) -> None:
        """`plan` was computed: each wanted slice has given its sequence one more token."""
        for part in plan.slices:
            if not part.sequence.decodes:
                part.sequence.computed += part.count
            part.sequence.generated += part.wanted

    def finish(self, sequence: Sequence) -> None:
        """It ended, or was cancelled; its slot and cache tokens are free again. Twice is harmless."""
        if self.running.pop(sequence.id, None) is not None:
            assert sequence.slot is not None
            self._free.append(sequence.slot)
            self.ledger.release(sequence.id)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def _admit(self, now: float) -> None:
        # The head of the queue waits for room without being overtaken: no request starves.
        while self.waiting and self._free and self.ledger.fits(self.waiting[0].cost):
            sequence = self.waiting.popleft()
            sequence.slot, sequence.admitted = self._free.pop(), now
            self.ledger.reserve(sequence.id, sequence.cost)
            self.running[sequence.id] = sequence

    def _prefills(self, budget: int) -> list[Slice]:
        slices = []
        for sequence in self.running.values():
            if budget < 1:
                break
            if sequence.decodes:
                continue
            count = min(budget, sequence.prompt_tokens - sequence.computed)
            ends = sequence.computed + count == sequence.prompt_tokens
            slices.append(Slice(sequence, sequence.computed, count, ends))
            budget -= count
        return slices
