"""Recorded requests to decide on again: JSON lines, or the events of a ledger.

A line is an event of the ledger (`facts`, and more if it has it), the facts alone, a body as an OpenAI client sends it,
or such a body under `body`, with `id`, `tenant` and `headers` beside it. `at`, in seconds since 1970, may stand
beside any but a bare body; without it the time is Monday 0:00.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foreshore.config import Config
from foreshore.errors import ForeshoreError, NotFound, UsageError
from foreshore.reliability.ledger import read_events
from foreshore.router.api.body import parse_json
from foreshore.router.asking import DOORS, asked
from foreshore.router.checks.recorded import facts_of, situation_of_event
from foreshore.router.facts import ANY_TIME, RequestFacts
from foreshore.router.lint.fields import LABELS
from foreshore.router.situation import Situation, Stage
from foreshore.router.surroundings import clock
from foreshore.types import Request

__all__ = ["Malformed", "Row", "read_ledger", "read_lines"]

LATEST = 1 << 36  # seconds since 1970: the year 4147
MAX_LINE = 16 * 1024 * 1024
BESIDE = ("id", "decision_id", "at")  # facts that stand alone
_FOUND = LABELS[4:]  # by detectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    file: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One request: its body, which each policy's own detectors read, or its `facts`, and what stands beside them."""

    id: str
    data: Mapping[str, Any]
    facts: RequestFacts | None = None  # None: `data` has a body

    @property
    def content(self) -> bool:
        return self.facts is None

    def situation(self, stage: Stage) -> tuple[Situation, Request | None]:
        """As `stage` would find it. Raises `UsageError` for what no gateway could have been asked."""
        if self.facts is None:
            tenant, headers = str(self.data.get("tenant", "default")), self.data.get("headers") or {}
            request, caller = asked(self.data["body"], stage.config, tenant=tenant, headers=headers)
            now = clock(self.data["at"]) if "at" in self.data else ANY_TIME
            return stage.situation(request, caller, now=now), request
        event = {"rule": "", "targets": (), "estimates": {}, **self.data}
        return situation_of_event(event, stage, relabelled(self.facts, stage.config)), None


def relabelled(facts: RequestFacts, config: Config) -> RequestFacts:
    """Private for the reasons that hold under `config`: a detector it has, a tenant it marks. What a detector that did
    not run then would find, nobody knows."""
    private = any(t.private for t in config.tenants if t.name == facts.tenant)
    kept = {label for label in facts.labels if label not in ("tenant", *_FOUND)} | ({"tenant"} if private else set())
    kept |= {label for label in facts.labels if label in config.privacy.detectors}
    if config.privacy.unscannable == "allow":
        kept -= {"unscannable"}
    labels = tuple(label for label in LABELS if label in kept)
    return replace(facts, labels=labels, private=bool(labels))


def read_lines(path: Path) -> Iterator[Row | Malformed]:
    """Raises `NotFound` or `UsageError` where the file cannot be read."""
    try:
        with path.open("rb") as file:
            for number in range(1, 1 << 62):
                line = file.readline(MAX_LINE + 1)
                if not line:
                    return
                if line.strip():
                    yield _row(line, str(path), number)
                if len(line) > MAX_LINE and not line.endswith(b"\n"):
                    _skip(file)
    except FileNotFoundError:
        raise NotFound(f"there is no file {str(path)!r}") from None
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error


def read_ledger(path: Path) -> Iterator[Row | Malformed]:
    """Every event that was decided on; a malformed one has its number as `line`. Raises what `read_events` raises."""
    for event in read_events(path):
        if event["targets"] or event["facts"].get("prompt_tokens"):
            yield _event(event, str(path))


def _event(event: Mapping[str, Any], file: str) -> Row | Malformed:
    try:
        return Row(id=event["decision_id"], data=event, facts=facts_of(event["facts"]))
    except UsageError as error:
        return Malformed(file=file, line=event["id"], why=error.message)


def _row(line: bytes, file: str, number: int) -> Row | Malformed:
    if len(line) > MAX_LINE:
        return Malformed(file=file, line=number, why=f"longer than {MAX_LINE} bytes")
    try:
        data = parse_json(line, "application/json")
        return _read(data, f"{Path(file).name}:{number}")
    except ForeshoreError as error:
        return Malformed(file=file, line=number, why=error.message)


def _read(data: Mapping[str, Any], name: str) -> Row:
    found, more = str(data.get("decision_id") or data.get("id") or name), _more(data)
    if isinstance(data.get("body"), Mapping):
        return Row(id=found, data={**data, **more})
    if any(isinstance(data.get(key), (list, str)) for key in DOORS):
        return Row(id=name, data={"body": data})
    facts = data.get("facts", {k: v for k, v in data.items() if k not in BESIDE})
    if not isinstance(facts, Mapping) or not facts:
        raise UsageError("no facts and no body", hint="see docs/policy-checks.md")
    return Row(id=found, data=more, facts=facts_of(facts))


def _more(data: Mapping[str, Any]) -> dict[str, Any]:
    """What else an event has that a decision looks at."""
    kinds: dict[str, Any] = {
        "rule": str,
        "targets": list,
        "estimates": Mapping,
        "scene": Mapping,
        "influenced": (bool, int),
        **dict.fromkeys(("at", "total_s"), (int, float)),
    }
    for name, kind in kinds.items():
        if name in data and not isinstance(data[name], kind):
            raise UsageError(f"{name} is {data[name]!r}")
    if not 0 <= data.get("at", 0) < LATEST:
        raise UsageError(f"at is {data['at']!r}", hint="it is a time in seconds since 1970")
    for name in ("estimates", "scene"):
        for fields in data.get(name, {}).values():
            if not isinstance(fields, Mapping):
                raise UsageError(f"{name} hold {fields!r}", hint="they are values by target or part, and name")
    return {name: data[name] for name in kinds if name in data}


def _skip(file: Any) -> None:
    """To the end of a line that is too long."""
    while (piece := file.readline(MAX_LINE)) and not piece.endswith(b"\n"):
        pass
