"""What a variant in the model store is and how it came to be: `manifest.json`, one beside each variant's files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from foreshore.card import Card, parse
from foreshore.errors import ModelError

__all__ = [
    "SCHEMA",
    "Calibration",
    "Decision",
    "FileRecord",
    "Manifest",
    "Parent",
    "Source",
    "SourceKind",
    "State",
    "quality_sha256",
]

SCHEMA = 2
READABLE = (1, 2)  # 1: before there were parent, calibration, card and gate
SourceKind = Literal["folder", "gguf", "hub", "bundled"]
State = Literal["candidate", "ready"]
FULL_PRECISION = frozenset({"f32", "bf16", "f16", "onnx-f32"})


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
class Parent:
    """The same model in its own precision, which the variant was made of and is measured against."""

    sha256: str  # of its file
    ref: str = ""  # NAME:VARIANT, where it is kept in the store


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the quantizer was told of the weights' importance, the text that this is of, and the text that a search for
    a mix read. An imatrix that was given may not say its text."""

    imatrix_sha256: str | None = None
    text_sha256: str | None = None
    search_sha256: str | None = None

    @property
    def texts(self) -> frozenset[str]:
        """What is measured on one of these looks better than it is."""
        return frozenset(sha for sha in (self.text_sha256, self.search_sha256) if sha)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a gate found; `reasons` names each condition that was not met. It holds for what it was made on."""

    rule: str
    owner: str
    date: str  # UTC, ISO 8601
    passed: bool
    reasons: tuple[str, ...] = ()
    quality_sha256: str = ""  # of the card's quality, as the function of that name has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`recipe` has `type` and every option given, and for a mix `tensors`, the type of each tensor.

    Equal source, recipe and tools make an equal variant. What was measured later is in `card`, and every decision of a
    gate in `gate`, the last one last.
    """

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
    parent: Parent | None = None
    calibration: Calibration | None = None
    card: Card | None = None
    gate: tuple[Decision, ...] = ()

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.variant}"

    @property
    def state(self) -> State:
        """`ready` only by a gate: its last decision passed, and the quality it judged is the one in the card. The
        parent itself, with which nothing was done, needs none. Without a parent in full precision nothing is."""
        decision = self.decision
        if self.parent_quantized:
            return "candidate"
        if decision is None:
            return "ready" if self._is_parent else "candidate"
        return "ready" if decision.passed and decision.quality_sha256 == quality_sha256(self.card) else "candidate"

    @property
    def came_quantized(self) -> bool:
        """Whether it is the source's own file, and that is not in full precision: what it lost cannot be measured."""
        return self._is_parent and self.recipe.get("type") not in FULL_PRECISION

    @property
    def parent_quantized(self) -> bool:
        """Whether what it was made of, or is, had lost something before: how much cannot be measured."""
        _, _, kind = self.parent.ref.rpartition(":") if self.parent else ("", "", "")
        return self.came_quantized or (not self._is_parent and kind not in (*FULL_PRECISION, "unknown", ""))

    @property
    def _is_parent(self) -> bool:
        """Whether it is the very file that variants are made of, and measured against."""
        return self.parent is not None and self.parent.sha256 in [record.sha256 for record in self.files.values()]

    @property
    def decision(self) -> Decision | None:
        """The one that counts."""
        return self.gate[-1] if self.gate else None

    @property
    def bytes(self) -> int:
        return sum(record.bytes for record in self.files.values())

    @property
    def main(self) -> str:
        """The name of the file that an engine opens."""
        return next(iter(self.files))

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self), "state": self.state, "bytes": self.bytes}

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


def quality_sha256(card: Card | None) -> str:
    """Of what a gate judges: all that was measured but speeds and confidence, in canonical JSON."""
    plain = json.loads(json.dumps((card or Card()).to_json()))
    measured = {**Card.from_json(plain).to_json(), "speeds": ()}
    del measured["confidence"]  # decisions made before there was any still hold
    if measured["divergence"] and measured["divergence"]["perplexity_ratio"] is None:
        del measured["divergence"]["perplexity_ratio"]  # as do those
    text = json.dumps(measured, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _parse(value: Any) -> Manifest:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {type(value).__name__}")
    if value.get("schema") not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise ValueError(f"schema {value.get('schema')!r} is unknown, this version reads {known}")
    if value.get("state") not in (None, *get_args(State)):
        raise ValueError(f"state {value['state']!r} is unknown")
    # The state follows from the gate; before schema 2 it said no more than that the build had ended.
    rest = {k: v for k, v in value.items() if k not in ("schema", "state", "bytes")}
    manifest = parse(Manifest, rest)
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    if not manifest.files:
        raise ValueError("it lists no files")
    for name, record in manifest.files.items():
        _check_file(name, record)
    if manifest.parent is not None:
        _check_digest(manifest.parent.sha256, "parent")
    tensors = manifest.recipe.get("tensors")
    if tensors is not None and not (isinstance(tensors, dict) and all(isinstance(v, str) for v in tensors.values())):
        raise TypeError("recipe.tensors does not name a type for each tensor")


def _check_file(name: str, record: FileRecord) -> None:
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"file name {name!r} leads out of the variant's folder")
    if record.bytes < 0:
        raise ValueError(f"file {name!r} has {record.bytes!r} bytes")
    _check_digest(record.sha256, f"file {name!r}")


def _check_digest(digest: str, what: str) -> None:
    if len(bytes.fromhex(digest)) != 32:
        raise ValueError(f"{what} has no valid SHA-256")
