"""The router: label, constrain, decide, answer. Also a `Backend`, so that an app can embed it without HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from foreshore.backend import Backend
from foreshore.config import Config
from foreshore.errors import DeadlineExceeded, ForeshoreError
from foreshore.reliability.event import Event
from foreshore.reliability.ledger import Ledger
from foreshore.reliability.prompts import PROMPTS, Prompts
from foreshore.router.decide import Refused, chance
from foreshore.router.exchange import Exchange, code_of, terminal_state
from foreshore.router.factory import Factory
from foreshore.router.facts import RequestFacts
from foreshore.router.kept import of_scene
from foreshore.router.label import Caller, as_tenant
from foreshore.router.loaded import Compiled, Loaded
from foreshore.router.observe import observe
from foreshore.router.surroundings import Surroundings
from foreshore.router.target import Target
from foreshore.router.tenants import Tenants
from foreshore.router.workers import Workers
from foreshore.telemetry import Metrics, logger
from foreshore.types import Chunk, Request, new_id

__all__ = ["LARGE", "Router"]

Made = TypeVar("Made")

LARGE = 20_000  # bytes or characters of content: a few milliseconds of reading


class Router:
    """Give it a config, `start` it, then `open` requests, or `stream` them as from any `Backend`.

    `backends` replaces what the config would build, by target name: a test's fakes, an app's own.
    """

    name = "router"

    def __init__(
        self, config: Config, *, backends: Mapping[str, Backend] | None = None, ledger: Ledger | None = None
    ) -> None:
        self.metrics = Metrics()
        self.config_error = ""  # why the newest config file was refused; "" if it was not
        self._given = dict(backends or {})
        self._retired: set[asyncio.Task[None]] = set()
        self._factory = Factory()
        self._factory.apply(config.runtime)
        self.loaded = self._load(config, Compiled.of(config), {})
        self.metrics.registry.register(Workers(lambda: self.loaded.targets.values()))
        self.ledger = ledger or Ledger(
            config.ledger.file, queue_size=config.ledger.queue, keep_days=config.ledger.keep_days
        )
        self._surroundings = Surroundings(config, self.ledger.file)
        self._prompts: Prompts | None = None
        self._remember(config)

    async def start(self) -> None:
        """Load the local targets. Raises the first failure."""
        await asyncio.to_thread(self._surroundings.follow, self.loaded.config, self.loaded.policy)
        await _start(self.loaded.targets.values())

    async def close(self) -> None:
        """Waits for running streams, then frees every target and writes the ledger out."""
        await asyncio.gather(*(t.close() for t in self.loaded.targets.values()), *self._retired)
        self._factory.close()
        await asyncio.to_thread(self._surroundings.stop)
        await asyncio.to_thread(self.ledger.close)
        if self._prompts is not None:
            await asyncio.to_thread(self._prompts.close)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        exchange = await self.open(request, Caller(tenant=request.tenant, stream=True))
        async with aclosing(exchange.stream()) as chunks:
            async for chunk in chunks:
                yield chunk

    async def open(
        self,
        request: Request,
        caller: Caller,
        *,
        arrived: float | None = None,
        decision_id: str = "",
        choices: int = 1,
    ) -> Exchange:
        """Decide on `request`. A refusal is recorded, then raised. `Chunk.index` tells the answer's `choices` apart."""
        arrived = time.monotonic() if arrived is None else arrived
        decision_id = decision_id or new_id("dec")
        loaded = self.loaded
        loaded.hold()
        facts = RequestFacts(task=request.task, tenant=caller.tenant, stream=caller.stream)
        try:
            request = _with_deadline(request, arrived + loaded.config.limits.timeout)
            request = as_tenant(request, caller, loaded.config.tenants)
            reading = await _aside(request, caller, loaded.read, request, caller)
            facts = reading.facts
            reading = await loaded.judge(reading)
            scene = self._surroundings.scene(facts.tenant, loaded.policy)
            match = loaded.match(facts, scene)
            route = loaded.route(match)
            targets = loaded.estimate(reading, route)
            clearing = await _aside(request, caller, loaded.clear, request, facts, targets, scene)
            decision = loaded.decide(facts, targets, clearing, scene, decision_id, match)
            if reading.notes:
                decision = replace(decision, notes=(*decision.notes, *reading.notes))
            request = _sooner(clearing.request, arrived, decision.deadline_s)
            strategy = loaded.strategy(decision, facts, choices, route)
            if self._prompts is not None and loaded.config.learning.remember and not facts.private:
                self._prompts.keep(decision_id, facts.text)
        except BaseException as error:
            loaded.release()
            self.refuse(error, facts, arrived=arrived, decision_id=decision_id)
            raise
        self.metrics.decision.observe(time.monotonic() - arrived)
        self.metrics.running.inc()
        return Exchange(
            request,
            facts,
            decision,
            strategy,
            decision_id=decision_id,
            arrived=arrived,
            policy=loaded.digest,
            prices={name: target.spec.price for name, target in loaded.targets.items()},
            record=partial(self._end, loaded),
            choices=choices,
            influenced=loaded.compiled.estimator is not None,
            holdout=chance(decision_id, "holdout") < loaded.config.learning.holdout,
            scene=of_scene(scene.device, scene.budget, scene.now, loaded.policy.reads),
        )

    def refuse(self, error: BaseException, facts: RequestFacts, *, arrived: float, decision_id: str) -> None:
        """Record a request that no target was asked."""
        now = time.monotonic()
        event = Event(
            decision_id=decision_id,
            terminal_state=terminal_state(error),
            error_code=code_of(error),
            task=facts.task,
            tenant=facts.tenant,
            rule=error.rule if isinstance(error, Refused) else "",
            policy=self.loaded.digest,
            stream=facts.stream,
            facts=facts.logged(),
            decision_s=now - arrived,
            total_s=now - arrived,
        )
        self._record(self.loaded, event)

    async def reload(self, config: Config) -> None:
        """Swap to `config`, or raise and keep the old. Unchanged targets stay; replaced ones end their streams."""
        compiled = await asyncio.to_thread(Compiled.of, config)
        self._remember(config)
        old = self.loaded
        new = self._load(config, compiled, old.targets)
        fresh = [t for name, t in new.targets.items() if old.targets.get(name) is not t]
        self._factory.apply(config.runtime)
        try:
            await _start(fresh)
        except BaseException:
            self._factory.apply(old.config.runtime)
            await asyncio.gather(*(t.close() for t in fresh))
            raise
        self.loaded = new
        self.config_error = ""
        for name, target in old.targets.items():
            if new.targets.get(name) is not target:
                task = asyncio.create_task(target.close())
                self._retired.add(task)
                task.add_done_callback(self._retired.discard)
        await asyncio.to_thread(self._surroundings.follow, config, new.policy)

    def _remember(self, config: Config) -> None:
        """Have a place for prompts where `learning.remember` says so: beside the ledger."""
        if config.learning.remember and self._prompts is None:
            file = self.ledger.file.with_name(PROMPTS)
            self._prompts = Prompts(file, keep_days=config.ledger.keep_days)

    def refuse_config(self, error: ForeshoreError) -> None:
        """Remember, for /readyz and the metrics, that the newest config could not be taken up."""
        self.config_error = error.message
        self.metrics.config_errors.inc()

    def _load(self, config: Config, compiled: Compiled, running: Mapping[str, Target]) -> Loaded:
        def target(name: str) -> Target:
            old, spec = running.get(name), config.targets[name]
            if old is not None and old.spec == spec:
                return old
            made = self._factory.build(name, spec, self._given.get(name), replaces=old)
            if old is not None:
                made.inherit(old)
            return made

        tenants = Tenants(config)  # first: who may ask is settled before anything is built
        targets = {name: target(name) for name in config.targets}
        return Loaded(
            config=config,
            compiled=compiled,
            tenants=tenants,
            targets=targets,
            encoder=compiled.encoder(config, targets, lambda outcome: self.metrics.encoder.labels(outcome).inc()),
        )

    def _end(self, loaded: Loaded, event: Event) -> None:
        loaded.release()
        self.metrics.running.dec()
        self._record(loaded, event)

    def _record(self, loaded: Loaded, event: Event) -> None:
        """The end of every request: ledger, metrics, one log line."""
        self.ledger.append(event)
        self._surroundings.spend(event.tenant, event.cost)
        self.metrics.ledger_dropped.set(self.ledger.dropped)
        observe(self.metrics, loaded.config, event)
        logger.info(
            "%s %s target=%s rule=%s code=%s %.3fs",
            *(event.decision_id, event.terminal_state, event.target, event.rule, event.error_code, event.total_s),
        )


async def _start(targets: Iterable[Target]) -> None:
    await asyncio.gather(*(target.start() for target in targets))


async def _aside(request: Request, caller: Caller, work: Callable[..., Made], *arguments: Any) -> Made:
    """What `work` makes; in a thread where reading the content would hold other requests up."""
    size = caller.body_bytes or sum(len(str(m.get("content") or "")) for m in request.messages)
    size += sum(map(len, request.inputs)) + len(request.prompt) + len(request.query)
    return work(*arguments) if size < LARGE else await asyncio.to_thread(work, *arguments)


def _sooner(request: Request, arrived: float, seconds: float | None) -> Request:
    """With the deadline that a rule sets, where that is sooner."""
    if seconds is None or request.deadline is None or request.deadline <= arrived + seconds:
        return request
    return replace(request, deadline=arrived + seconds)


def _with_deadline(request: Request, latest: float) -> Request:
    deadline = latest if request.deadline is None else request.deadline
    if deadline <= time.monotonic():
        raise DeadlineExceeded("the request's deadline passed before it was looked at")
    return replace(request, deadline=deadline)
