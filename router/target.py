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
    RoutingError,
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

    async def start(self) -> object: ...


class Target:
    """`stream` asks the breaker, measures, and reports to both. Closed only when nobody holds it any more.

    A request holds every target of its config from its decision to its end: between two attempts none streams.
    """

    def __init__(self, name: str, spec: TargetConfig, backend: Backend, *, breaker: Breaker | None = None) -> None:
        self.name, self.spec, self.backend = name, spec, backend
        self.breaker = breaker or Breaker()
        self.meter = Meter()
        self.in_flight = 0
        self._holders = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def hold(self) -> None:
        """Keep the backend open until `release`."""
        self._holders += 1
        self._idle.clear()

    def release(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            self._idle.set()

    async def start(self) -> None:
        """Load what the backend needs, so that the first request need not wait for it."""
        if isinstance(self.backend, Startable):
            await self.backend.start()

    async def close(self) -> None:
        """Waits for whoever holds it, then frees the backend."""
        await self._idle.wait()
        await self.backend.close()

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        if not self.breaker.admit():
            wait = self.breaker.retry_after or 1.0
            raise Unavailable(f"target {self.name!r} failed lately and rests", target=self.name, retry_after=wait)
        self.in_flight += 1
        self.hold()
        verdict = self.breaker.release
        try:
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
        except RoutingError:
            raise
        except ForeshoreError as error:  # a model that is missing or damaged is this target's trouble, not the caller's
            verdict = self.breaker.fail
            what = f"target {self.name!r} cannot answer: {error.message}"
            raise Unavailable(what, target=self.name, hint=error.hint) from error
        except Exception:  # a defect of the backend; cancellation is no Exception
            verdict = self.breaker.fail
            raise
        finally:
            verdict()
            self.in_flight -= 1
            self.release()

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
            waiting_tokens=load.waiting_tokens if load else 0,
            running=load.running if load else self.in_flight,
            prefill_tokens_per_s=load.prefill_tokens_per_s if load else 0.0,
            decode_tokens_per_s=self.meter.decode_tokens_per_s,
            first_token_s=self.meter.first_token_s,
            answer_tokens=self.meter.answer_tokens,
        )

    @property
    def state(self) -> str:
        """The backend's own state (a cloud is always "ready"), or "resting" while the breaker keeps requests away."""
        return "resting" if self.breaker.state == "open" else str(getattr(self.backend, "state", "ready"))


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


def _no_more() -> None:
    """The breaker has been told already."""
