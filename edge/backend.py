"""The local runtime as a `Backend`: a model on this machine, behind the one seam."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TypeVar

from foreshore.edge.memory import Estimate
from foreshore.edge.onnx.folder import is_onnx, model_file, open_folder
from foreshore.edge.options import EngineOptions, Load, ModelInfo
from foreshore.edge.pool import SHARED, Pool
from foreshore.edge.quarantine import Quarantine
from foreshore.edge.seat import Seat
from foreshore.edge.supervisor import State, Supervisor
from foreshore.errors import DeadlineExceeded, ForeshoreError, Unavailable
from foreshore.types import Chunk, Request

__all__ = ["LocalBackend"]

T = TypeVar("T")


class LocalBackend:
    """Answers from a worker process of its own, started by `start` or by the first stream.

    `model` is a variant in the store (`starter-s:q4_k_m`), a path that ends in `.gguf`, or an ONNX model: a folder
    with `model.onnx`, or a path that ends in `.onnx`. May be used from several event loops; after a fork, the child
    gets a worker of its own. Prompt and answer share the context: an answer that reaches its end finishes with
    `length`, and a prompt that leaves no room for one token raises `ContextExceeded`.

    `pool` shares the memory among backends, by default among all of this process. `keep_alive` is how many seconds
    after its last request the model stays loaded: 0 unloads at once, `None` only when another model needs the room.
    `replaces` names a backend that this one is to succeed: what does not fit beside each other is loaded one after the
    other, running streams end where they began, and new ones wait.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str = "edge",
        options: EngineOptions | None = None,
        pool: Pool | None = None,
        keep_alive: float | None = None,
        replaces: LocalBackend | None = None,
    ) -> None:
        self.name = name
        self.keep_alive = keep_alive
        self.pool = pool or SHARED
        self._lock = threading.Lock()
        self._retired: set[Seat] = set()
        self._closed = False
        self._take(str(model), options or EngineOptions(), None if replaces is None else replaces._seat)

    def _take(self, model: str, options: EngineOptions, predecessor: Seat | None) -> None:
        self.model, self.options = model, options
        self._seat = self._seat_for(model, options, predecessor)

    def _seat_for(self, model: str, options: EngineOptions, predecessor: Seat | None) -> Seat:
        return Seat(
            partial(_resolve, model),
            options,
            target=self.name,
            pool=self.pool,
            keep_alive=self.keep_alive,
            predecessor=predecessor,
        )

    @property
    def state(self) -> State:
        return "closed" if self._closed else self._seat.state

    @property
    def info(self) -> ModelInfo | None:
        """What was loaded, also when it has been unloaded since; `None` before the first time."""
        return self._seat.info

    @property
    def memory(self) -> Estimate | None:
        """What the loaded model may take; `None` while nothing is loaded."""
        return self._seat.place.need

    @property
    def pid(self) -> int | None:
        return None if self._supervisor is None else self._supervisor.pid

    @property
    def restarts(self) -> int:
        """Workers that ended unasked and were replaced."""
        return 0 if self._supervisor is None else self._supervisor.restarts

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines of the last worker that ended."""
        return () if self._supervisor is None else self._supervisor.log

    @property
    def quarantine(self) -> Quarantine | None:
        """Requests that are not tried again, for workers died of them; `clear` forgives them all."""
        return None if self._supervisor is None else self._supervisor.quarantine

    def load(self) -> Load:
        return self._seat.load()

    async def start(self) -> ModelInfo:
        """Load the model if it is not.

        Raises `NotFound`, `ModelError`, `SetupError` where memory is short, or `WorkerDied` where loading crashes.
        """
        seat = await self._enter()
        seat.pool.leave(seat.place)
        assert seat.info is not None
        return seat.info

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        arrived = time.monotonic()
        seat = await self._enter_in_time(request)
        try:
            subscription = seat.submit(request, arrived)
            try:
                async for chunk in subscription:
                    yield chunk
            finally:
                subscription.cancel()
        finally:
            seat.pool.leave(seat.place)

    async def swap(self, model: str | Path, *, options: EngineOptions | None = None) -> ModelInfo:
        """Answer with another model from now on, without a request that fails.

        It is loaded beside the present one where memory allows, else once that one's streams have ended; until it is
        loaded new requests go to the old one, or wait. Raises as `start`, and then all is as before.
        """
        heir = self._seat_for(str(model), options or self.options, self._seat)
        heir.pool.enter(heir.place)
        try:
            info = await _result(heir.ready())
        except BaseException:
            await asyncio.to_thread(heir.close)
            raise
        finally:
            heir.pool.leave(heir.place)
        with self._lock:
            old, self._seat = self._seat, heir
            self.model, self.options = str(model), options or self.options
            self._retired.add(old)
        threading.Thread(target=self._retire, args=(old,), name="foreshore-retirer", daemon=True).start()
        return info

    async def close(self) -> None:
        self._closed = True
        with self._lock:
            seats = [self._seat, *self._retired]
        await asyncio.gather(*(asyncio.to_thread(seat.close) for seat in seats))

    @property
    def _supervisor(self) -> Supervisor | None:
        return self._seat.supervisor

    async def _enter_in_time(self, request: Request) -> Seat:
        left = None if request.deadline is None else request.deadline - time.monotonic()
        try:
            async with asyncio.timeout(left):
                return await self._enter()
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed before the model was ready", target=self.name) from error

    async def _enter(self) -> Seat:
        """A seat that is ready and stays so until its place is left."""
        while True:
            seat = await self._open_seat()
            gone = seat.pool.enter(seat.place)
            if gone is not None:
                await _result(gone)
                continue
            try:
                await _result(seat.ready())
                return seat
            except BaseException as error:
                seat.pool.leave(seat.place)
                if seat is self._seat or self._closed or not isinstance(error, ForeshoreError):
                    raise

    async def _open_seat(self) -> Seat:
        """Ours, or its heir's where ours has given its memory to that one."""
        seat = self._seat
        if self._closed:
            raise Unavailable("the local runtime was closed", target=self.name, retryable=False)
        while (heir := seat.heir) is not None and not seat.place.loaded:
            try:
                await _result(heir.ready())
            except ForeshoreError:  # the heir cannot take over: the old one goes on
                return seat
            seat = heir
        return seat

    def _retire(self, seat: Seat) -> None:
        self.pool.vacate(seat.place)
        seat.close()
        with self._lock:
            self._retired.discard(seat)


async def _result(future: Future[T]) -> T:
    """The future's result; it goes on when we are cancelled, for others wait too."""
    inner = asyncio.wrap_future(future)
    inner.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, should all who asked be gone
    return await asyncio.shield(inner)


def _resolve(model: str) -> Path:
    """The file that the worker is to open."""
    if is_onnx(model):
        path = model_file(model)
        open_folder(path)  # so that a damaged or hostile one costs no process
        return path
    if model.endswith(".gguf"):
        return Path(model).expanduser().absolute()
    from foreshore.store import resolve

    return Path(resolve(model).path)
