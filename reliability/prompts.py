"""The prompts that learning needs, where the config says so: a file of their own, readable by its owner alone.

Apart from the ledger, which never has content. Who gives prompts here sees to it that none is private. A prompt goes
when its event does.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from foreshore.errors import SetupError

__all__ = ["PROMPTS", "Prompts", "read_prompts"]

PROMPTS = "prompts.sqlite"  # beside the ledger
LONGEST = 20_000  # characters of a prompt; the rest is cut off
QUEUE = 1000
BUSY_S = 1.0
PRUNE_EVERY = 500  # prompts written between two removals of old ones
_TABLE = "CREATE TABLE IF NOT EXISTS prompt (decision_id TEXT PRIMARY KEY, at REAL NOT NULL, text TEXT NOT NULL)"


class Prompts:
    """`keep` returns at once; a thread of its own writes. `dropped` counts what the disk could not take."""

    def __init__(self, file: Path, *, keep_days: float = 90.0) -> None:
        """Opens or creates `file`. Raises `SetupError` where that cannot be."""
        self.file, self.dropped = file, 0
        self._keep_s = keep_days * 86_400
        self._queue: queue.Queue[tuple[str, float, str] | None] = queue.Queue(QUEUE)
        _create(file)
        self._writer = threading.Thread(target=self._write_all, name="foreshore-prompts", daemon=True)
        self._writer.start()

    def keep(self, decision_id: str, text: str) -> None:
        """Never blocks, never raises."""
        try:
            self._queue.put_nowait((decision_id, time.time(), text[:LONGEST]))
        except queue.Full:
            self.dropped += 1

    def close(self, timeout: float = 10.0) -> None:
        """Write what is waiting, then stop. Twice is harmless."""
        if self._writer.is_alive():
            try:
                self._queue.put(None, timeout=timeout)
            except queue.Full:
                return  # the disk hangs; the daemon thread goes with the process
            self._writer.join(timeout)

    def _write_all(self) -> None:
        written = 0
        while (row := self._queue.get()) is not None:
            try:
                with closing(sqlite3.connect(self.file, timeout=BUSY_S)) as database, database:
                    database.execute("INSERT OR REPLACE INTO prompt VALUES (?, ?, ?)", row)
                    if written % PRUNE_EVERY == 0:
                        database.execute("DELETE FROM prompt WHERE at < ?", (time.time() - self._keep_s,))
                written += 1
            except (sqlite3.Error, OSError, UnicodeError):
                self.dropped += 1


def read_prompts(file: Path) -> dict[str, str]:
    """Every prompt by its decision; empty where nothing was kept."""
    if not file.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return dict(database.execute("SELECT decision_id, text FROM prompt ORDER BY at"))
    except sqlite3.Error as error:
        raise SetupError(f"the prompts in {str(file)!r} cannot be read: {error}", hint="move the file away") from error


def _create(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        with closing(sqlite3.connect(file, timeout=BUSY_S)) as database, database:
            database.execute(_TABLE)
    except (sqlite3.Error, OSError) as error:
        hint = "set ledger.path to a writable place, or learning.remember to false"
        raise SetupError(f"the prompts cannot be kept in {str(file)!r}: {error}", hint=hint) from error
