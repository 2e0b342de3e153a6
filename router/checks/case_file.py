"""A file of cases: requests, what is supposed of the rest, and what must be decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictInt, StrictStr, ValidationError, model_validator

from foreshore.config import Misplaced
from foreshore.errors import ConfigError, NotFound
from foreshore.lined_yaml import Document, Loc, read_yaml
from foreshore.runtime_config import Part

__all__ = ["Asked", "Case", "CaseFile", "Expected", "read_cases"]

MAX_FILE_BYTES = 4 * 1024 * 1024
Words = tuple[StrictStr, ...]
Fields = dict[StrictStr, Any]


class Asked(Part):
    """What the user says, or a whole body as an OpenAI client sends it. `labels` and `fields` replace what the gateway
    would find."""

    text: StrictStr = ""
    body: dict[str, Any] | None = None
    model: StrictStr = "auto"
    tenant: StrictStr = "default"
    headers: dict[StrictStr, StrictStr] = Field(default_factory=dict)
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    labels: Words | None = None
    fields: Fields = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one(self) -> Asked:
        inside = self.model_fields_set & {"text", "model", "max_tokens"}
        if self.body is not None and inside:
            raise ValueError(f"{', '.join(sorted(inside))} belongs into the body, where there is one")
        return self


class Expected(Part):
    """`refused`: true, or a part of the reason. `never`: targets that must not be tried."""

    targets: Words | None = None
    first: StrictStr | None = None
    rule: StrictStr | None = None
    strategy: StrictStr | None = None
    refused: StrictBool | StrictStr | None = None
    private: StrictBool | None = None
    reasons: Words = ()  # parts of them
    never: Words = ()

    @model_validator(mode="after")
    def _something(self) -> Expected:
        if not self.model_fields_set:
            raise ValueError(f"expects nothing; it takes {', '.join(type(self).model_fields)}")
        return self


class Case(Part):
    name: StrictStr
    request: Asked = Asked()
    device: Fields = Field(default_factory=dict)
    budget: Fields = Field(default_factory=dict)
    now: Fields = Field(default_factory=dict)
    targets: dict[StrictStr, Fields] = Field(default_factory=dict)
    expect: Expected

    def settings(self) -> dict[Loc, tuple[str, Any]]:
        """What it supposes, by where it says so: a field and its value, as `changes.changed` takes them."""
        found: dict[Loc, tuple[str, Any]] = {}
        for part in ("device", "budget", "now"):
            found |= {(part, key): (f"{part}.{key}", value) for key, value in getattr(self, part).items()}
        for name, values in self.targets.items():
            found |= {("targets", name, key): (f"target.{name}.{key}", v) for key, v in values.items()}
        if self.request.labels is not None:
            found[("request", "labels")] = ("request.labels", list(self.request.labels))
        return found | {("request", "fields", k): (f"request.{k}", v) for k, v in self.request.fields.items()}


class _Cases(Part):
    cases: tuple[Case, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> _Cases:
        seen: set[str] = set()
        for i, case in enumerate(self.cases):
            if case.name in seen:
                raise Misplaced(f"the name {case.name!r} stands here twice", ("cases", i, "name"))
            seen.add(case.name)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFile:
    where: str
    cases: Sequence[Case]
    document: Document

    def line(self, index: int, *loc: str | int) -> int:
        return self.document.line(("cases", index, *loc))


def read_cases(path: Path) -> CaseFile:
    """Raises `NotFound`, or `ConfigError` with file and line."""
    where = str(path)
    document = read_yaml(_text(path, where), where)
    try:
        return CaseFile(where=where, cases=_Cases.model_validate(document.data).cases, document=document)
    except ValidationError as error:
        complaints = [_complaint(e, document, where) for e in error.errors(include_url=False)]
        raise ConfigError("\n".join(complaints), hint="docs/policy-checks.md lists every key") from error


def _text(path: Path, where: str) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no file {where!r}", hint="docs/policy-checks.md has an example") from None
    except OSError as error:
        raise ConfigError(f"cannot read {where!r}: {error.strerror}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{where!r} is larger than {MAX_FILE_BYTES} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where!r} is not UTF-8 at byte {error.start}") from error


def _complaint(error: Any, document: Document, where: str) -> str:
    cause = error.get("ctx", {}).get("error")
    loc: Loc = cause.loc if isinstance(cause, Misplaced) else tuple(error["loc"])
    path = ".".join(map(str, loc)) or "the file"
    unknown = error["type"] == "extra_forbidden"
    what = f"unknown key {path!r}" if unknown else f"{path}: {error['msg'].removeprefix('Value error, ')}"
    return f"{where}:{document.line(loc)}: {what}"
