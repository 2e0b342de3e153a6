"""Keeps one worker alive and shares it among streams.

One thread per worker reads its socket; consumers may be on any event loop, even on several. When the
worker dies, every open stream ends with `WorkerDied` and a new worker is started, at once the first
time, later with growing pauses. One that stops answering, or is stuck in one step, is killed and counts as dead.
"""

from __future__ import annotations

import itertools
import logging
import os
import selectors
import signal
import threading
import time
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Literal

from foreshore.clearance import digest
from foreshore.edge.child import CRASHES, Child
from foreshore.edge.heartbeat import Heartbeat
from foreshore.edge.options import EngineOptions, Load, ModelInfo
from foreshore.edge.protocol import Cancel, Failed, Message, Ping, Pong, Ready, Results, SetThreads, Start, Submit
from foreshore.edge.quarantine import Quarantine
from foreshore.edge.subscription import Subscription
from foreshore.errors import BadRequest, ForeshoreError, Unavailable, UpstreamError, WorkerDied
from foreshore.types import Chunk, Request

__all__ = ["State", "Supervisor"]

State = Literal["idle", "starting", "ready", "failed", "closed"]
MAX_PAUSE_S = 30.0
STEADY_S = 60.0  # a worker that lived this long died for a new reason
_log = logging.getLogger("foreshore")


class Supervisor:
    """`ready` -> `submit` as often as wanted -> `stop`, and so on -> `close`. Methods may be called from any thread."""

    def __init__(self, path: Path, options: EngineOptions, *, target: str) -> None:
        self._path, self._options, self._target = path, options, target
        self._numbers = itertools.count(1)
        self.quarantine = Quarantine()
        self._threads: int | None = None  # None: as the options say
        self._reset()
        _alive.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._streams: dict[str, Subscription] = {}
        self._ready: Future[ModelInfo] = Future()
        self._thread: threading.Thread | None = None
        self._child: Child | None = None
        self._early_deaths = 0
        self._retry_at = 0.0
        self.state: State = "idle"
        self.load = Load()
        self.restarts = 0  # workers that ended unasked and were replaced
        self._log: tuple[str, ...] = ()  # of the worker that ended last

    @property
    def pid(self) -> int | None:
        """The worker's process id, while there is one."""
        child = self._child
        return None if child is None else child.process.pid

    @property
    def log(self) -> tuple[str, ...]:
        """The last lines that the worker wrote, or the one before it."""
        child = self._child
        return self._log if child is None else tuple(child.log)

    @property
    def info(self) -> ModelInfo | None:
        ready = self._ready
        return ready.result() if ready.done() and ready.exception() is None else None

    def ready(self) -> Future[ModelInfo]:
        """Resolves when a worker can take requests; starts one if none is there. Must not be cancelled."""
        with self._lock:
            self._refuse_closed()
            if self._thread is None and (self.state == "idle" or time.monotonic() >= self._retry_at):
                self.state = "starting"
                self._ready = Future()
                self._thread = threading.Thread(target=self._run, name="foreshore-supervisor", daemon=True)
                self._thread.start()
            return self._ready

    def submit(self, request: Request, arrived: float) -> Subscription:
        """Send `request` to the worker. Raises `BadRequest` for one in quarantine, `Unavailable` without a worker."""
        key = _key(request)
        if self.quarantine.holds(key):
            raise BadRequest(
                f"this request was running when the worker crashed or hung {self.quarantine.deaths(key)} times; "
                "it is not tried again for a while",
                hint="change the request, and run `foreshore doctor`",
            )
        number = str(next(self._numbers))
        with self._lock:
            self._refuse_closed()
            child = self._child
            if child is None or self.state != "ready":
                raise Unavailable("the worker is being restarted", target=self._target, retry_after=1.0)
            stream = Subscription(number, key, lambda: self._cancel(child, number))
            try:
                child.send(Submit(request=replace(request, id=number, clearance=None), arrived=arrived))
            except (TypeError, ValueError, RecursionError) as error:
                raise _not_json(error) from error
            self._streams[number] = stream
        return stream

    def set_threads(self, threads: int | None) -> None:
        """Compute with so many threads from the next step on, also in workers to come; `None`: as the options say."""
        with self._lock:
            if threads == self._threads:
                return
            self._threads = threads
            if self._child is not None and self.state == "ready":
                self._child.send(SetThreads(threads=threads or self._options.thread_count))

    def stop(self) -> None:
        """End the worker and, with an error, all open streams; `ready` starts another. Blocks until the process is
        gone."""
        self._end("idle", "the model was unloaded")

    def close(self) -> None:
        """As `stop`, for good. Twice is harmless."""
        self._end("closed", "the local runtime was closed")

    def _end(self, state: State, why: str) -> None:
        with self._lock:
            if self.state == "closed":
                state = "closed"
            self.state = state
            self._closing.set()
            thread = self._thread
            self._end_streams(lambda: Unavailable(why, target=self._target))
            if self._ready.done():
                self._ready = Future()
            self._ready.set_exception(Unavailable(why, target=self._target))
            if self._child is not None:
                self._child.hang_up()
        if thread is not None:
            thread.join()
        with self._lock:
            if self._thread is thread and self.state == "idle":
                self._thread, self._closing = None, threading.Event()

    def abandon(self) -> None:
        """In a forked child: the worker belongs to the parent; start afresh when needed."""
        if self._child is not None:
            self._child.abandon()
        closed = self.state == "closed"
        self._reset()
        if closed:
            self.state = "closed"

    def _cancel(self, child: Child, number: str) -> None:
        with self._lock:
            if self._streams.pop(number, None) is not None:
                child.send(Cancel(id=number))

    def _refuse_closed(self) -> None:
        if self.state == "closed":
            raise Unavailable("the local runtime was closed", target=self._target, retryable=False)

    # The supervisor's thread

    def _run(self) -> None:
        """Workers one after the other, until closed or until one cannot even start."""
        while not self._closing.is_set():
            born = time.monotonic()
            try:
                child = Child()
            except ForeshoreError as error:
                self._fail(error)
                return
            with self._lock:
                self._child = child
            child.send(Start(path=str(self._path), options=self._options))
            refused = self._serve(child)
            if not self._bury(child, refused, lived_s=time.monotonic() - born):
                return
            self._closing.wait(self._pause_s())

    def _serve(self, child: Child) -> ForeshoreError | None:
        """Pass messages on until the worker ends; its own reason for not starting, if it gave one."""
        refused: ForeshoreError | None = None
        heart = Heartbeat(self._options.heartbeat_s, time.monotonic())
        with selectors.DefaultSelector() as selector:
            selector.register(child.socket, selectors.EVENT_READ)
            selector.register(child.log_stream, selectors.EVENT_READ)
            while not self._closing.is_set():
                events = {key.fileobj for key, _ in selector.select(heart.wait_s(time.monotonic()))}
                now = time.monotonic()
                heart.turn(now)
                if child.log_stream in events and not child.read_log():
                    selector.unregister(child.log_stream)
                if child.socket in events:
                    try:
                        messages = child.receive()
                        if messages is None:
                            return refused
                        refused = self._take(child, messages) or refused
                    except ForeshoreError as error:  # not our protocol: that process is not to be trusted further
                        child.kill()
                        return error
                    heart.heard(now, loaded=self.state == "ready")
                if heart.lost(now):
                    child.frozen = True
                    child.kill()
                    return refused
                if (number := heart.ping(now)) is not None:
                    child.send(Ping(number=number))
        return refused

    def _take(self, child: Child, messages: list[Message]) -> ForeshoreError | None:
        refused: ForeshoreError | None = None
        for message in messages:
            if isinstance(message, Results):
                self._deliver(message)
            elif isinstance(message, Ready):
                self._welcome(message.info)
            elif isinstance(message, Failed):
                refused = message.failure.error(self._target)
            elif isinstance(message, Pong):
                if message.busy_s > self._options.step_limit_s:
                    child.stuck = True
                    child.kill()
            else:
                raise UpstreamError(f"a worker sent a {type(message).__name__}", target=self._target)
        return refused

    def _welcome(self, info: ModelInfo) -> None:
        with self._lock:
            if self.state == "starting":
                self.state = "ready"
                if self._threads is not None and self._child is not None:
                    self._child.send(SetThreads(threads=self._threads))
                self._ready.set_result(info)

    def _deliver(self, results: Results) -> None:
        """Hand a step's results out, waking each event loop once."""
        touched: list[Subscription] = []
        with self._lock:
            self.load = results.load or self.load
            items: list[tuple[str, Chunk | ForeshoreError]] = [
                *results.chunks,
                *((i, failure.error(self._target)) for i, failure in results.failures),
            ]
            for number, item in items:
                stream = self._streams.get(number)
                if stream is None:  # cancelled meanwhile
                    continue
                stream.offer(item)
                touched.append(stream)
                if stream.ended:
                    del self._streams[number]
                    self.quarantine.absolve(stream.key)
        _wake(touched)

    def _bury(self, child: Child, refused: ForeshoreError | None, *, lived_s: float) -> bool:
        """End what the dead worker leaves open, and settle what comes next: another worker (`True`), or failure."""
        status = child.finish()
        with self._lock:
            self._child, self._log, self.load = None, tuple(child.log), Load()
            if self._closing.is_set():
                return False
            started = self.state == "ready"
            self._early_deaths = 1 if lived_s > STEADY_S else self._early_deaths + 1
            if child.stuck or status > 0 or -status in CRASHES:
                self.quarantine.blame({stream.key for stream in self._streams.values()})
            self._end_streams(lambda: self._obituary(child, status, started))
            if started:
                _log.warning(
                    "target %r: its worker ended (%s) and is replaced; requests in quarantine: %d",
                    self._target, _cause(child, status, quote=False), self.quarantine.held,
                )  # fmt: skip
                self.restarts += 1
                self.state, self._ready = "starting", Future()
            else:
                self._fail(refused or self._obituary(child, status, started))
            return started

    def _fail(self, error: ForeshoreError) -> None:
        """The calling thread ends here: from now on `ready` may start its successor."""
        with self._lock:
            if self._closing.is_set():
                return
            self.state = "failed"
            self._retry_at = time.monotonic() + self._pause_s()
            self._thread = None
            self._ready.set_exception(error)

    def _pause_s(self) -> float:
        """None after the first death, then half a second, doubling."""
        return 0.0 if self._early_deaths < 2 else min(MAX_PAUSE_S, 0.25 * 2 ** (self._early_deaths - 1))

    def _obituary(self, child: Child, status: int, started: bool) -> WorkerDied:
        when = "mid-answer" if started else "while it loaded the model"
        return WorkerDied(
            f"the local worker ended {when}: {_cause(child, status)}", target=self._target, hint=_advice(child, status)
        )

    def _end_streams(self, error: Callable[[], ForeshoreError]) -> None:
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.offer(error())
        _wake(streams)


def _key(request: Request) -> str:
    """Equal for requests with the same content."""
    try:
        return f"{digest(request)} {request.sampling!r} {request.adapter!r} {request.deterministic}"
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_json(error) from error


def _not_json(error: Exception) -> BadRequest:
    return BadRequest(f"the request cannot be written as JSON: {error}", hint="send texts, numbers, lists and objects")


def _cause(child: Child, status: int, *, quote: bool = True) -> str:
    """`quote`: with the worker's last words, which may have content in them."""
    if child.frozen:
        return "it stopped answering and was replaced"
    if child.stuck:
        return "it did not come back from a step and was replaced"
    if status >= 0:
        said = f"; it said {child.log[-1]!r}" if quote and child.log and status else ""
        return f"exit status {status}{said}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _advice(child: Child, status: int) -> str:
    if child.frozen:
        return "send the request again"
    if child.stuck:
        return "send the request again; if it recurs, simplify its grammar or schema, or raise step_limit_s"
    if -status == signal.SIGKILL:
        return "killed from outside or for want of memory; try a smaller variant or fewer kv_tokens if it recurs"
    if -status in (signal.SIGILL, signal.SIGSEGV):
        return "run `foreshore doctor`: the native engine may be built for another CPU"
    return "run `foreshore doctor`; the worker's last lines are in the backend's `log`"


def _wake(streams: Iterable[Subscription]) -> None:
    loops: dict[AbstractEventLoop, list[Subscription]] = {}
    for stream in streams:
        loops.setdefault(stream.loop, []).append(stream)
    for loop, members in loops.items():
        try:
            loop.call_soon_threadsafe(_wake_all, members)
        except RuntimeError:  # that loop is closed: nobody reads these any more
            for stream in members:
                stream.cancel()


def _wake_all(streams: list[Subscription]) -> None:
    for stream in streams:
        stream.wake()


_alive: weakref.WeakSet[Supervisor] = weakref.WeakSet()


def _after_fork() -> None:
    for supervisor in list(_alive):
        supervisor.abandon()


os.register_at_fork(after_in_child=_after_fork)
