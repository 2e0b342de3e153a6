"""One target: a backend with its breaker and its measurements around it. Is a `Backend` itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol, runtime_checkable

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
from foreshore.router.ask import Ask
from foreshore.router.breaker import Breaker
from foreshore.router.description import describe, place
from foreshore.router.facts import RequestFacts
from foreshore.router.outlook import Outlook, number_of
from foreshore.router.watch import Watch, timed
from foreshore.types import Chunk, Request

__all__ = ["Ask", "Target", "describe"]


@runtime_checkable
class Startable(Protocol):
    """A backend with something to load before it can answer."""

    async def start(self) -> object: ...


class Asked:
    """A target for one request of which the facts are known: its answer is learned from with them."""

    def __init__(self, target: Target, ask: Ask) -> None:
        self.name = target.name
        self.target, self.ask = target, ask

    def stream(self, request: Request) -> AsyncIterator[Chunk]:
        return self.target.answer(request, self.ask)

    async def close(self) -> None:
        """The target is its owner's to close."""


class Target(Outlook):
    """`stream` asks the breaker, measures, and reports to both. Closed only when nobody holds it any more.

    A request holds every target of its config from its decision to its end: between two attempts none streams.
    """

    def __init__(self, name: str, spec: TargetConfig, backend: Backend, *, breaker: Breaker | None = None) -> None:
        super().__init__(name, spec, backend, breaker or Breaker())
        self._holders = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def inherit(self, old: Target) -> None:
        """Go on with what `old` has learned, where a reload changed neither the model nor where it is."""
        if place(self.spec) == place(old.spec):
            self.meter = old.meter

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

    def asked(self, facts: RequestFacts, route: str = "") -> Asked:
        """This target for the one request of which these are the facts; `route` as given to `facts_for`."""
        return Asked(self, Ask.of(facts, route))

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        async with aclosing(self.answer(request, Ask.about(request))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def answer(self, request: Request, ask: Ask) -> AsyncGenerator[Chunk, None]:
        """As `stream`, of a request that `ask` describes."""
        if not self.breaker.admit():
            wait = self.breaker.retry_after or 1.0
            raise Unavailable(f"target {self.name!r} failed lately and rests", target=self.name, retry_after=wait)
        self.meter.forecaster.slots = number_of(self.backend, "slots")
        watch = Watch(self.meter, self.crowd, ask, self.work(ask), limit=request.sampling.max_tokens)
        self.crowd.here += 1
        self.hold()
        verdict = self.breaker.release
        try:
            async with aclosing(timed(self.backend.stream(request))) as chunks:
                async for chunk in chunks:
                    watch.see(chunk)
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
            watch.heard()
            self.crowd.here -= 1
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

    @property
    def state(self) -> str:
        """The backend's own state (a cloud is always "ready"), or "resting" while the breaker keeps requests away."""
        return "resting" if self.breaker.state == "open" else str(getattr(self.backend, "state", "ready"))


def _no_more() -> None:
    """The breaker has been told already."""
