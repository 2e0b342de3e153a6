"""What a simulation replays: when requests came, how long prompts and answers were. No content.

Three forms are read: a CSV table with the columns of Azure's public traces, JSON lines of our ledger's events, and a
ledger file itself. The first two may be packed with gzip.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from foreshore.errors import NotFound, UsageError
from foreshore.reliability.ledger import read_events

__all__ = ["Arrival", "Trace", "read_trace"]

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
LARGEST = 2_000_000  # requests; more do not fit beside their outcomes
LONGEST_LINE = 1 << 20  # characters
SAMPLE = 2000  # answers of one target that its speed is taken from, the first
MOST_TARGETS = 1000
MOST_TOKENS = 100_000_000  # of one prompt or answer
GENERATES = ("chat", "completion", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request. `output_tokens` is how long the answer will be: the targets know it, a decision does not."""

    at: float  # seconds since the trace's first request
    prompt_tokens: int
    output_tokens: int
    tenant: str = "default"
    facts: Mapping[str, Any] = field(default_factory=dict)  # of `RequestFacts`, beyond the above


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Arrivals in order of time. `begun` is the first one's moment, in seconds since 1970; `events` are some of a
    ledger, of each target."""

    arrivals: tuple[Arrival, ...]
    begun: float = 0.0
    events: tuple[Mapping[str, Any], ...] = ()

    @property
    def seconds(self) -> float:
        """From the first arrival to the last."""
        return self.arrivals[-1].at if self.arrivals else 0.0

    def faster(self, factor: float) -> Trace:
        """The same requests, `factor` times as many in each second: all gaps shrink or grow alike, so bursts stay."""
        if not 1e-6 <= factor <= 1e6:
            raise UsageError(f"the rate's factor is {factor!r}", hint="from 1e-6 to 1e6, as in --rate 0.1")
        return replace(self, arrivals=tuple(replace(a, at=a.at / factor) for a in self.arrivals))

    def part(self, start: float, end: float) -> Trace:
        """The arrivals from `start` to before `end`, in seconds of this trace, which begin at 0 again."""
        found = [a for a in self.arrivals if start <= a.at < end]
        first = found[0].at if found else start
        arrivals = tuple(replace(a, at=a.at - first) for a in found)
        return replace(self, arrivals=arrivals, begun=self.begun + first)


def read_trace(path: Path) -> Trace:
    """Raises `NotFound` or `UsageError`, with the line of the first row that is wrong."""
    if not path.is_file():
        raise NotFound(f"there is no trace {str(path)!r}", hint="docs/simulate.md says which forms are read")
    try:
        return _ordered(*_rows(path))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UsageError(f"the trace {str(path)!r} cannot be read: {error}") from error


def _rows(path: Path) -> tuple[list[tuple[float, Arrival]], tuple[Mapping[str, Any], ...]]:
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise UsageError(f"the trace {str(path)!r} is empty", hint="docs/simulate.md says which forms are read")
    if head.startswith(b"SQLite format 3"):
        return _of_events(enumerate(read_events(path), 1), path)
    with _open(path, packed=head.startswith(b"\x1f\x8b")) as text:
        first = text.readline(LONGEST_LINE).lstrip()
        text.seek(0)
        if first.startswith("{"):
            return _of_events(_json_lines(text, path), path)
        return _arrivals(_csv(text, path), path), ()


def _open(path: Path, *, packed: bool) -> TextIO:
    return gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig")


def _of_events(
    events: Iterable[tuple[int, Mapping[str, Any]]], path: Path
) -> tuple[list[tuple[float, Arrival]], tuple[Mapping[str, Any], ...]]:
    """One event at a time: a ledger may be larger than memory. Of each target some answers are kept, for its speed."""
    kept: dict[Any, list[Mapping[str, Any]]] = {}

    def read() -> Iterator[tuple[int, Any]]:
        for number, event in events:
            mine = kept.setdefault(event.get("target"), []) if len(kept) < MOST_TARGETS else []
            if len(mine) < SAMPLE:
                mine.append({name: event[name] for name in ("target", "attempts", "ttft_s", "tpot_s") if name in event})
            yield number, _of_event(event)

    arrivals = _arrivals(read(), path)
    return arrivals, tuple(answer for answers in kept.values() for answer in answers)


def _arrivals(found: Iterable[tuple[int, Any]], path: Path) -> list[tuple[float, Arrival]]:
    """Those that ask for an answer; each checked."""
    kept = []
    for line, row in found:
        if isinstance(row, str):
            raise UsageError(f"{path}:{line}: {row}")
        if row is not None:
            kept.append(row)
        if len(kept) > LARGEST:
            raise UsageError(f"the trace {str(path)!r} has more than {LARGEST} requests", hint="cut it into parts")
    if not kept:
        raise UsageError(f"the trace {str(path)!r} has no request that was answered", hint="docs/simulate.md")
    return kept


def _ordered(rows: list[tuple[float, Arrival]], events: tuple[Mapping[str, Any], ...]) -> Trace:
    rows.sort(key=lambda row: row[0])  # stable: equal moments keep the file's order
    begun = rows[0][0]
    return Trace(arrivals=tuple(replace(a, at=at - begun) for at, a in rows), begun=begun, events=events)


def _csv(text: TextIO, path: Path) -> Iterator[tuple[int, tuple[float, Arrival] | str]]:
    table = csv.DictReader(line for _, line in _lines(text, path))
    missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
    if missing:
        hint = f"a CSV trace has {', '.join(COLUMNS)} and, if wanted, Tenant; other traces are a ledger's events"
        raise UsageError(f"{path}:1: there is no column {missing[0]!r}", hint=hint)
    try:
        for row in table:
            yield table.line_num, _of_row(row)
    except csv.Error as error:
        raise UsageError(f"{path}:{table.line_num}: not CSV: {error}") from error


def _of_row(row: Mapping[str, Any]) -> tuple[float, Arrival] | str:
    at = _moment(row["TIMESTAMP"])
    if at is None:
        return f"TIMESTAMP is {row['TIMESTAMP']!r}, neither a date and time nor a number of seconds"
    counts = [_count(row[name]) for name in COLUMNS[1:]]
    for name, count in zip(COLUMNS[1:], counts, strict=True):
        if count is None:
            return f"{name} is {row[name]!r}, not a number of tokens"
    prompt, output = (count or 0 for count in counts)
    tenant = row.get("Tenant") or "default"
    return at, Arrival(at=at, prompt_tokens=prompt, output_tokens=output, tenant=tenant)


def _lines(text: TextIO, path: Path) -> Iterator[tuple[int, str]]:
    """With their numbers. What has no ends of lines is no trace, and never read whole."""
    for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE), ""), 1):
        if len(line) >= LONGEST_LINE:
            raise UsageError(f"{path}:{number}: the line is longer than {LONGEST_LINE} characters")
        yield number, line


def _json_lines(text: TextIO, path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in _lines(text, path):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(event, dict):
            raise UsageError(f"{path}:{number}: an event is a mapping, not {type(event).__name__}")
        yield number, event


KEPT: Mapping[str, type] = {
    "task": str,
    "language": str,
    "prompt_tokens": int,  # as it was estimated when it came
    "max_tokens": int,
    "messages": int,
    "has_tools": bool,
    "has_images": bool,
    "wants_json": bool,
    "stream": bool,
    "private": bool,
    "labels": list,
    "deadline_s": float,
}


def _of_event(event: Mapping[str, Any]) -> tuple[float, Arrival] | str | None:
    """None for an event that says not how long the answer was: refused, broken off early, or of another task."""
    usage = event["usage"] if isinstance(event.get("usage"), Mapping) else event
    prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if event.get("task", "") not in GENERATES or output is None:
        return None
    at = _moment(event.get("at"))
    if at is None:
        return f"'at' is {event.get('at')!r}, not a number of seconds"
    if type(prompt) is not int or _count(prompt) is None:
        return f"prompt_tokens is {prompt!r}, not a number of tokens"
    if type(output) is not int or _count(output) is None:
        return f"completion_tokens is {output!r}, not a number of tokens"
    facts = event.get("facts") or {}
    if not isinstance(facts, Mapping):
        return f"facts is {facts!r}, not a mapping"
    known: dict[str, Any] = {name: facts[name] for name in KEPT if name in facts}
    for name, value in known.items():
        if not _is(value, KEPT[name]):
            return f"facts.{name} is {value!r}, not {KEPT[name].__name__}"
    known["labels"] = tuple(known.get("labels", ()))
    tenant = str(event.get("tenant") or "default")
    return at, Arrival(at=at, prompt_tokens=prompt, output_tokens=output, tenant=tenant, facts=known)


def _is(value: Any, kind: type) -> bool:
    """Whether a value as JSON has it is of `kind`; numbers also that they can be a count or a duration."""
    if kind is float:
        return type(value) in (int, float) and 0 <= value < math.inf
    if kind is int:
        return type(value) is int and _count(value) is not None
    if kind is list:
        return isinstance(value, list) and all(isinstance(part, str) for part in value)
    return type(value) is kind


def _moment(value: Any) -> float | None:
    """Seconds since 1970 of a number or an ISO 8601 time, UTC where it names no zone."""
    try:
        at = float(value)
    except (TypeError, ValueError):
        try:
            found = datetime.fromisoformat(str(value).strip())
        except ValueError:
            return None
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    return at if math.isfinite(at) and abs(at) < 1e12 and not isinstance(value, bool) else None


def _count(value: Any) -> int | None:
    try:
        count = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return count if 0 <= count <= MOST_TOKENS else None
