"""What the config alone says of a target."""

from __future__ import annotations

from typing import Any

from foreshore.config import TargetConfig
from foreshore.router.facts import TargetFacts

__all__ = ["describe", "fixed", "place"]


def describe(name: str, spec: TargetConfig) -> TargetFacts:
    return TargetFacts(**fixed(name, spec), context_tokens=spec.context_tokens or 0)


def fixed(name: str, spec: TargetConfig) -> dict[str, Any]:
    """The fields of `TargetFacts` that never change."""
    return {
        "name": name,
        "kind": spec.kind,
        "model": spec.model,
        "local": spec.local,
        "tags": spec.tags,
        "json": spec.kind != "anthropic",  # its Messages API has no response format
        "images": not spec.local,
        "input_price": spec.price.input,
        "output_price": spec.price.output,
    }


def place(spec: TargetConfig) -> tuple[Any, ...]:
    """What bears on how long a target takes."""
    return spec.kind, spec.model, spec.base_url, spec.engine
