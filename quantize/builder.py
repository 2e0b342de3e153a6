"""Builds variants: source -> base GGUF in the source's own precision -> one quantized file for each type."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from foreshore.disk import disk_errors, require_space, sha256
from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.errors import ModelError, UsageError
from foreshore.manifest import FileRecord, Manifest, Source
from foreshore.quantize.convert import HfFolder, convert
from foreshore.quantize.ftypes import check_imatrix, parse_types
from foreshore.quantize.imatrix import read_imatrix
from foreshore.quantize.native import plan, quantize
from foreshore.quantize.progress import OnProgress, Progress, Stage, silent
from foreshore.quantize.source import locate
from foreshore.store import Store, check_name

__all__ = ["build"]

MODEL = "model.gguf"


def build(
    source: str | Path,
    types: Iterable[str] | None = ("q4_k_m",),
    name: str | None = None,
    *,
    store: Store | None = None,
    progress: OnProgress | None = None,
    force: bool = False,
    imatrix: str | Path | None = None,
    requantize: bool = False,
) -> list[Manifest]:
    """Have a variant of `source` in the store for each of `types`, and return their manifests in that order.

    `source` is a Hugging Face folder, a .gguf file, `hf:ORG/NAME[/FILE.gguf][@REVISION]`, or a bundled model's
    name. `types=None` keeps the source's own precision. A variant whose source hashes, recipe and tools are
    the same is reused, unless `force`. `imatrix` is an importance matrix in GGUF; `requantize` allows a source
    that is quantized already. Raises `UsageError`, `ModelError`, `NotFound` or `SetupError`; what was finished
    before an error stays.
    """
    wanted = None if types is None else parse_types(types)
    if imatrix is None:
        check_imatrix(wanted or ())
    else:
        read_imatrix(imatrix)
    if name is not None:
        check_name(name)
    progress = progress or silent
    origin = locate(source, progress)
    model = origin.open()
    with ExitStack() as stack:
        builder = _Builder(
            store=store or Store(),
            name=name or origin.name,
            model=model,
            source=origin.hashed(progress),
            imatrix=Path(imatrix).absolute() if imatrix else None,
            requantize=requantize,
            force=force,
            progress=progress,
            stack=stack,
        )
        return [builder.variant(kind) for kind in wanted or (_own_type(model),)]


@dataclass(kw_only=True)
class _Base:
    """The file that all variants are made of, and what its making noted."""

    info: GgufInfo
    notes: tuple[str, ...] = ()
    ours: bool = False  # made in a draft, so that a variant may take it over


@dataclass(kw_only=True)
class _Builder:
    store: Store
    name: str
    model: HfFolder | GgufInfo
    source: Source
    imatrix: Path | None
    requantize: bool
    force: bool
    progress: OnProgress
    stack: ExitStack
    base: _Base | None = None

    def variant(self, kind: str) -> Manifest:
        ref = f"{self.name}:{kind}"
        with self.store.lock(self.name, kind, waiting=lambda: self.tell("wait", ref)):
            found = None if self.force else self.reusable(kind)
            if found:
                self.tell("reuse", ref)
                return found
            made = self.make(kind, ref)
        self.tell("ready", ref)
        return made

    def reusable(self, kind: str) -> Manifest | None:
        """The variant in the store, if building it now would make the same and its files are sound."""
        found = self.store.find(self.name, kind)
        if not found or found.state != "ready":
            return None
        same = found.source.files == self.source.files and found.source.revision == self.source.revision
        if not same or found.recipe != self.recipe(kind) or found.tools != _tools():
            return None
        try:
            self.store.resolve(found.ref)
        except ModelError:
            return None
        return found

    def recipe(self, kind: str) -> dict[str, Any]:
        imatrix = sha256(self.imatrix) if self.imatrix else None
        return {"type": kind, "imatrix": imatrix, "requantize": self.requantize}

    def make(self, kind: str, ref: str) -> Manifest:
        began = time.perf_counter()
        base = self.base = self.base or self.make_base(kind, ref)
        with self.store.draft() as folder:
            target = folder / "files" / MODEL
            target.parent.mkdir()
            copied = kind == base.info.file_type
            made, notes = self.copy(base, target) if copied else self.quantize(base, target, kind, ref)
            seconds = round(time.perf_counter() - began, 3)
            manifest = self.manifest(kind, made, (*base.notes, *notes), seconds)
            return self.store.add(manifest, target.parent)

    def make_base(self, kind: str, ref: str) -> _Base:
        if isinstance(self.model, GgufInfo):
            return _Base(info=self.model)
        precision = self.model.precision
        stored = self.reusable(precision) if kind != precision else None
        if stored:  # an earlier run kept the base as a variant
            return _Base(info=inspect(self.store.path(stored)), notes=stored.notes)
        target = self.stack.enter_context(self.store.draft()) / MODEL
        convert(self.model, target, self.name, self.meter("convert", ref, self.model.nbytes))
        return _Base(info=inspect(target), notes=self.model.notes, ours=True)

    def copy(self, base: _Base, target: Path) -> tuple[GgufInfo, tuple[str, ...]]:
        with disk_errors(target.parent, base.info.size):
            if base.ours:
                os.link(base.info.path, target)
            else:
                require_space(target.parent, base.info.size)
                shutil.copyfile(base.info.path, target)
        return inspect(target), ()

    def quantize(self, base: _Base, target: Path, kind: str, ref: str) -> tuple[GgufInfo, tuple[str, ...]]:
        planned = plan(base.info, kind, requantize=self.requantize)
        if planned.needs_imatrix and not self.imatrix:
            raise UsageError(f"{kind!r} of this model needs an importance matrix", hint="give one with --imatrix FILE")
        made = quantize(
            base.info,
            target,
            kind,
            planned,
            imatrix=self.imatrix,
            requantize=self.requantize,
            progress=self.meter("quantize", ref, base.info.size),
        )
        return made, planned.fallbacks

    def manifest(self, kind: str, made: GgufInfo, notes: tuple[str, ...], seconds: float) -> Manifest:
        return Manifest(
            name=self.name,
            variant=kind,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            source=self.source,
            files={MODEL: FileRecord(sha256=sha256(made.path), bytes=made.size)},
            recipe=self.recipe(kind),
            tools=_tools(),
            architecture=made.architecture,
            parameters=made.n_params,
            bits_per_weight=round(made.bits_per_weight, 4),
            context_length=made.context_length,
            seconds=seconds,
            notes=notes,
        )

    def tell(self, stage: Stage, ref: str) -> None:
        self.progress(Progress(stage=stage, what=ref))

    def meter(self, stage: Stage, ref: str, total: int) -> Callable[[int], None]:
        return lambda done: self.progress(Progress(stage=stage, what=ref, done=done, total=total))


def _own_type(model: HfFolder | GgufInfo) -> str:
    kind = model.file_type if isinstance(model, GgufInfo) else model.precision
    if kind == "unknown":
        raise ModelError("the file does not say which quantization it has", hint="say it with --types")
    return kind


@cache
def _tools() -> dict[str, str]:
    return {tool: version(tool) for tool in ("foreshore", "llama_cpp_python", "gguf")}
