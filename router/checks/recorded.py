"""Past decisions, as far as the ledger keeps what they looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from foreshore.errors import NotFound
from foreshore.reliability.ledger import read_events
from foreshore.router.checks.changes import changed
from foreshore.router.exchange import ESTIMATES
from foreshore.router.facts import ANY_TIME, RequestFacts, TargetFacts
from foreshore.router.policy import Policy
from foreshore.router.situation import Situation, Stage
from foreshore.router.surroundings import clock

__all__ = ["event_of", "facts_of", "forgotten", "situation_of_event"]

_KEPT = frozenset(RequestFacts().logged())
_CERTAIN = ("name", "kind", "model", "local", "tags", "json", "images", "input_price", "output_price")


def event_of(decision_id: str, ledger: Path) -> Mapping[str, Any]:
    """Raises `NotFound` where the ledger has no such decision."""
    if not ledger.is_file():
        raise NotFound(f"there is no ledger {str(ledger)!r}", hint="name the config of the gateway that decided")
    found = next((event for event in read_events(ledger) if event["decision_id"] == decision_id), None)
    if found is None:
        raise NotFound(
            f"the ledger has no decision {decision_id!r}", hint="its id is in the header x-foreshore-decision"
        )
    return found


def forgotten(policy: Policy) -> list[str]:
    """What the policy looks at and the ledger does not keep."""
    return sorted(path for path in policy.reads if not _is_kept(path))


def _is_kept(path: str) -> bool:
    part, _, name = path.partition(".")
    if part == "request":
        return name in _KEPT
    return part == "now" or (part == "target" and (name in (*ESTIMATES, "best") or name in _CERTAIN))


def facts_of(row: Mapping[str, Any]) -> RequestFacts:
    """Of an event's `facts`. Raises `UsageError` for a field that is none, or cannot be so."""
    nothing = Situation(request=RequestFacts(), targets=())
    return changed(nothing, {f"request.{key}": value for key, value in row.items()}).request


def situation_of_event(event: Mapping[str, Any], stage: Stage, facts: RequestFacts | None = None) -> Situation:
    """The request's facts, the predictions made then, and the time; everything else as on an idle machine. `facts`:
    instead of the event's."""
    facts = facts_of(event["facts"]) if facts is None else facts
    if event["rule"] == "pinned" and event["targets"]:
        facts = replace(facts, model=event["targets"][0])
    found = stage.situation_of(facts, now=clock(event["at"]) if "at" in event else ANY_TIME)
    targets = [_as_then(target, event["estimates"].get(target.name, {})) for target in found.targets]
    highest = max((t.quality for t in targets), default=0.0)
    return replace(found, targets=[replace(t, best=t.quality >= highest) for t in targets])


def _as_then(target: TargetFacts, estimates: Mapping[str, float]) -> TargetFacts:
    return replace(target, **{name: float(v) for name, v in estimates.items() if name in ESTIMATES})  # type: ignore[arg-type]
