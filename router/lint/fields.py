"""The fields of expressions as documented, each with its type and the values it can have: what a proof ranges over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from foreshore.config import Detector, Kind
from foreshore.router.facts import PARTS
from foreshore.types import Task

__all__ = ["FIELDS", "LABELS", "Field", "Type"]

# What `label` writes, in its order: the last ones only where the content was scanned.
LABELS = ("header", "tenant", "unscannable", "too_long", *get_args(Detector))

PERCENT = (0.0, 100.0)
_AMOUNT = (0.0, None)  # counts, seconds, dollars, bytes
_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    **{f"request.{name}": _AMOUNT for name in ("prompt_tokens", "max_tokens", "messages", "deadline_s")},
    **{f"target.{name}": (0.0, 1.0) for name in ("quality", "on_time")},
    **{f"device.{name}": PERCENT for name in ("battery_percent", "cpu_percent", "memory_percent")},
    "device.memory_free_bytes": _AMOUNT,
    "budget.dollars": _AMOUNT,
    "budget.spent": _AMOUNT,
    "budget.share_left": (None, 1.0),
    "now.hour": (0.0, 23.0),
    "now.minute": (0.0, 59.0),
    "now.weekday": (0.0, 6.0),
}
_WORDS: dict[str, tuple[str, ...]] = {
    "request.task": get_args(Task),
    "request.labels": LABELS,
    "target.kind": get_args(Kind),
    "target.breaker": ("closed", "open", "half_open"),
}


TypeName = Literal[
    "bool", "int", "uint", "double", "string", "bytes", "null", "list", "map", "type", "duration", "timestamp", "dyn"
]


@dataclass(frozen=True, slots=True)
class Type:
    """A type of CEL. `item`: of a list's items, or a map's values; `dyn` is one that is not known."""

    name: TypeName
    item: Type | None = None

    def __str__(self) -> str:
        return self.name if self.item is None or self.item.name == "dyn" else f"{self.name} of {self.item}s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """`low` and `high` are included. `words`: a string has no other value, a list no other items; () if any may be."""

    name: str  # as "request.tenant"
    type: Type
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()


def _type_of(hint: Any) -> Type:
    if get_origin(hint) is tuple:
        return Type("list", Type("string"))
    if get_origin(hint) is Mapping:
        return Type("map", Type("string"))
    plain: dict[Any, Type] = {bool: Type("bool"), int: Type("int"), float: Type("double")}
    return plain.get(hint, Type("string"))


def _fields() -> dict[str, Field]:
    found = {}
    for part, kind in PARTS.items():
        for name, hint in get_type_hints(kind).items():
            path, made = f"{part}.{name}", _type_of(hint)
            number = made.name in ("int", "double")
            low, high = _BOUNDS.get(path, _AMOUNT if number and part == "target" else (None, None))
            found[path] = Field(name=path, type=made, low=low, high=high, words=_WORDS.get(path, ()))
    return found


FIELDS: Mapping[str, Field] = _fields()
