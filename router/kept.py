"""What the ledger keeps of the facts that a decision looked at, so that it can be looked at again. No content: numbers,
flags, and words of ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from foreshore.router.estimates import LEARNT
from foreshore.router.facts import NO_BUDGET, ON_MAINS, BudgetFacts, ClockFacts, DeviceFacts, RequestFacts, TargetFacts

__all__ = ["CONTENT", "ESTIMATES", "STATE", "kept", "lacking", "of_scene", "of_target"]

ESTIMATES = ("ttft_s", "ttft_p90_s", "total_s", "p90_s", "cost", "quality")
# Where it is not as of a target that is loaded, at rest and unmeasured.
STATE = (
    *("loaded", "healthy", "breaker", "waiting", "waiting_tokens", "running", "context_tokens", "on_time"),
    *("prefill_tokens_per_s", "decode_tokens_per_s", "answer_tokens", "first_token_s"),
)
LANGUAGE = "request.language"  # looked for only if a rule looks at it
CONTENT = ("request.text", "request.headers", "request.session")  # the caller's words
SAMPLED = {"device": ON_MAINS, "budget": NO_BUDGET}  # only while a rule looks at them
_AT_REST = TargetFacts(name="")
_TOLD = frozenset((*RequestFacts().logged(), "model"))  # a pin is told by the rule
_CONFIGURED = frozenset("name kind model local tags tools json images input_price output_price best".split())


def of_target(target: TargetFacts) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(target, name) for name in ESTIMATES}
    found |= {name: value for name in STATE if (value := getattr(target, name)) != getattr(_AT_REST, name)}
    return found


def of_scene(device: DeviceFacts, budget: BudgetFacts, now: ClockFacts, reads: Collection[str]) -> dict[str, Any]:
    """The parts that somebody `reads`; of each the fields that are not as usual, and of the clock all."""
    parts = {path.partition(".")[0] for path in reads}
    given = {"device": device, "budget": budget}
    found = {part: _unusual(facts, SAMPLED[part]) for part, facts in given.items() if part in parts}
    found |= {"now": asdict(now)} if "now" in parts else {}
    return {**found, "request": {}} if LANGUAGE in reads else found


def kept(path: str) -> bool:
    """Whether the ledger keeps a field of an expression, always or while a rule looks at it."""
    part, _, name = path.partition(".")
    if part == "request":
        return name in _TOLD
    return part != "target" or name in (*ESTIMATES, *STATE) or name in _CONFIGURED


def lacking(paths: Iterable[str], event: Mapping[str, Any]) -> list[str]:
    """Those of `paths` that nobody knows of this event: what is not kept, and what was not looked at then."""
    scene, learnt = event.get("scene"), event.get("influenced")
    return sorted(path for path in paths if not kept(path) or _unseen(path, scene, bool(learnt)))


def _unseen(path: str, scene: Mapping[str, Any] | None, learnt: bool) -> bool:
    """`scene` is None in a ledger from before it had any."""
    part, _, name = path.partition(".")
    if path in LEARNT:
        return not learnt
    if path == LANGUAGE:
        return "request" not in (scene or ())
    if part == "target":
        return scene is None and name in STATE
    return part in SAMPLED and part not in (scene or ())


def _unusual(facts: Any, usual: Any) -> dict[str, Any]:
    return {n: value for n in facts.__slots__ if (value := getattr(facts, n)) != getattr(usual, n)}
