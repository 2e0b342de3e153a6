"""A worker process as its parent holds it: the process, one end of the socket, and the last lines it logged."""

from __future__ import annotations

import logging
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress

from foreshore.edge.protocol import WARNING, Message, decode, encode, unframe
from foreshore.errors import SetupError

__all__ = ["CRASHES", "ENGINE_ENVIRONMENT", "Child"]

LOG_LINES = 200
MAX_LINE = 500
EXIT_S = 4.0  # after which a worker that was told to end is killed; it gives itself less
CRASHES = frozenset({signal.SIGSEGV, signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE})
_READ = 1 << 18
_log = logging.getLogger("foreshore")
# Measured in benchmarks/LOG.md; a value the user has set wins.
# Weights that the engine has rearranged lie in memory from malloc: huge pages save a tenth of a stream's step.
WORKER_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# For a process that computes with the engine and does not watch its spin, as a worker does (`spin_watch`): a short one.
# The engine's threads meet at a barrier after each node of the graph. GNU OpenMP lets them spin there for milliseconds,
# which on a machine with other work takes the processor from the very thread one waits for.
ENGINE_ENVIRONMENT = {"GOMP_SPINCOUNT": "1000", **WORKER_ENVIRONMENT}


class Child:
    """One worker. `receive` and `read_log` belong to one thread; `send` and `kill` to any."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "foreshore.edge.worker", str(theirs.fileno())]
        try:
            # A session of its own: Ctrl-C in the terminal is the parent's to handle.
            self.process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env={**WORKER_ENVIRONMENT, **os.environ},
            )
        except OSError as error:
            ours.close()
            raise SetupError(f"no worker process could be started: {error}") from error
        finally:
            theirs.close()
        assert self.process.stderr is not None
        self.log_stream = self.process.stderr
        os.set_blocking(self.log_stream.fileno(), False)
        self.socket = ours
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.frozen = False  # killed, for it did not answer
        self.stuck = False  # killed, for it answered, but did not come back from a step
        self._buffer = bytearray()
        self._log_tail = b""
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="foreshore-writer", daemon=True).start()

    def send(self, message: Message) -> None:
        """Queue it; never blocks. Raises `TypeError` or `ValueError` for what JSON does not have."""
        self._outbox.put(encode(message))

    def receive(self) -> list[Message] | None:
        """Messages that have arrived; `None` when the worker closed its end."""
        try:
            data = self.socket.recv(_READ)
        except OSError:
            return None
        if not data:
            return None
        self._buffer += data
        return [decode(body) for body in unframe(self._buffer)]

    def read_log(self) -> bool:
        """Take in what the worker logged, and pass its warnings on; `False` when it has closed that stream."""
        try:
            data = os.read(self.log_stream.fileno(), _READ)
        except BlockingIOError:
            return True
        *lines, self._log_tail = (self._log_tail + data).split(b"\n")
        self._log_tail = self._log_tail[-MAX_LINE:]
        said = [line[:MAX_LINE].decode("utf-8", "replace") for line in lines if line.strip()]
        self.log.extend(said)
        for line in said:
            if line.startswith(WARNING):
                _log.warning("%s", line.removeprefix(WARNING))
        return bool(data)

    def hang_up(self) -> None:
        """Close the socket: the worker ends by itself."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()

    def finish(self) -> int:
        """Close all, see the process out, and return its exit status (negative: the signal)."""
        self.hang_up()
        self._outbox.put(None)
        try:
            status = self.process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self.process.wait()
        while self.read_log() and self._more_log():
            pass
        self.socket.close()
        self.log_stream.close()
        return status

    def abandon(self) -> None:
        """In a fork of the parent: let go of everything without touching the process, which is not ours."""
        self.socket.close()
        self.log_stream.close()
        self.process.returncode = 0

    def _more_log(self) -> bool:
        return bool(select.select([self.log_stream], [], [], 0)[0])

    def _write(self) -> None:
        while (frame := self._outbox.get()) is not None:
            try:
                self.socket.sendall(frame)
            except OSError:  # it died or was closed; whoever reads finds out
                return
