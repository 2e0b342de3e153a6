"""The worker process: `python -m foreshore.edge.worker FD`, where FD is its end of a socket pair.

Four kinds of threads: the main one owns the engine and steps; one reads the socket; a few prepare requests;
one ends a step that would pass a deadline, and watches how the engine's threads wait. It ends when the socket closes,
so that no worker outlives its parent.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from foreshore.edge.options import Load, ModelInfo
from foreshore.edge.protocol import (
    WARNING,
    Cancel,
    Failed,
    Failure,
    Message,
    Ping,
    Pong,
    Ready,
    Results,
    SetThreads,
    Start,
    Submit,
    decode,
    encode,
    request_of,
    unframe,
)
from foreshore.edge.spin_watch import SpinWatch, prepare_spin, watch_spin
from foreshore.errors import ForeshoreError, UpstreamError
from foreshore.types import Chunk

__all__ = ["main"]

PARENT_CHECK_S = 1.0
PREPARERS = 2
WATCH_S = 0.05  # how often a busy worker looks for a step that has a time to end
MIN_WATCH_S = 0.001
GOODBYE_S = 3.0  # to leave things in order once the parent has gone; it waits a second longer
_READ = 1 << 18


class Worker:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._parent = os.getppid()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._intake = threading.Lock()
        self._preparing: set[str] = set()
        self._pool = ThreadPoolExecutor(PREPARERS, thread_name_prefix="prepare")
        self._start: queue.SimpleQueue[Start] = queue.SimpleQueue()
        self._busy_since: float | None = None  # written by the main thread alone
        self._busy = threading.Event()
        self._loaded = False
        self._spin: SpinWatch | None = None

    def run(self) -> None:
        """Serve until the parent goes away."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        start = self._start.get()
        try:
            info = self._load(start)
        except ForeshoreError as error:
            self._send(Failed(failure=Failure.of(error)))
            return
        self._send(Ready(info=info))
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        while True:
            self._turn()

    def _load(self, start: Start) -> ModelInfo:
        changes = prepare_spin()
        from foreshore.edge.loader import load  # native code: loaded only after the parent can hear from us

        loaded = load(Path(start.path), start.options)
        if changes:
            self._spin = watch_spin(loaded.library)
        self._threads = loaded.info.threads
        self._prepared, self._stepper = loaded.prepare, loaded.steps
        self._loaded = True
        gc.freeze()  # what is there by now stays: a collection amid a step need not look at it
        return loaded.info

    def _turn(self) -> None:
        """Take in what arrived (waiting for it when there is nothing to do), step, send the results."""
        if self._stepper.idle:
            while self._inbox.empty() and self._stepper.rest():
                pass
            self._busy_since = None
            self._busy.clear()
            task = self._inbox.get()
            self._busy_since = time.monotonic()
            self._busy.set()
            task()
        self._busy_since = time.monotonic()
        while not self._inbox.empty():
            self._inbox.get()()
        if self._stepper.idle:  # the last one was cancelled, or refused
            self._send(Results(load=self._stepper.load))
            return
        events = self._stepper.step()
        self._send(
            Results(
                chunks=tuple((i, e) for i, e in events if not isinstance(e, ForeshoreError)),
                failures=tuple((i, Failure.of(e)) for i, e in events if isinstance(e, ForeshoreError)),
                load=self._stepper.report(),
            )
        )

    # The reader's thread

    def _read(self) -> None:
        try:
            self._listen()
        except Exception:  # garbage, or a bug: without this thread nobody would hear the parent, or see it go
            traceback.print_exc()
        os._exit(1)

    def _listen(self) -> NoReturn:
        buffer = bytearray()
        while True:
            ready, _, _ = select.select([self._sock], [], [], PARENT_CHECK_S)
            if os.getppid() != self._parent:
                self._leave()  # a fork of the parent may hold the socket's other end open
            if ready:
                try:
                    data = self._sock.recv(_READ)
                except OSError:
                    data = b""
                if not data:
                    self._leave()
                buffer += data
                for body in unframe(buffer):
                    self._open(body)

    def _leave(self) -> NoReturn:
        """End the process, with the engine's files in order if its thread comes back in time."""
        closed = threading.Event()
        if self._loaded:
            self._inbox.put(lambda: self._depart(closed))
            self._stepper.abort()
            closed.wait(GOODBYE_S)
        os._exit(0)

    def _depart(self, closed: threading.Event) -> None:
        self._stepper.close()
        closed.set()
        threading.Event().wait()  # the engine's thread must not go on with what is closed

    def _open(self, body: bytes) -> None:
        try:
            message = decode(body)
        except UpstreamError as error:
            request_id = request_of(body)
            if request_id is None:
                os._exit(1)
            reason = f"the request has a value of the wrong type: {error.__cause__}"
            self._send(Results(failures=((request_id, Failure(kind="BadRequest", message=reason)),), load=Load()))
        else:
            self._receive(message)

    def _receive(self, message: Message) -> None:
        if isinstance(message, Start):
            self._start.put(message)
        elif isinstance(message, Submit):
            with self._intake:
                self._preparing.add(message.request.id)
            self._pool.submit(self._prepare, message)
        elif isinstance(message, Cancel):
            self._cancel(message.id)
        elif isinstance(message, SetThreads):
            self._threads = message.threads
            self._inbox.put(lambda: self._stepper.set_threads(message.threads))
        elif isinstance(message, Ping):
            since = self._busy_since
            self._send(Pong(number=message.number, busy_s=0.0 if since is None else time.monotonic() - since))
        else:
            raise UpstreamError(f"a worker cannot take a {type(message).__name__}")

    def _cancel(self, request_id: str) -> None:
        with self._intake:
            self._preparing.discard(request_id)
        self._inbox.put(lambda: self._stepper.cancel(request_id))
        if self._stepper.computing == {request_id}:  # nobody else needs this step: end it now
            self._stepper.abort()

    # The watchdog's thread

    def _watch(self) -> None:
        """End steps that are due, and look how threads wait. It sleeps while the worker is idle, and costs the engine's
        thread no lock."""
        while True:
            self._busy.wait()
            due: float | None = getattr(self._stepper, "due", None)  # an engine without this has short steps
            if self._spin is not None:
                self._spin.turn(time.monotonic(), self._threads)
            wait = WATCH_S if due is None else due - time.monotonic()
            if due is not None and wait <= 0:
                self._stepper.abort()  # one that is over by now costs the next step a second try, no more
            time.sleep(min(WATCH_S, max(MIN_WATCH_S, wait)))

    # The preparers' threads

    def _prepare(self, submit: Submit) -> None:
        request_id = submit.request.id
        failure: Failure | None = None
        try:
            prepared = self._prepared(submit.request, submit.arrived)
        except ForeshoreError as error:
            failure = Failure.of(error)
        except Exception as error:  # a bug of ours must not leave the caller waiting
            failure = Failure(kind="UpstreamError", message=f"the request could not be prepared: {error!r}")
        with self._intake:
            wanted = request_id in self._preparing
            self._preparing.discard(request_id)
            if wanted and failure is None and not isinstance(prepared, Chunk):
                self._inbox.put(lambda: self._submit(request_id, lambda: self._stepper.submit(prepared)))
        if wanted and failure is not None:
            self._fail(request_id, failure)
        elif wanted and isinstance(prepared, Chunk):  # nothing to compute
            self._send(Results(chunks=((request_id, prepared),), load=self._stepper.load))

    def _submit(self, request_id: str, submit: Callable[[], None]) -> None:
        try:
            submit()
        except ForeshoreError as error:
            self._fail(request_id, Failure.of(error))
        except Exception as error:  # a bug of ours must not end the other requests
            self._fail(request_id, Failure(kind="UpstreamError", message=f"the request could not start: {error!r}"))

    def _fail(self, request_id: str, failure: Failure) -> None:
        self._send(Results(failures=((request_id, failure),), load=self._stepper.load))

    def _send(self, message: Message) -> None:
        with suppress(OSError), self._sending:  # the parent is gone: the reader sees it too, and ends us
            self._sock.sendall(encode(message))


def main() -> None:
    faulthandler.enable()  # a native crash leaves the Python stack in the parent's ring of log lines
    logging.basicConfig(level=logging.WARNING, format=f"{WARNING}%(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    Worker(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
