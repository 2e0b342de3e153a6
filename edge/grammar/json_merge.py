"""One schema that says what all of several say: JSON Schema's `allOf`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["Unmergeable", "merged"]

NOTES = frozenset({"title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated"})


class Unmergeable(ValueError):
    """Its text names the keyword, and why."""


def merged(schemas: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Raises `Unmergeable` where two schemas cannot be put together keyword by keyword."""
    result: dict[str, Any] = {}
    for schema in schemas:
        _check_closed(result, schema)
        for keyword, value in schema.items():
            if keyword in NOTES or keyword not in result:
                result[keyword] = value
            else:
                result[keyword] = _both(keyword, result[keyword], value)
    return result


def _both(keyword: str, one: Any, other: Any) -> Any:
    if one == other:
        return one
    known = _MERGES.get(keyword)
    if known is None:
        raise Unmergeable(f"{keyword!r} is {one!r:.80} and {other!r:.80}")
    try:
        return known(one, other)
    except (TypeError, AttributeError) as error:
        raise Unmergeable(f"{keyword!r} is {one!r:.80} and {other!r:.80}") from error


def _types(one: Any, other: Any) -> Any:
    if {one, other} == {"integer", "number"}:
        return "integer"
    raise Unmergeable(f"'type' is {one!r} and {other!r}")


def _common(one: list[Any], other: list[Any]) -> list[Any]:
    both = [value for value in one if value in other]
    if not both:
        raise Unmergeable(f"'enum' leaves nothing of {one!r:.80} and {other!r:.80}")
    return both


def _members(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    result = {**one}
    for name, schema in other.items():
        result[name] = {"allOf": [result[name], schema]} if name in result and result[name] != schema else schema
    return result


def _check_closed(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """A schema that forbids other properties forbids those that its neighbour alone names."""
    for closed, open_ in ((one, other), (other, one)):
        beyond = _names(open_) - _names(closed)
        if closed.get("additionalProperties") is False and beyond:
            raise Unmergeable(f"'additionalProperties' forbids {sorted(beyond)!r:.80}, which another part describes")


def _names(schema: Mapping[str, Any]) -> set[str]:
    """Of its properties; where these are no object, whoever reads the schema refuses it."""
    found = schema.get("properties")
    return set(found) if isinstance(found, Mapping) else set()


_MERGES: Mapping[str, Callable[[Any, Any], Any]] = {
    "type": _types,
    "enum": _common,
    "properties": _members,
    "required": lambda one, other: [*one, *(name for name in other if name not in one)],
    "minimum": max,
    "exclusiveMinimum": max,
    "maximum": min,
    "exclusiveMaximum": min,
    "minLength": max,
    "maxLength": min,
    "minItems": max,
    "maxItems": min,
    "$defs": lambda one, other: {**one, **other},
    "definitions": lambda one, other: {**one, **other},
}
