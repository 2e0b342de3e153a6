"""Past decisions, as far as the ledger keeps what they looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from foreshore.errors import NotFound, UsageError
from foreshore.reliability.ledger import read_events
from foreshore.router.checks.changes import changed
from foreshore.router.facts import ANY_TIME, RequestFacts
from foreshore.router.kept import ESTIMATES, STATE
from foreshore.router.situation import Situation, Stage
from foreshore.router.surroundings import clock

__all__ = ["event_of", "facts_of", "situation_of_event"]

_OF_TARGETS = frozenset((*ESTIMATES, *STATE))


def event_of(decision_id: str, ledger: Path) -> Mapping[str, Any]:
    """Raises `NotFound` where the ledger has no such decision."""
    found = next((event for event in read_events(ledger) if event["decision_id"] == decision_id), None)
    if found is None:
        raise NotFound(
            f"the ledger has no decision {decision_id!r}", hint="its id is in the header x-foreshore-decision"
        )
    return found


def facts_of(row: Mapping[str, Any]) -> RequestFacts:
    """Of an event's `facts`. Raises `UsageError` for a field that is none, or cannot be so."""
    nothing = Situation(request=RequestFacts(), targets=())
    return changed(nothing, {f"request.{key}": value for key, value in row.items()}).request


def situation_of_event(event: Mapping[str, Any], stage: Stage, facts: RequestFacts | None = None) -> Situation:
    """The request's facts, the targets, this machine, the budget and the time as they were then; what the event does
    not have as on an idle machine. `facts`: instead of the event's. Raises `UsageError` for what cannot be so."""
    facts = facts_of(event["facts"]) if facts is None else facts
    facts = replace(facts, model=_named(event, facts))
    scene = event.get("scene") or {}
    found = stage.situation_of(facts, now=_arrival(event))
    settings = {f"{part}.{name}": value for part, fields in scene.items() for name, value in fields.items()}
    for target in found.targets:
        known = event["estimates"].get(target.name, {})
        settings |= {f"target.{target.name}.{name}": v for name, v in known.items() if name in _OF_TARGETS}
    return changed(found, settings)


def _named(event: Mapping[str, Any], facts: RequestFacts) -> str:
    """The target that the request named; a model's name is not kept."""
    return event["targets"][0] if event["rule"] == "pinned" and event["targets"] else facts.model or "auto"


def _arrival(event: Mapping[str, Any]) -> Any:
    """An event's `at` is when its request ended."""
    if "at" not in event:
        return ANY_TIME
    try:
        return clock(float(event["at"]) - float(event.get("total_s") or 0.0))
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise UsageError(f"at is {event['at']!r}", hint="it is a time in seconds since 1970") from error
