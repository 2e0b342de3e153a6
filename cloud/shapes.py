"""Reading a provider's JSON without trusting it: what is missing is a default, what has the wrong type is garbage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["Garbage", "items", "number", "part", "text"]


class Garbage(ValueError):
    """A field has a type the provider's API never gives it. Mapped to `UpstreamError` by the backend."""

    def __init__(self, field: str, value: Any) -> None:
        super().__init__(f"a {type(value).__name__} as {field!r}")


def part(value: Any, field: str) -> Mapping[str, Any]:
    """The object at `field`, empty where there is none."""
    found = value.get(field)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Garbage(field, found)
    return found


def items(value: Any, field: str) -> Iterator[Mapping[str, Any]]:
    """The objects in the array at `field`."""
    found = value.get(field) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise Garbage(field, found)
    yield from found


def text(value: Any, field: str) -> str:
    found = value.get(field)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise Garbage(field, found)
    return found


def number(value: Any, field: str) -> int:
    """A count: no fraction, not negative."""
    found = value.get(field) or 0
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise Garbage(field, found)
    return found
