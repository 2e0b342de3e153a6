"""The worker process: `python -m foreshore.edge.worker FD`, where FD is its end of a socket pair.

Three kinds of threads: the main one owns the engine and steps; one reads the socket; a few prepare
requests. It ends when the socket closes, so that no worker outlives its parent.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from foreshore.edge.gguf import inspect
from foreshore.edge.options import Load, ModelInfo
from foreshore.edge.protocol import (
    Cancel,
    Failed,
    Failure,
    Message,
    Ping,
    Pong,
    Ready,
    Results,
    Start,
    Submit,
    decode,
    encode,
    request_of,
    unframe,
)
from foreshore.errors import ForeshoreError, UpstreamError

__all__ = ["main"]

PARENT_CHECK_S = 1.0
PREPARERS = 2
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
        while True:
            self._turn()

    def _load(self, start: Start) -> ModelInfo:
        from foreshore.edge.engine import Engine  # native code: loaded only after the parent can hear from us
        from foreshore.edge.loader import load_preparer
        from foreshore.edge.stepper import Stepper

        path = Path(start.path)
        inspect(path)
        self._engine = Engine(path, start.options)
        self._engine.warm_up()
        self._preparer = load_preparer(self._engine)
        self._stepper = Stepper(self._engine)
        return self._engine.info

    def _turn(self) -> None:
        """Take in what arrived (waiting for it when there is nothing to do), step, send the results."""
        if self._stepper.idle:
            self._busy_since = None
            task = self._inbox.get()
            self._busy_since = time.monotonic()
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
                load=self._stepper.load,
            )
        )

    # The reader's thread

    def _read(self) -> None:
        buffer = bytearray()
        while True:
            ready, _, _ = select.select([self._sock], [], [], PARENT_CHECK_S)
            if os.getppid() != self._parent:
                os._exit(0)  # a fork of the parent may hold the socket's other end open
            if ready:
                data = self._sock.recv(_READ)
                if not data:
                    os._exit(0)
                buffer += data
                for body in unframe(buffer):
                    self._open(body)

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
            self._engine.abort()

    # The preparers' threads

    def _prepare(self, submit: Submit) -> None:
        request_id = submit.request.id
        failure: Failure | None = None
        try:
            prepared = self._preparer.prepare(submit.request, submit.arrived)
        except ForeshoreError as error:
            failure = Failure.of(error)
        except Exception as error:  # a bug of ours must not leave the caller waiting
            failure = Failure(kind="UpstreamError", message=f"the request could not be prepared: {error!r}")
        with self._intake:
            wanted = request_id in self._preparing
            self._preparing.discard(request_id)
            if wanted and failure is None:
                self._inbox.put(lambda: self._submit(request_id, lambda: self._stepper.submit(prepared)))
        if wanted and failure is not None:
            self._fail(request_id, failure)

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
        try:
            with self._sending:
                self._sock.sendall(encode(message))
        except OSError:  # the parent is gone
            os._exit(0)


def main() -> None:
    faulthandler.enable()  # a native crash leaves the Python stack in the parent's ring of log lines
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    Worker(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
