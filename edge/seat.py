"""A model that is in memory while it is needed: whoever comes first loads it, the pool unloads it for another."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import psutil

from foreshore.edge.memory import estimate
from foreshore.edge.options import EngineOptions, Load, ModelInfo
from foreshore.edge.pool import Place, Pool
from foreshore.edge.subscription import Subscription
from foreshore.edge.supervisor import State, Supervisor
from foreshore.errors import Unavailable
from foreshore.types import Request

__all__ = ["Seat"]


class Seat:
    """`ready` -> `submit`, between `pool.enter(seat.place)` and `leave`. All methods may be called from any thread.

    `predecessor` is the seat that this one is to take over from: it gives way first where both do not fit, and its
    new requests then go to this one.
    """

    def __init__(
        self,
        find: Callable[[], Path],
        options: EngineOptions,
        *,
        target: str,
        pool: Pool,
        keep_alive: float | None,
        predecessor: Seat | None = None,
    ) -> None:
        self._find, self._options, self._target = find, options, target
        self.pool = pool
        self.heir: Seat | None = None
        self.info: ModelInfo | None = None
        self._predecessor = predecessor
        self._supervisor: Supervisor | None = None
        self._threads: int | None = None
        self.place: Place = Place(
            target, self, keep_alive=keep_alive, before=None if predecessor is None else predecessor.place
        )
        self._reset()
        pool.add(self.place)
        _alive.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._opening: Future[ModelInfo] | None = None

    @property
    def state(self) -> State:
        if self.place.closed:
            return "closed"
        if self._opening is not None:
            return "starting"
        return "idle" if self._supervisor is None else self._supervisor.state

    @property
    def supervisor(self) -> Supervisor | None:
        return self._supervisor

    def load(self) -> Load:
        return Load() if self._supervisor is None else self._supervisor.load

    def ready(self) -> Future[ModelInfo]:
        """Resolves when requests can be submitted; loads the model if it is not. Must not be cancelled."""
        with self._lock:
            if self._opening is not None:
                return self._opening
            supervisor = self._supervisor
            if supervisor is not None and self.place.loaded and supervisor.state != "failed":
                return supervisor.ready()
            opening = self._opening = Future()
        if self._predecessor is not None:
            self._predecessor.heir = self
        threading.Thread(target=self._open, args=(opening,), name="foreshore-loader", daemon=True).start()
        return opening

    def submit(self, request: Request, arrived: float) -> Subscription:
        assert self._supervisor is not None
        return self._supervisor.submit(request, arrived)

    def set_threads(self, threads: int | None) -> None:
        """As `Supervisor.set_threads`."""
        self._threads = threads
        if self._supervisor is not None:
            self._supervisor.set_threads(threads)

    @property
    def thread_count(self) -> int:
        """Threads that it computes with when nothing holds it back."""
        return self._options.thread_count

    def close(self) -> None:
        """End the worker and all open streams. Blocks; twice is harmless."""
        if self._predecessor is not None and self._predecessor.heir is self:
            self._predecessor.heir = None
        self._predecessor = None
        self.pool.close(self.place)
        with self._lock:
            supervisor = self._supervisor
        if supervisor is not None:
            supervisor.close()

    def unload(self) -> None:
        if self._supervisor is not None:
            self._supervisor.stop()

    def private_bytes(self) -> int:
        """What the worker holds by now, without the file's pages: those the kernel counts as free."""
        pid = None if self._supervisor is None else self._supervisor.pid
        try:
            memory = None if pid is None else psutil.Process(pid).memory_info()
        except psutil.Error:  # it ended meanwhile
            memory = None
        return 0 if memory is None else max(0, memory.rss - getattr(memory, "shared", 0))

    # The loader's thread

    def _open(self, opening: Future[ModelInfo]) -> None:
        try:
            info = self._load()
        except BaseException as error:
            self.pool.forget(self.place)
            with self._lock:
                self._opening = None
            opening.set_exception(error)
        else:
            self.info = info
            with self._lock:
                self._opening = None
            opening.set_result(info)

    def _load(self) -> ModelInfo:
        path = self._find()
        need = estimate(path, self._options)
        self.pool.claim(self.place, need)
        with self._lock:
            if self._supervisor is None:
                self._supervisor = Supervisor(path, self._options, target=self._target)
            supervisor = self._supervisor
        if self.place.closed:
            supervisor.close()
            raise Unavailable("the local runtime was closed", target=self._target, retryable=False)
        supervisor.set_threads(self._threads)
        return supervisor.ready().result()


_alive: weakref.WeakSet[Seat] = weakref.WeakSet()


def _after_fork() -> None:
    for seat in list(_alive):
        seat._reset()


os.register_at_fork(after_in_child=_after_fork)
