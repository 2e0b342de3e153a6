"""The ledger's tables, version by version. `MIGRATIONS[n]` takes a file from version n to n + 1."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from foreshore.errors import SetupError
from foreshore.reliability.event import Event

__all__ = ["BEFORE", "COLUMNS", "JSON_COLUMNS", "MIGRATIONS", "VERSION", "migrate", "row"]

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
    CREATE TABLE event (
        id INTEGER PRIMARY KEY,
        decision_id TEXT NOT NULL UNIQUE,
        at REAL NOT NULL,
        terminal_state TEXT NOT NULL,
        error_code TEXT NOT NULL,
        task TEXT NOT NULL,
        tenant TEXT NOT NULL,
        rule TEXT NOT NULL,
        target TEXT NOT NULL,
        policy TEXT NOT NULL,
        propensity REAL NOT NULL,
        stream INTEGER NOT NULL,
        facts TEXT NOT NULL,
        targets TEXT NOT NULL,
        estimates TEXT NOT NULL,
        attempts TEXT NOT NULL,
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        cached_tokens INTEGER,
        reasoning_tokens INTEGER,
        queue_s REAL,
        prefill_s REAL,
        decode_s REAL,
        tpot_s REAL,
        ttft_s REAL NOT NULL,
        total_s REAL NOT NULL,
        decision_s REAL NOT NULL,
        cost REAL NOT NULL
    )
    """,
        "CREATE INDEX event_at ON event (at)",
    ),
    (
        "ALTER TABLE event ADD COLUMN strategy TEXT NOT NULL DEFAULT 'fallback'",
        "ALTER TABLE event ADD COLUMN explored INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE event ADD COLUMN influenced INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE event ADD COLUMN holdout INTEGER NOT NULL DEFAULT 0",
        """
    CREATE TABLE feedback (
        decision_id TEXT NOT NULL,
        source TEXT NOT NULL,
        score REAL NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (decision_id, source)
    ) WITHOUT ROWID
    """,
    ),
    ("ALTER TABLE event ADD COLUMN scene TEXT",),
)
VERSION = len(MIGRATIONS)

COLUMNS = (
    "decision_id at terminal_state error_code task tenant rule target policy propensity strategy explored influenced "
    "holdout stream facts targets estimates scene attempts prompt_tokens completion_tokens cached_tokens "
    "reasoning_tokens queue_s prefill_s decode_s tpot_s ttft_s total_s decision_s cost"
).split()
# Of a file that no gateway has brought up to date yet.
BEFORE = {"strategy": "fallback", "explored": 0, "influenced": 0, "holdout": 0, "scene": None}
JSON_COLUMNS = frozenset({"facts", "targets", "estimates", "scene", "attempts"})
_USAGE = frozenset({"prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"})
_TIMINGS = frozenset({"queue_s", "prefill_s", "decode_s", "tpot_s"})


def migrate(database: sqlite3.Connection) -> None:
    """Bring the file to `VERSION`, whole or not at all. Raises `SetupError` if it is newer than we are."""
    with database:
        database.execute("BEGIN IMMEDIATE")  # a second process waits here, then finds the work done
        found = int(database.execute("PRAGMA user_version").fetchone()[0])
        if found > VERSION:
            what = f"the ledger has schema version {found}, this Foreshore knows {VERSION}"
            raise SetupError(what, hint="upgrade Foreshore, or move the file away")
        for statement in (s for step in MIGRATIONS[found:] for s in step):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {VERSION}")


def row(event: Event) -> tuple[Any, ...]:
    """`event` as values for `COLUMNS`."""
    return tuple(_value(event, column) for column in COLUMNS)


def _value(event: Event, column: str) -> Any:
    if column in _USAGE:
        return getattr(event.usage, column, None)
    if column in _TIMINGS:
        return getattr(event.timings, column, None)
    value = getattr(event, column)
    if value is None or column not in JSON_COLUMNS:
        return value
    return json.dumps(value, separators=(",", ":"), default=dict)
