"""One target: a backend with its breaker and its measurements around it. Is a `Backend` itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

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
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.fallback import has_content
from foreshore.router.latency.cold_start import measured
from foreshore.router.latency.forecast import Forecast, Forecaster, Speeds, Work
from foreshore.router.meter import Meter
from foreshore.types import Chunk, Request, Timings

__all__ = ["Ask", "Target", "describe"]


@runtime_checkable
class Startable(Protocol):
    """A backend with something to load before it can answer."""

    async def start(self) -> object: ...


class Ask(NamedTuple):
    """What of a request bears on how long it takes. Requests of one `route` and tenant are alike: a rule's name, or,
    where none is known, the kind of request."""

    prompt_tokens: int = 0  # estimated
    max_tokens: int = 0
    route: str = ""
    tenant: str = ""

    @classmethod
    def of(cls, facts: RequestFacts, route: str = "") -> Ask:
        if not route:
            tools, json = "+tools" if facts.has_tools else "", "+json" if facts.wants_json else ""
            route = f"{facts.task}{tools}{json}{'+turns' if facts.messages > 2 else ''}"
        return cls(prompt_tokens=facts.prompt_tokens, max_tokens=facts.max_tokens, route=route, tenant=facts.tenant)

    @classmethod
    def about(cls, request: Request) -> Ask:
        """A rough one, for a target that is asked without facts."""
        texts = [m.get("content") for m in request.messages] or [request.prompt or request.query, *request.inputs]
        length = sum(len(text) if isinstance(text, (str, tuple)) else len(str(text)) for text in texts)
        return cls(
            prompt_tokens=length // 4,
            max_tokens=request.sampling.max_tokens or 0,
            route=request.task,
            tenant=request.tenant,
        )


class Asked:
    """A target for one request of which the facts are known: its answer is learned from with them."""

    def __init__(self, target: Target, ask: Ask) -> None:
        self.name = target.name
        self.target, self.ask = target, ask

    def stream(self, request: Request) -> AsyncIterator[Chunk]:
        return self.target.answer(request, self.ask)

    async def close(self) -> None:
        """The target is its owner's to close."""


class Target:
    """`stream` asks the breaker, measures, and reports to both. Closed only when nobody holds it any more.

    A request holds every target of its config from its decision to its end: between two attempts none streams.
    """

    def __init__(self, name: str, spec: TargetConfig, backend: Backend, *, breaker: Breaker | None = None) -> None:
        self.name, self.spec, self.backend = name, spec, backend
        self.breaker = breaker or Breaker()
        self.meter = Meter(forecaster=Forecaster(measured(spec)))
        self.in_flight = 0
        self._fixed = _fixed(name, spec)
        self._unheard = 0  # requests without a first token yet
        self._unheard_tokens: dict[str, int] = {}  # of their prompts, by tenant
        self._holders = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def inherit(self, old: Target) -> None:
        """Go on with what `old` has learned, where a reload changed neither the model nor where it is."""
        if _place(self.spec) == _place(old.spec):
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
        self.meter.forecaster.slots = _number_of(self.backend, "slots")
        watch = _Watch(self, ask, limit=request.sampling.max_tokens)
        self.in_flight += 1
        self.hold()
        verdict = self.breaker.release
        try:
            async with aclosing(_timed(self.backend.stream(request))) as chunks:
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

    def work(self, ask: Ask) -> Work:
        """What `ask` would find here now."""
        tokens, cached = self.meter.forecaster.prompts.expect(ask.route, ask.tenant, ask.prompt_tokens)
        ahead = sum(self._unheard_tokens.values())
        return Work(
            prompt_tokens=tokens,
            cached_tokens=cached,
            waiting_tokens=ahead,
            rival_tokens=ahead - self._unheard_tokens.get(ask.tenant, 0),
            running=self.in_flight - self._unheard,
            waiting=self._unheard,
            max_tokens=ask.max_tokens,
            route=ask.route,
            tenant=ask.tenant,
            loaded=self.loaded,
        )

    def forecast(self, facts: RequestFacts, route: str = "") -> Forecast:
        """Of a request that came now. Made up of guesses while `known` is false."""
        return self.meter.forecaster.predict(self.work(Ask.of(facts, route)))

    def facts(self) -> TargetFacts:
        """What rules may know of it now, whatever the request."""
        return TargetFacts(**self._fixed, **self._state())

    def facts_for(self, facts: RequestFacts, route: str = "") -> TargetFacts:
        """What rules may know of it now for this request: `facts` with predictions. All but cost and quality."""
        state = self._state()
        forecaster = self.meter.forecaster
        if not forecaster.known and state["prefill_tokens_per_s"]:
            forecaster.tell(Speeds(prefill_tokens_per_s=state["prefill_tokens_per_s"]))
        if forecaster.known:
            made = self.forecast(facts, route)
            state["ttft_s"], state["ttft_p90_s"] = made.ttft_s, made.ttft_p90_s
            state["total_s"], state["p90_s"] = made.total_s, made.p90_s
            state["answer_tokens"] = made.answer_tokens
            if facts.deadline_s:
                state["on_time"] = made.within(facts.deadline_s)
        return TargetFacts(**self._fixed, **state)

    def _state(self) -> dict[str, Any]:
        """The fields of `TargetFacts` that change."""
        load: Any = self.backend.load() if hasattr(self.backend, "load") else None
        meter, running = self.meter, self.in_flight if load is None else load.running
        state, breaker = getattr(self.backend, "state", "ready"), self.breaker.state
        return {
            "loaded": state == "ready",
            "healthy": breaker != "open" and state in ("ready", "idle"),
            "breaker": _BREAKER[breaker],
            "context_tokens": self.spec.context_tokens or _number_of(self.backend, "context_tokens"),
            "waiting": 0 if load is None else max(load.waiting, self.in_flight - running),
            "waiting_tokens": 0 if load is None else load.waiting_tokens,
            "running": running,
            "prefill_tokens_per_s": 0.0 if load is None else load.prefill_tokens_per_s,
            "decode_tokens_per_s": meter.decode_tokens_per_s,
            "first_token_s": meter.first_token_s,
            "answer_tokens": meter.answer_tokens,
        }

    @property
    def loaded(self) -> bool:
        """False while a model must be loaded first."""
        return getattr(self.backend, "state", "ready") == "ready"

    @property
    def state(self) -> str:
        """The backend's own state (a cloud is always "ready"), or "resting" while the breaker keeps requests away."""
        return "resting" if self.breaker.state == "open" else str(getattr(self.backend, "state", "ready"))


def describe(name: str, spec: TargetConfig) -> TargetFacts:
    """What the config alone says of a target."""
    return TargetFacts(**_fixed(name, spec), context_tokens=spec.context_tokens or 0)


def _fixed(name: str, spec: TargetConfig) -> dict[str, Any]:
    return {
        "name": name,
        "kind": spec.kind,
        "model": spec.model,
        "local": spec.local,
        "tags": spec.tags,
        "json": spec.kind != "anthropic",  # its Messages API has no response format
        "images": not spec.local,
        "input_price": spec.price.input,
        "output_price": spec.price.output,
    }


def _place(spec: TargetConfig) -> tuple[Any, ...]:
    """What bears on how long a target takes."""
    return spec.kind, spec.model, spec.base_url, spec.engine


class _Watch:
    """One answer's clock: from asking, on time.monotonic."""

    __slots__ = ("_ask", "_begun", "_first", "_limit", "_target", "_tokens", "_work")

    def __init__(self, target: Target, ask: Ask, *, limit: int | None) -> None:
        self._target, self._ask, self._work, self._limit = target, ask, target.work(ask), limit
        self._begun, self._first = time.monotonic(), 0.0
        self._tokens = max(1, self._work.prompt_tokens - self._work.cached_tokens)
        self._count(1)

    def see(self, chunk: Chunk) -> None:
        if not self._first and has_content(chunk):
            self._first = time.monotonic()
            self.heard()
        if chunk.finish_reason is not None and self._first:
            self._end(chunk)

    def heard(self) -> None:
        """It has a first token, or will never have one. Twice is harmless."""
        if self._tokens:
            self._count(-1)
            self._tokens = 0

    def _count(self, sign: int) -> None:
        target, tenant = self._target, self._work.tenant
        target._unheard += sign
        tokens = target._unheard_tokens.pop(tenant, 0) + sign * self._tokens
        if tokens:
            target._unheard_tokens[tenant] = tokens

    def _end(self, chunk: Chunk) -> None:
        """A whole answer. What it took after its first token is what the backend measured: the caller's pace is not
        the target's."""
        now = time.monotonic()
        decode_s = chunk.timings.decode_s if chunk.timings is not None else now - self._first
        cut = chunk.finish_reason == "length" and self._limit is not None
        ttft_s = self._first - self._begun
        total_s, estimate = ttft_s + decode_s, self._ask.prompt_tokens
        self._target.meter.learn(self._work, estimate, chunk.usage, ttft_s=ttft_s, total_s=total_s, cut=cut)


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


def _number_of(backend: Backend, what: str) -> int:
    """Of a loaded model; 0 where it does not say."""
    return int(getattr(getattr(backend, "info", None), what, 0) or 0)


_BREAKER = {"closed": "closed", "open": "open", "half-open": "half_open"}


def _no_more() -> None:
    """The breaker has been told already."""
