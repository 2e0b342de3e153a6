"""Tries targets in order until one commits. The one owner of retries: no backend below repeats anything by itself."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from foreshore.backend import Backend
from foreshore.clearance import check
from foreshore.errors import (
    BackendError,
    ContextExceeded,
    DeadlineExceeded,
    ForeshoreError,
    Overloaded,
    Truncated,
    Unavailable,
)
from foreshore.types import Chunk, Request, Usage

__all__ = ["Attempt", "Fallback"]

FIRST_WAIT = 0.25  # seconds before a second round, doubled for each further one, times 0.5 to 1 by chance
LONGEST_WAIT = 10.0  # a target that asks for more is not waited for
NOTHING = Usage(prompt_tokens=0, completion_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    target: str
    error: str = ""  # the error's code; "" for the attempt that answered
    seconds: float = 0.0
    prompt_tokens: int = 0  # spent, where the target said so
    completion_tokens: int = 0
    confidence: float | None = None  # in the answer, where a cascade judged it
    note: str = ""


class Fallback:
    """A `Backend` of backends for one request at a time.

    Before the commit point (the first chunk with content) the next target takes over unseen; after it, a failure is
    the stream's explicit end. Attempts over all targets are budgeted; between rounds over the same targets it waits as
    long as the least patient of them asks. Each target is checked against the clearance, local ones too.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        attempts: int = 3,
        name: str = "fallback",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.attempts: list[Attempt] = []
        self.committed = ""  # the target whose content has been passed on
        self._backends, self._budget, self._sleep = list(backends), attempts, sleep

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        candidates = self._backends
        for turn in itertools.count():
            failures: list[tuple[Backend, ForeshoreError]] = []
            for backend in candidates[: self._budget - len(self.attempts)]:
                try:
                    async with aclosing(self._attempt(backend, request)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    return
                except (BackendError, ContextExceeded) as error:
                    if self.committed or not _another_may(error):
                        raise
                    failures.append((backend, error))
            worst = _gentlest([error for _, error in failures])
            candidates = [b for b, error in failures if isinstance(error, (Unavailable, Overloaded))]
            if not candidates or not await self._pause(turn, worst, request):
                raise worst

    async def close(self) -> None:
        for backend in self._backends:
            await backend.close()

    async def _attempt(self, backend: Backend, request: Request) -> AsyncGenerator[Chunk, None]:
        """One target's answer, from its first content on, under the request's deadline."""
        check(request, backend.name)
        begun, outcome, usage, finished = time.monotonic(), "cancelled", NOTHING, False
        alarm = _Alarm(request.deadline, backend.name)
        try:
            async with aclosing(backend.stream(request)) as source:  # type: ignore[type-var]
                while (chunk := await alarm.next(source)) is not None:
                    usage = chunk.usage or usage
                    finished = finished or chunk.finish_reason is not None
                    if has_content(chunk):
                        self.committed = backend.name
                        yield chunk
            if not finished:
                what = f"target {backend.name!r} ended its answer without a finish reason"
                raise Truncated(what, target=backend.name)
            outcome = ""
        except ForeshoreError as error:
            outcome = error.code
            raise
        finally:
            alarm.stop()
            attempt = Attempt(
                target=backend.name,
                error=outcome,
                seconds=time.monotonic() - begun,
                prompt_tokens=usage.prompt_tokens,
                completion_tokens=usage.completion_tokens,
            )
            self.attempts.append(self._noted(backend, attempt))

    def _noted(self, backend: Backend, attempt: Attempt) -> Attempt:
        """`attempt` with what else is known of it."""
        return attempt

    async def _pause(self, turn: int, error: ForeshoreError, request: Request) -> bool:
        """Wait before another round; False if that is not worth it."""
        asked: float | None = getattr(error, "retry_after", None)
        wait = asked or FIRST_WAIT * 2**turn * random.uniform(0.5, 1.0)
        left = request.deadline - time.monotonic() if request.deadline else LONGEST_WAIT
        if wait > min(LONGEST_WAIT, left) or len(self.attempts) >= self._budget:
            return False
        await self._sleep(wait)
        return True


class _Alarm:
    """Ends the wait for a chunk when an answer's time is up, with one timer for all its chunks."""

    def __init__(self, deadline: float | None, target: str) -> None:
        self._deadline, self._target = deadline, target
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Task[object] | None = None  # for a chunk, right now
        self._rung = False

    async def next(self, source: AsyncIterator[Chunk]) -> Chunk | None:
        """The next chunk of `source`, None at its end. Raises `DeadlineExceeded`."""
        if self._deadline is None:
            return await anext(source, None)
        left = self._deadline - time.monotonic()
        if left <= 0 or self._rung:
            raise self._late()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(left, self._ring)
        self._waiting = task = asyncio.current_task()
        assert task is not None
        before = task.cancelling()
        try:
            chunk = await anext(source, None)
        except BaseException as error:
            if self._rung and task.uncancel() <= before and isinstance(error, asyncio.CancelledError):
                raise self._late() from error
            raise
        finally:
            self._waiting = None
        if self._rung:  # and somebody below did not mind
            task.uncancel()
            raise self._late()
        return chunk

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        self._rung = True
        if self._waiting is not None:
            self._waiting.cancel()

    def _late(self) -> DeadlineExceeded:
        what = f"the request's deadline passed while target {self._target!r} was answering"
        return DeadlineExceeded(what, target=self._target)


def has_content(chunk: Chunk) -> bool:
    """Whether the caller sees anything of `chunk`: the commit point is the first that has."""
    result = chunk.embedding is not None or chunk.score is not None
    return bool(chunk.text or chunk.reasoning or chunk.tool_calls or result or chunk.finish_reason)


def _another_may(error: ForeshoreError) -> bool:
    return isinstance(error, ContextExceeded) or (isinstance(error, BackendError) and error.retryable)


def _gentlest(errors: Sequence[ForeshoreError]) -> ForeshoreError:
    """Of several failures the one to report: that which says it ends soonest, else the first."""
    if not errors:
        return Unavailable("no target is left to try")
    return min(errors, key=lambda e: getattr(e, "retry_after", None) or float("inf"))
