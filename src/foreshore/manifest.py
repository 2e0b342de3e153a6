"""What a variant in the model store is and how it came to be: `manifest.json`, one beside each variant's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from foreshore.errors import ModelError

__all__ = ["SCHEMA", "FileRecord", "Manifest", "Source", "SourceKind", "State"]

SCHEMA = 1
SourceKind = Literal["folder", "gguf", "hub", "bundled"]
State = Literal["candidate", "ready"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    sha256: str  # hexadecimal
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the weights came from. `revision` is a commit hash for the hub, else empty."""

    kind: SourceKind
    id: str  # a path, a hub id, or a bundled model's name
    revision: str = ""
    files: Mapping[str, str] = field(default_factory=dict)  # name -> SHA-256 of each file that was used


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`recipe` has `type` and every option given; equal source, recipe and tools make an equal variant."""

    name: str
    variant: str
    created: str  # UTC, ISO 8601
    source: Source
    files: Mapping[str, FileRecord]
    recipe: Mapping[str, Any]
    tools: Mapping[str, str]  # name -> version
    architecture: str
    parameters: int
    bits_per_weight: float
    context_length: int  # tokens
    seconds: float  # what building took
    notes: tuple[str, ...] = ()  # what a reader should know: fallback types, a shortened context
    state: State = "ready"

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.variant}"

    @property
    def bytes(self) -> int:
        return sum(record.bytes for record in self.files.values())

    @property
    def main(self) -> str:
        """The name of the file that an engine opens."""
        return next(iter(self.files))

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self), "bytes": self.bytes}

    @classmethod
    def from_json(cls, value: Any, *, where: str = "manifest") -> Manifest:
        """The inverse of `to_json`. Raises `ModelError` that names `where` if anything is missing or odd."""
        try:
            return _parse(value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(
                f"{where} is not a manifest: {error}", hint="remove the variant and build it again"
            ) from error

    @classmethod
    def load(cls, path: Path) -> Manifest:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            hint = "remove the variant and build it again"
            raise ModelError(f"{str(path)!r} is not a manifest: {error}", hint=hint) from error
        return cls.from_json(value, where=repr(str(path)))

    def dump(self) -> str:
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"


def _parse(value: Any) -> Manifest:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    if value.get("schema") != SCHEMA:
        raise ValueError(f"schema {value.get('schema')!r} is unknown, this version reads schema {SCHEMA}")
    rest = {k: v for k, v in value.items() if k not in ("schema", "bytes")}
    unknown = set(rest) - {f.name for f in fields(Manifest)}
    if unknown:
        raise ValueError(f"unknown fields {sorted(unknown)}")
    rest["source"] = _source(rest["source"])
    rest["files"] = {str(name): _file(name, record) for name, record in rest["files"].items()}
    rest["notes"] = tuple(map(str, rest.get("notes", ())))
    manifest = Manifest(**rest)
    _check(manifest)
    return manifest


def _source(value: dict[str, Any]) -> Source:
    source = Source(**value)
    if source.kind not in get_args(SourceKind):
        raise ValueError(f"source kind {source.kind!r} is unknown")
    return source


def _file(name: str, record: dict[str, Any]) -> FileRecord:
    file = FileRecord(**record)
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"file name {name!r} leads out of the variant's folder")
    if not isinstance(file.bytes, int) or file.bytes < 0 or len(bytes.fromhex(file.sha256)) != 32:
        raise ValueError(f"file {name!r} has no valid size and SHA-256")
    return file


def _check(manifest: Manifest) -> None:
    if not manifest.files:
        raise ValueError("it lists no files")
    if manifest.state not in get_args(State):
        raise ValueError(f"state {manifest.state!r} is unknown")
    for key, kind in (("name", str), ("variant", str), ("created", str), ("architecture", str), ("recipe", dict)):
        if not isinstance(getattr(manifest, key), kind):
            raise TypeError(f"{key} is {getattr(manifest, key)!r}, not {kind.__name__}")
    for key in ("parameters", "bits_per_weight", "context_length", "seconds"):
        if not isinstance(getattr(manifest, key), (int, float)):
            raise TypeError(f"{key} is {getattr(manifest, key)!r}, not a number")
