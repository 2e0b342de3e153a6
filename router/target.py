"""One target: a backend with its breaker and its measurements around it. Is a `Backend` itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from foreshore.backend import Backend
from foreshore.config import TargetConfig
from foreshore.errors import (
    BackendError,
    BadRequest,
    ForeshoreError,
    Overloaded,
    Unavailable,
    UpstreamError,
)
from foreshore.router.breaker import Breaker
from foreshore.router.facts import TargetFacts
from foreshore.router.meter import Meter
from foreshore.types import Chunk, Request, Timings

__all__ = ["Target"]


@runtime_checkable
class Startable(Protocol):
    """A backend with something to load before it can answer."""

    async def start(self) -> None: ...


class Target:
    """`stream` asks the breaker, measures, and reports to both. Closed only when its last stream has ended."""

    def __init__(self, name: str, spec: TargetConfig, backend: Backend, *, breaker: Breaker | None = None) -> None:
        self.name, self.spec, self.backend = name, spec, backend
        self.breaker = breaker or Breaker()
        self.meter = Meter()
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load what the backend needs; once for all who wait, and again after a failure."""
        if not isinstance(self.backend, Startable):
            return
        if self._starting is None or (self._starting.done() and _failed(self._starting)):
            self._starting = asyncio.create_task(self.backend.start())
            self._starting.add_done_callback(_failed)  # reads the error, should everyone have stopped waiting
        await asyncio.shield(self._starting)

    async def close(self) -> None:
        """Waits for running streams, then frees the backend."""
        await self._idle.wait()
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await self.backend.close()

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        if not self.breaker.admit():
            wait = self.breaker.retry_after or 1.0
            raise Unavailable(f"target {self.name!r} failed lately and rests", target=self.name, retry_after=wait)
        self.in_flight += 1
        self._idle.clear()
        verdict = self.breaker.release
        try:
            await self._ready()
            async with aclosing(_timed(self.backend.stream(request))) as chunks:
                async for chunk in chunks:
                    if chunk.finish_reason is not None and chunk.timings is not None:
                        self.meter.record(chunk.timings, chunk.usage)
                        verdict = self.breaker.succeed
                    yield chunk
        except BadRequest:
            verdict = self.breaker.succeed  # it is alive: it read the request and refused it
            raise
        except BackendError as error:
            self._judge(error)
            verdict = _no_more
            raise
        except Exception:  # a defect of the backend: cancellation is no Exception
            verdict = self.breaker.fail
            raise
        finally:
            verdict()
            self.in_flight -= 1
            if self.in_flight == 0:
                self._idle.set()

    async def _ready(self) -> None:
        try:
            await self.start()
        except BackendError:
            raise
        except ForeshoreError as error:
            raise Unavailable(
                f"target {self.name!r} could not start: {error.message}", target=self.name, hint=error.hint
            ) from error

    def _judge(self, error: BackendError) -> None:
        """A full queue is no failure; one that names its own wait is believed."""
        if isinstance(error, Overloaded):
            if error.retry_after and not self.spec.local:
                self.breaker.hold(error.retry_after)
            else:
                self.breaker.release()
        elif isinstance(error, (Unavailable, UpstreamError)):
            self.breaker.fail()
        else:
            self.breaker.release()

    def facts(self) -> TargetFacts:
        """What rules may know of it now."""
        load: Any = self.backend.load() if hasattr(self.backend, "load") else None
        return replace(
            describe(self.name, self.spec),
            healthy=self.state in ("ready", "idle"),
            context_tokens=self.spec.context_tokens or _context_of(self.backend),
            waiting=load.waiting if load else 0,
            running=load.running if load else self.in_flight,
            prefill_tokens_per_s=(load.prefill_tokens_per_s or 0.0) if load else 0.0,
            decode_tokens_per_s=(load.decode_tokens_per_s if load else 0.0) or self.meter.decode_tokens_per_s,
            first_token_s=self.meter.first_token_s,
            answer_tokens=self.meter.answer_tokens,
        )

    @property
    def state(self) -> str:
        """ "ready", "idle" (loads at the first request), "starting", "resting" (breaker open), or the backend's own."""
        if self.breaker.state == "open":
            return "resting"
        own = getattr(self.backend, "state", "ready")
        if own in ("ready", "starting"):
            return str(own)
        return "idle" if self._starting is None else str(own)


def describe(name: str, spec: TargetConfig) -> TargetFacts:
    """What the config alone says of a target."""
    return TargetFacts(
        name=name,
        kind=spec.kind,
        model=spec.model,
        local=spec.local,
        context_tokens=spec.context_tokens or 0,
        input_price=spec.price.input,
        output_price=spec.price.output,
    )


async def _timed(chunks: AsyncIterator[Chunk]) -> AsyncGenerator[Chunk, None]:
    """`chunks`, the last with measured timings where the backend gave none."""
    begun = time.monotonic()
    first = 0.0
    async with aclosing(chunks) as source:  # type: ignore[type-var]
        async for chunk in source:
            now = time.monotonic()
            first = first or now
            if chunk.finish_reason is not None and chunk.timings is None:
                tokens = chunk.usage.completion_tokens if chunk.usage else 0
                timings = Timings(ttft_s=first - begun, decode_s=now - first, decode_tokens=tokens)
                chunk = replace(chunk, timings=timings)
            yield chunk


def _context_of(backend: Backend) -> int:
    info = getattr(backend, "info", None)
    return int(getattr(info, "context_tokens", 0) or 0)


def _failed(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is not None


def _no_more() -> None:
    """The breaker has been told already."""
