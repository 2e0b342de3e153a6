"""Values of a proof's slots made into a situation: a witness is not believed, it is decided on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from foreshore.config import Config
from foreshore.router.facts import BudgetFacts, ClockFacts, DeviceFacts, RequestFacts
from foreshore.router.lint.atoms import HEADERS, Slot
from foreshore.router.lint.cells import ABSENT
from foreshore.router.lint.values import Values
from foreshore.router.situation import Situation
from foreshore.router.target import describe

__all__ = ["fixed_of", "situation_of"]

_CERTAIN = ("name", "kind", "model", "local", "tags", "json", "images", "input_price", "output_price")


def fixed_of(name: str, config: Config, alias: str = "") -> dict[Slot, Any]:
    """What the config makes certain of the target `name`, as slots of `alias`, else of the target itself."""
    spec = config.targets[name]
    facts = describe(name, spec)
    certain = [*_CERTAIN, *(["context_tokens"] if spec.context_tokens else [])]
    certain += ["cost"] if not (spec.price.input or spec.price.output) else []
    return {Slot(f"target.{field}", alias or name): getattr(facts, field) for field in certain}


def situation_of(values: Values, config: Config) -> Situation:
    """`values`, and the defaults for everything they do not say."""
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    headers: dict[str, str] = {}
    for slot, value in values.items():
        part, _, name = slot.path.partition(".")
        if slot.header:
            headers |= {} if value is ABSENT else {slot.header: value}
        elif slot.path != HEADERS:
            parts.setdefault((part, slot.target), {})[name] = value
    return Situation(
        request=RequestFacts(**_given(parts, "request"), headers=headers),
        targets=[
            replace(describe(name, spec), **_given(parts, "target", name)) for name, spec in config.targets.items()
        ],
        device=DeviceFacts(**_given(parts, "device")),
        budget=BudgetFacts(**_given(parts, "budget")),
        now=ClockFacts(**_given(parts, "now")),
    )


def _given(parts: Mapping[tuple[str, str], Mapping[str, Any]], part: str, target: str = "") -> Mapping[str, Any]:
    return parts.get((part, target), {})
