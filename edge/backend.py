"""The local runtime as a `Backend`: a model on this machine, behind the one seam."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

from foreshore.edge.gguf import inspect
from foreshore.edge.options import EngineOptions, Load, ModelInfo
from foreshore.edge.supervisor import State, Supervisor
from foreshore.errors import DeadlineExceeded
from foreshore.types import Chunk, Request

__all__ = ["LocalBackend"]


class LocalBackend:
    """Answers from a worker process of its own, started by `start` or by the first stream.

    `model` is a variant in the store (`starter-s:q4_k_m`) or a path that ends in `.gguf`. May be used from
    several event loops; after a fork, the child gets a worker of its own. Prompt and answer share the
    context: an answer that reaches its end finishes with `length`, and a prompt that leaves no room for
    one token raises `ContextExceeded`.
    """

    def __init__(self, model: str | Path, *, name: str = "edge", options: EngineOptions | None = None) -> None:
        self.name = name
        self.model = str(model)
        self.options = options or EngineOptions()
        self._lock = threading.Lock()
        self._supervisor: Supervisor | None = None
        self._closed = False

    @property
    def state(self) -> State:
        if self._closed:
            return "closed"
        return "idle" if self._supervisor is None else self._supervisor.state

    @property
    def info(self) -> ModelInfo | None:
        """What was loaded; `None` while nothing is."""
        return None if self._supervisor is None else self._supervisor.info

    @property
    def pid(self) -> int | None:
        return None if self._supervisor is None else self._supervisor.pid

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines of the last worker that ended."""
        return () if self._supervisor is None else self._supervisor.log

    def load(self) -> Load:
        return Load() if self._supervisor is None else self._supervisor.load

    async def start(self) -> ModelInfo:
        """Load the model if it is not. Raises `NotFound`, `ModelError`, or `WorkerDied` where loading crashes."""
        supervisor = self._supervisor
        if supervisor is None:
            supervisor = await asyncio.to_thread(self._open)
        return await asyncio.shield(asyncio.wrap_future(supervisor.ready()))

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        arrived = time.monotonic()
        await self._start_in_time(request)
        assert self._supervisor is not None
        subscription = self._supervisor.submit(request, arrived)
        try:
            async for chunk in subscription:
                yield chunk
        finally:
            subscription.cancel()

    async def close(self) -> None:
        self._closed = True
        if self._supervisor is not None:
            await asyncio.to_thread(self._supervisor.close)

    async def _start_in_time(self, request: Request) -> None:
        left = None if request.deadline is None else request.deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                await self.start()
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed before the model was ready", target=self.name) from error

    def _open(self) -> Supervisor:
        with self._lock:
            if self._supervisor is None:
                path = _resolve(self.model)
                inspect(path)
                self._supervisor = Supervisor(path, self.options, target=self.name)
                if self._closed:
                    self._supervisor.close()
            return self._supervisor


def _resolve(model: str) -> Path:
    if model.endswith(".gguf"):
        return Path(model).expanduser().absolute()
    from foreshore.store import resolve

    return Path(resolve(model).path)
