"""What people, or evaluations, say of an answer, and what can be learnt from it.

Feedback belongs to a decision and stands in the ledger's file, in a table of its own. What is learnt from it leaves the
held-out slice alone, and gives each answer the weight of 1 / propensity, clipped: a target that is seldom chosen for
requests of a kind would else be judged by the few it got.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from foreshore.errors import NotFound, UsageError
from foreshore.quality.labels import Label
from foreshore.reliability.ledger import read_events, unreadable
from foreshore.reliability.schema import migrate

__all__ = ["Feedback", "Source", "give", "labels", "rated", "weight"]

Source = Literal["user", "eval"]
LATEST_DAYS = 30.0  # after the decision
CLIP = 10.0  # the largest weight; more would let single answers decide
RIGHT = 0.5  # the score from which on an answer counts as right
BUSY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """`score`: 1 right, 0 wrong, or anything between."""

    decision_id: str
    score: float
    source: Source
    at: float  # seconds since 1970, UTC


def give(
    file: Path,
    decision_id: str,
    score: float,
    *,
    source: Source = "user",
    tenant: str | None = None,
    at: float | None = None,
) -> Feedback:
    """Keep feedback on a decision in the ledger `file`. The same again is harmless.

    `tenant`, if given, must be whose request it was. Raises `NotFound` for a decision that the ledger does not have,
    and `UsageError` for one older than 30 days, for another score from the same source, and for what is no score.
    """
    if source not in get_args(Source):
        raise UsageError(f"feedback cannot come from {source!r}", hint=f"one of {', '.join(get_args(Source))}")
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:  # NaN is not
        raise UsageError(f"the score is {score!r}", hint="from 0, wrong, to 1, right")
    found = Feedback(decision_id=decision_id, score=float(score), source=source, at=time.time() if at is None else at)
    with closing(_open(file)) as database:
        _check_decision(database, found, tenant)
        _keep(database, found)
    return found


def rated(file: Path) -> Iterator[tuple[dict[str, Any], float]]:
    """Every event with feedback, and the score: an evaluation's before a user's."""
    scores = _scores(file)
    for event in read_events(file) if scores else ():
        if (score := scores.get(event["decision_id"])) is not None:
            yield event, score


def _scores(file: Path) -> Mapping[str, float]:
    """By decision. The file is only read."""
    if not file.is_file():
        raise NotFound(f"there is no ledger {str(file)!r}", hint="name one, or the config of the gateway that wrote it")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'feedback'").fetchone():
                return {}  # of before there was feedback
            rows = database.execute("SELECT decision_id, source, score FROM feedback ORDER BY source DESC")
            return {decision: score for decision, _, score in rows}  # "eval" comes after "user", and wins
    except sqlite3.Error as error:
        raise unreadable(file, error) from error


def weight(event: Mapping[str, Any]) -> float:
    """1 / propensity of the first choice, at most `CLIP`; 1 where another target took over, or it is not known."""
    propensity = event["propensity"] or 0.0
    chosen = event["target"] == next(iter(event["targets"]), "")
    return min(CLIP, 1 / propensity) if chosen and 0 < propensity <= 1 and math.isfinite(propensity) else 1.0


def labels(file: Path, prompts: Mapping[str, str]) -> Iterator[Label]:
    """What can be learnt from the ledger `file`: a label for every answer with feedback whose prompt was kept, by
    decision, in `prompts`. Nothing of the held-out slice."""
    for event, score in rated(file):
        prompt = prompts.get(event["decision_id"], "")
        if prompt.strip() and event["target"] and not event["holdout"]:
            influenced = bool(event["influenced"])
            yield Label(prompt, event["target"], score >= RIGHT, weight=weight(event), influenced=influenced)


def _check_decision(database: sqlite3.Connection, found: Feedback, tenant: str | None) -> None:
    row = database.execute("SELECT at, tenant FROM event WHERE decision_id = ?", (found.decision_id,)).fetchone()
    if row is None or (tenant is not None and row[1] != tenant):
        hint = "it is the x-foreshore-decision header of the answer"
        raise NotFound(f"there is no decision {found.decision_id[:60]!r}", hint=hint, param="decision")
    days = (found.at - row[0]) / 86_400
    if days > LATEST_DAYS:
        what = f"the decision {found.decision_id!r} is {days:.0f} days old"
        raise UsageError(what, hint=f"feedback counts for {LATEST_DAYS:.0f} days")


def _keep(database: sqlite3.Connection, found: Feedback) -> None:
    key = (found.decision_id, found.source)
    with database:
        database.execute("INSERT OR IGNORE INTO feedback VALUES (?, ?, ?, ?)", (*key, found.score, found.at))
        query = "SELECT score FROM feedback WHERE decision_id = ? AND source = ?"
        (kept,) = database.execute(query, key).fetchone()
    if kept != found.score:
        what = f"the {found.source} gave the decision {found.decision_id!r} the score {kept:g} before"
        raise UsageError(what, hint="feedback is given once")


def _open(file: Path) -> sqlite3.Connection:
    """The ledger, brought up to date. Raises as `read_events` does."""
    if not file.is_file():
        hint = "name the config of the gateway that answered (-c): its ledger.path says where it is"
        raise NotFound(f"there is no ledger {str(file)!r}", hint=hint)
    try:
        database = sqlite3.connect(file, timeout=BUSY_S)
        migrate(database)
    except sqlite3.Error as error:
        raise unreadable(file, error) from error
    return database
