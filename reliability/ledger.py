"""One event for each request, in SQLite. Writing never holds a request up: what the disk cannot take is counted."""

from __future__ import annotations

import json
import math
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from foreshore.errors import ForeshoreError, NotFound, SetupError, UsageError
from foreshore.reliability.event import Event
from foreshore.reliability.schema import BEFORE, COLUMNS, JSON_COLUMNS, migrate, row

__all__ = ["Ledger", "read_events", "unreadable"]

BATCH = 256  # events in one transaction
PRUNE_S = 3600.0  # between two removals of old events
BUSY_S = 1.0  # how long the writer waits for another process's lock before it drops the batch
_INSERT = f"INSERT INTO event ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"


class Ledger:
    """`append` returns at once; a thread of its own writes. `written` and `dropped` count events.

    WAL with synchronous=NORMAL: a committed event survives a crash of the process, the last ones may go with the power.
    """

    def __init__(self, file: Path, *, queue_size: int = 10_000, keep_days: float = 90.0) -> None:
        """Opens or creates `file`, readable by its owner only. Raises `SetupError` where that cannot be.

        Events older than `keep_days` are removed, about once an hour while others are written.
        """
        self.file = file
        self._keep_s = keep_days * 86_400
        self._pruned = -math.inf  # on time.monotonic()
        self.written = 0
        self.dropped = 0
        self._queue: queue.Queue[Event | None] = queue.Queue(queue_size)
        self._closed = threading.Lock()  # held for good once closed
        _create(file)
        self._writer = threading.Thread(target=self._write_all, name="foreshore-ledger", daemon=True)
        self._writer.start()

    def append(self, event: Event) -> None:
        """Never blocks, never raises."""
        if self._closed.locked():
            self.dropped += 1
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self.dropped += 1

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything appended so far is written or dropped; False when `timeout` seconds did not do."""
        deadline = time.monotonic() + timeout
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks:
                left = deadline - time.monotonic()
                if left <= 0 or not self._queue.all_tasks_done.wait(left):
                    return False
        return True

    def close(self, timeout: float = 10.0) -> None:
        """Write what is waiting, then stop. Twice is harmless."""
        if not self._closed.acquire(blocking=False):
            return
        self.flush(timeout)
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return  # the disk hangs; the daemon thread goes with the process
        self._writer.join(timeout)

    def _write_all(self) -> None:
        database: sqlite3.Connection | None = None
        while (batch := self._next_batch()) is not None:
            try:
                database = database or _connect(self.file)
                with database:
                    database.executemany(_INSERT, [row(event) for event in batch])
                    self._prune(database)
                self.written += len(batch)
            except (sqlite3.Error, OSError, TypeError, ValueError):
                self.dropped += len(batch)
                _discard(database)
                database = None
            finally:
                for _ in batch:
                    self._queue.task_done()
        _discard(database)

    def _prune(self, database: sqlite3.Connection) -> None:
        if time.monotonic() - self._pruned >= PRUNE_S:
            for table in ("event", "feedback"):
                database.execute(f"DELETE FROM {table} WHERE at < ?", (time.time() - self._keep_s,))
            self._pruned = time.monotonic()

    def _next_batch(self) -> list[Event] | None:
        """At least one event, or None when the ledger closes."""
        event = self._queue.get()
        if event is None:
            return None
        batch = [event]
        while len(batch) < BATCH:
            try:
                event = self._queue.get_nowait()
            except queue.Empty:
                break
            if event is None:  # `close` waits for the queue to run dry first, so nothing stands behind it
                self._queue.put(None)
                break
            batch.append(event)
        return batch


def read_events(file: Path) -> Iterator[dict[str, Any]]:
    """Every event as a dict of its columns, oldest first, JSON columns as values. The file is not changed.

    Raises `NotFound` where there is none, `UsageError` for what is no ledger, `SetupError` for one that is locked.
    """
    if not file.is_file():
        raise NotFound(f"there is no ledger {str(file)!r}", hint="name one, or the config of the gateway that wrote it")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            for found in database.execute("SELECT * FROM event ORDER BY id"):
                columns = {**BEFORE, **dict(found)}
                yield {k: json.loads(v) if k in JSON_COLUMNS and v is not None else v for k, v in columns.items()}
    except (sqlite3.Error, ValueError) as error:
        raise unreadable(file, error) from error


def unreadable(file: Path, error: Exception) -> ForeshoreError:
    """A ledger that cannot be read now, or what is none."""
    if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(error):
        hint = "if another process holds it, try again, or on a copy"
        return SetupError(f"the ledger {str(file)!r} cannot be read: {error}", hint=hint)
    return UsageError(
        f"{str(file)!r} is no ledger: {error}", hint="a gateway writes one: see ledger.path in its config"
    )


def _create(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(_connect(file)) as database:
            migrate(database)
    except (sqlite3.Error, OSError) as error:
        raise SetupError(
            f"the ledger {str(file)!r} cannot be opened: {error}", hint="set ledger.path to a writable place"
        ) from error


def _connect(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=BUSY_S, check_same_thread=False)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    return database


def _discard(database: sqlite3.Connection | None) -> None:
    if database is not None:
        try:
            database.close()
        except sqlite3.Error:
            return
