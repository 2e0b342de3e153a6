"""What all request bodies share: strict types, fields that travel on, and refusals that name the field."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError
from pydantic.config import JsonDict

from foreshore.errors import BadRequest
from foreshore.types import Sampling, ServiceTier, Task

__all__ = ["HARMLESS", "BaseBody", "Count", "Generation", "Number", "Part", "Text", "parse"]

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
Whole = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]
Text = Annotated[str, Field(strict=True, min_length=1)]
AnyBody = TypeVar("AnyBody", bound=BaseModel)
# They change nothing about the answer, so they are taken and dropped, never sent on: they may say who the user is.
HARMLESS = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
_MAX_STRINGS = 64
# Anthropic's word for not asking for priority is `standard_only`; `auto` leaves it to the tenant's own tier.
_TIERS: dict[str, ServiceTier] = {
    "default": "default",
    "flex": "flex",
    "priority": "priority",
    "standard_only": "default",
}


class Part(BaseModel):
    """A part of a body in which every field is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _describe(schema: JsonDict, model: type[Any]) -> None:
    """Into the OpenAPI document: fields beyond the declared ones are those of `extras` and `harmless`, no others."""
    schema["additionalProperties"] = False
    properties = schema.setdefault("properties", {})
    assert isinstance(properties, dict)
    for name in sorted(model.extras):
        properties.setdefault(name, {"description": "for targets that honour it; the others may not answer then"})
    for name in sorted(model.harmless):
        properties.setdefault(name, {"description": "taken, and without effect on the answer"})


class BaseBody(BaseModel):
    """`extras` are fields that only some targets understand: they travel in `Request.extra`."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra=_describe)
    extras: ClassVar[frozenset[str]] = frozenset()
    harmless: ClassVar[frozenset[str]] = HARMLESS
    task: ClassVar[Task]

    model: StrictStr = Field(max_length=200)

    @property
    def streams(self) -> bool:
        return False

    @property
    def choices(self) -> int:
        return 1

    @property
    def tier(self) -> ServiceTier | None:
        return None

    def extra(self) -> dict[str, Any]:
        """Fields to pass on. Raises `BadRequest` for one that nobody knows."""
        found = {k: v for k, v in (self.model_extra or {}).items() if k not in self.harmless}
        for name in found:
            if name not in self.extras:
                raise _unknown(name, [*type(self).model_fields, *self.extras])
        return {k: v for k, v in found.items() if v is not None}


class Generation(BaseBody):
    """What all doors to a written answer share. The samplers are llama.cpp's, by llama-server's names for them."""

    stream: StrictBool | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Whole | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    repeat_penalty: Annotated[Number, Field(gt=0, le=10)] | None = None
    repeat_last_n: Annotated[StrictInt, Field(ge=-1, le=1_000_000)] | None = None
    typical_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_n_sigma: Annotated[Number, Field(ge=-1, le=1000)] | None = None
    xtc_probability: Annotated[Number, Field(ge=0, le=1)] | None = None
    xtc_threshold: Annotated[Number, Field(ge=0, le=1)] | None = None
    dynatemp_range: Annotated[Number, Field(ge=0, le=100)] | None = None
    dynatemp_exponent: Annotated[Number, Field(ge=0, le=100)] | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: Annotated[Number, Field(ge=0, le=1000)] | None = None
    mirostat_eta: Annotated[Number, Field(ge=0, le=1)] | None = None
    dry_multiplier: Annotated[Number, Field(ge=0, le=100)] | None = None
    dry_base: Annotated[Number, Field(ge=0, le=100)] | None = None
    dry_allowed_length: Whole | None = None
    dry_penalty_last_n: Annotated[StrictInt, Field(ge=-1, le=1_000_000)] | None = None
    dry_sequence_breakers: list[StrictStr] | None = Field(default=None, max_length=_MAX_STRINGS)
    adaptive_target: Annotated[Number, Field(ge=-1, le=1)] | None = None
    adaptive_decay: Annotated[Number, Field(ge=0, le=1)] | None = None
    min_keep: Whole | None = None
    samplers: list[StrictStr] | None = Field(default=None, max_length=_MAX_STRINGS)
    grammar: StrictStr | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    deterministic: StrictBool | None = None
    adapter: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None

    @property
    def streams(self) -> bool:
        return bool(self.stream)

    @property
    def tier(self) -> ServiceTier | None:
        return _TIERS.get(self.service_tier or "auto")

    def drawing(self) -> dict[str, Any]:
        """The samplers that are set, as fields of `Sampling`."""
        found = {name: getattr(self, name) for name in _SAMPLERS}
        return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items() if v is not None}


_SAMPLERS = tuple(f.name for f in fields(Sampling) if f.name in Generation.model_fields)


def parse(kind: type[AnyBody], raw: Mapping[str, Any]) -> AnyBody:
    """Raises `BadRequest` naming the first field that is wrong, as `param`."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise _bad(error.errors(include_url=False, include_context=False), raw) from error


def _bad(errors: Sequence[Any], raw: Mapping[str, Any]) -> BadRequest:
    first = errors[0]
    param = ".".join(str(p) for p in first["loc"] if not _is_type_name(p))[:200] or None
    if first["type"] == "missing":
        return BadRequest(f"{param} is missing", param=param)
    if first["type"] == "extra_forbidden":
        return BadRequest(f"{param} is not honoured", hint="leave it out", param=param)
    value = raw.get(str(first["loc"][0])) if len(first["loc"]) == 1 else None
    shown = f" (got {value!r})" if isinstance(value, (int, float, bool)) else ""
    return BadRequest(f"{param}: {first['msg']}{shown}", param=param)


def _is_type_name(part: Any) -> bool:
    """Pydantic puts the tried alternatives of a union into the location."""
    return isinstance(part, str) and (part in ("str", "int") or part.startswith("constrained-") or "[" in part)


def _unknown(name: str, known: Sequence[str]) -> BadRequest:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "leave it out; docs/gateway.md lists what is honoured"
    return BadRequest(f"unknown parameter {name[:100]!r}", hint=hint, param=name[:100])
