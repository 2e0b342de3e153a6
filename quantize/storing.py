"""Keeps what a build makes in the store: a variant that is there already is reused, and two builders make it once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foreshore.disk import sha256
from foreshore.errors import ModelError
from foreshore.manifest import Calibration, FileRecord, Manifest, Parent, Source
from foreshore.quantize.progress import OnProgress, Progress, Stage
from foreshore.store import Store

__all__ = ["Facts", "Fill", "Storing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a manifest says of the files that were made. `main` is the one that an engine opens; `found` goes into the
    recipe beside the settings."""

    main: str
    architecture: str
    parameters: int
    bits_per_weight: float
    context_length: int  # tokens
    notes: tuple[str, ...] = ()
    found: Mapping[str, Any] = field(default_factory=dict)
    parent: Parent | None = None
    calibration: Calibration | None = None


Fill = Callable[[Path, str], Facts]
"""Makes all files of the variant with that ref in an empty folder, the `files` of a draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storing:
    """Of one source under one name. `tools` are those that decide, with the source and the settings, what is made."""

    store: Store
    name: str
    source: Source
    tools: Mapping[str, str]
    force: bool
    progress: OnProgress

    def variant(self, variant: str, settings: Mapping[str, Any], fill: Fill) -> Manifest:
        """The variant as the store has it, or made by `fill` and then stored, whole or not at all."""
        ref = f"{self.name}:{variant}"
        with self.store.lock(self.name, variant, waiting=lambda: self.tell("wait", ref)):
            found = self.reusable(variant, settings)
            if found:
                self.tell("reuse", ref)
                return found
            made = self._made(variant, settings, fill, ref)
        self.tell("ready", ref)
        return made

    def reusable(self, variant: str, settings: Mapping[str, Any]) -> Manifest | None:
        """The variant in the store, if building it now would make the same and its files are sound; none if forced."""
        found = None if self.force else self.store.find(self.name, variant)
        if not found or (found.source.files, found.source.revision) != (self.source.files, self.source.revision):
            return None
        if {key: found.recipe.get(key) for key in settings} != settings or found.tools != self.tools:
            return None
        try:
            return self.store.sound(found.ref)
        except ModelError:
            return None

    def tell(self, stage: Stage, ref: str) -> None:
        self.progress(Progress(stage=stage, what=ref))

    def _made(self, variant: str, settings: Mapping[str, Any], fill: Fill, ref: str) -> Manifest:
        began = time.perf_counter()
        with self.store.draft() as draft:
            files = draft / "files"
            files.mkdir()
            facts = fill(files, ref)
            seconds = round(time.perf_counter() - began, 3)
            return self.store.add(self._manifest(variant, settings, facts, _records(files, facts.main), seconds), files)

    def _manifest(
        self,
        variant: str,
        settings: Mapping[str, Any],
        facts: Facts,
        files: Mapping[str, FileRecord],
        seconds: float,
    ) -> Manifest:
        return Manifest(
            name=self.name,
            variant=variant,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            source=self.source,
            files=files,
            recipe={**settings, **facts.found},
            tools=self.tools,
            architecture=facts.architecture,
            parameters=facts.parameters,
            bits_per_weight=round(facts.bits_per_weight, 4),
            context_length=facts.context_length,
            seconds=seconds,
            notes=facts.notes,
            parent=facts.parent,
            calibration=facts.calibration,
        )


def _records(folder: Path, main: str) -> dict[str, FileRecord]:
    """Of every file, `main` first."""
    paths = sorted(folder.iterdir(), key=lambda path: (path.name != main, path.name))
    return {path.name: FileRecord(sha256=sha256(path), bytes=path.stat().st_size) for path in paths}
