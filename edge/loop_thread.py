"""An event loop in a thread of its own, for code that has none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Generic, TypeVar

from foreshore.errors import Unavailable

__all__ = ["LoopThread"]

T = TypeVar("T")


class _Job(Generic[T]):
    """What a caller waits for: a bare lock, since Ctrl-C within a `threading.Condition` can leave it broken."""

    def __init__(self) -> None:
        self.ended = threading.Lock()
        self.ended.acquire()
        self.value: T
        self.error: BaseException | None = None

    def result(self) -> T:
        self.ended.acquire()
        if self.error is not None:
            raise self.error
        return self.value


class LoopThread:
    """`call` runs a coroutine there and waits for it; from any number of threads. The thread starts with first use.

    No caller ever holds a task, not even for the moment in which it is freed: asyncio has weak references to tasks,
    Python drops a `KeyboardInterrupt` that is raised within a weak reference's callback, and a caller's thread is
    where Ctrl-C comes.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: dict[_Job[Any], asyncio.Task[Any]] = {}  # only the loop's thread touches it
        self._lock = threading.RLock()  # the garbage collector may come here while this thread holds it
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def current(self) -> bool:
        """Whether this is the loop's own thread, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Raises `Unavailable` after `close`. If the caller is interrupted, the work is cancelled."""
        job: _Job[T] = _Job()
        try:
            self._submit(work, job)
            return job.result()
        except BaseException:  # KeyboardInterrupt above all: the caller no longer waits
            self._cancel(job)
            raise

    def start(self, work: Coroutine[Any, Any, object]) -> None:
        """Run it there without waiting."""
        self._submit(work, _Job())

    def close(self, last: Coroutine[Any, Any, object]) -> None:
        """Run `last`, cancel what is left, end the thread; harmless twice, and where the loop was never used."""
        job: _Job[object] = _Job()
        with self._lock:
            closed, self._closed = self._closed, True
            loop, thread = self._loop, self._thread
            if closed or loop is None or thread is None or not thread.is_alive():  # or this is a fork of where it ran
                last.close()
                return
            loop.call_soon_threadsafe(self._begin, last, job)
        try:
            job.result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _submit(self, work: Coroutine[Any, Any, T], job: _Job[T]) -> None:
        try:
            with self._lock:  # so that nothing is handed to a loop that `close` has stopped
                self._running_loop().call_soon_threadsafe(self._begin, work, job)
        except Unavailable:  # only here the loop surely has not got it: Ctrl-C may come when it already runs there
            work.close()
            raise

    def _begin(self, work: Coroutine[Any, Any, T], job: _Job[T]) -> None:
        task = self._tasks[job] = asyncio.ensure_future(work)
        task.add_done_callback(lambda done: self._end(job, done))

    def _end(self, job: _Job[T], task: asyncio.Task[T]) -> None:
        del self._tasks[job]
        if task.cancelled():
            job.error = asyncio.CancelledError()
        elif (error := task.exception()) is not None:
            job.error = error
        else:
            job.value = task.result()
        job.ended.release()

    def _cancel(self, job: _Job[Any]) -> None:
        def cancel() -> None:
            if (task := self._tasks.get(job)) is not None:
                task.cancel()

        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: there is nothing left to cancel
                self._loop.call_soon_threadsafe(cancel)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise Unavailable("the runtime was closed", retryable=False)
            if self._loop is None or self._thread is None or not self._thread.is_alive():  # first use, or after a fork
                self._loop, self._tasks = asyncio.new_event_loop(), {}
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name=self._name, daemon=True)
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
