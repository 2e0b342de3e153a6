"""One request from decision to terminal state. Whatever happens to it, exactly one event goes into the ledger."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from foreshore.config import Price
from foreshore.errors import DeadlineExceeded, ForeshoreError, RoutingError, Truncated, UsageError
from foreshore.reliability.event import Event
from foreshore.router.api.disconnect import ClientGone
from foreshore.router.decide import Decision
from foreshore.router.facts import RequestFacts
from foreshore.router.fallback import Attempt, Fallback
from foreshore.router.kept import of_target
from foreshore.types import Chunk, Request, TerminalState, Timings, Usage

__all__ = ["Exchange", "terminal_state"]

Record = Callable[[Event], None]
CANCELLED: tuple[TerminalState, str] = ("cancelled", "")


class Exchange:
    """A decided request. Consume `stream` once, then `close`; `target` is known from its first chunk on."""

    def __init__(
        self,
        request: Request,
        facts: RequestFacts,
        decision: Decision,
        strategy: Fallback,
        *,
        decision_id: str,
        arrived: float,
        policy: str,
        prices: dict[str, Price],
        record: Record,
        choices: int = 1,
        influenced: bool = False,
        holdout: bool = False,
        scene: Mapping[str, Any] | None = None,
    ) -> None:
        """`policy` is the version that decided. `influenced`, `holdout` and `scene` as in `Event`."""
        self._scene = scene
        self.id, self.policy = decision_id, policy
        self._influenced, self._holdout = influenced, holdout
        self._choices = choices  # that have not ended
        self.request, self.facts, self.decision = request, facts, decision
        self._strategy, self._arrived, self._prices = strategy, arrived, prices
        self._record: Record | None = record  # None once the event is recorded
        self._decision_s = time.monotonic() - arrived
        self._first = 0.0
        self._usage: Usage | None = None
        self._timings: Timings | None = None

    @property
    def target(self) -> str:
        """Whose answer this is; "" until a target has committed."""
        return self._strategy.committed

    async def stream(self) -> AsyncGenerator[Chunk, None]:
        """The answer. The event is recorded when this ends, fails, or is closed early."""
        state, code = CANCELLED
        try:
            async with aclosing(self._strategy.stream(self.request)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    self._see(chunk)
                    self._choices -= chunk.finish_reason is not None
                    if self._choices == 0:
                        state = "complete"
                    yield chunk
        except Exception as error:
            state, code = terminal_state(error), code_of(error)
            raise
        finally:
            self._end(state, code)

    def close(self) -> None:
        """Says that nobody will consume `stream` any more: an answer never begun counts as cancelled."""
        self._end(*CANCELLED)

    def _end(self, state: TerminalState, code: str) -> None:
        record, self._record = self._record, None
        if record is not None:
            record(self._event(state, code))

    def _see(self, chunk: Chunk) -> None:
        self._first = self._first or time.monotonic()
        self._usage = chunk.usage or self._usage
        self._timings = chunk.timings or self._timings

    def _event(self, state: TerminalState, code: str) -> Event:
        now = time.monotonic()
        return Event(
            decision_id=self.id,
            terminal_state=state,
            error_code=code,
            task=self.facts.task,
            tenant=self.facts.tenant,
            rule=self.decision.rule,
            target=self.target,
            policy=self.policy,
            propensity=self.decision.propensity,
            strategy=self.decision.strategy,
            explored=self.decision.explored,
            influenced=self._influenced,
            holdout=self._holdout,
            stream=self.facts.stream,
            facts=self.facts.logged(),
            targets=self.decision.targets,
            estimates={name: of_target(target) for name, target in self.decision.estimates.items()},
            scene=self._scene,
            attempts=[asdict(attempt) for attempt in self._strategy.attempts],
            usage=self._usage,
            timings=self._timings,
            cost=sum(map(self._cost, self._strategy.attempts)),
            decision_s=self._decision_s,
            ttft_s=self._first - self._arrived if self._first else 0.0,
            total_s=now - self._arrived,
        )

    def _cost(self, attempt: Attempt) -> float:
        """US dollars, also of an answer that was thrown away."""
        price = self._prices.get(attempt.target, Price())
        return (attempt.prompt_tokens * price.input + attempt.completion_tokens * price.output) / 1e6


def terminal_state(error: BaseException) -> TerminalState:
    """How a request that failed with `error` ended."""
    if not isinstance(error, Exception) or isinstance(error, ClientGone):
        return "cancelled"
    if isinstance(error, DeadlineExceeded):
        return "deadline"
    if isinstance(error, RoutingError):
        return "policy_abort"
    if isinstance(error, UsageError):
        return "rejected"
    return "truncated" if isinstance(error, Truncated) else "upstream_error"


def code_of(error: BaseException) -> str:
    return error.code if isinstance(error, ForeshoreError) else "internal_error"
