"""Builds ONNX variants: source -> graph in float32 -> one graph for each type, each a folder that the engine loads."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foreshore.disk import disk_errors, require_space, sha256
from foreshore.edge.onnx_folder import MODEL, open_folder
from foreshore.errors import ModelError, SetupError, UsageError
from foreshore.manifest import FileRecord, Manifest, Source
from foreshore.quantize.onnx_export import HfSource, open_source
from foreshore.quantize.onnx_job import run
from foreshore.quantize.onnx_types import ONNX_F32, ONNX_TYPES, OnnxType, parse_onnx_types
from foreshore.quantize.progress import OnProgress, Progress, Stage, silent
from foreshore.quantize.source import locate
from foreshore.quantize.texts import Corpus, calibration_text
from foreshore.store import Store, check_name

__all__ = ["build_onnx"]

_GRAPH = (MODEL, "model.onnx_data")
_BESIDE = (
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_TOOLS = ("foreshore", "onnxruntime", "onnx", "optimum-onnx", "torch", "transformers")


def build_onnx(
    source: str | Path,
    types: Iterable[str] = ("onnx-int8",),
    name: str | None = None,
    *,
    store: Store | None = None,
    progress: OnProgress | None = None,
    force: bool = False,
    calibration: Corpus | None = None,
) -> list[Manifest]:
    """Have an ONNX variant of `source` in the store for each of `types`, and return their manifests in that order.

    `source` is a Hugging Face folder, `hf:ORG/NAME[@REVISION]`, or a bundled model's name: a decoder, or an encoder.
    `calibration` is what GPTQ reads, by default the shipped text. A variant whose source hashes, recipe and tools are
    the same is reused, unless `force`. Each one has been loaded and has computed a token before it is stored. Raises
    `UsageError`, `ModelError`, `NotFound` or `SetupError`; what was finished before an error stays.
    """
    wanted = parse_onnx_types(types)
    if name is not None:
        check_name(name)
    progress = progress or silent
    origin = locate(source, progress)
    if not origin.path.is_dir():
        hint = "give the folder that the .gguf file was made of"
        raise UsageError(
            f"{str(origin.path)!r} is no Hugging Face folder, which ONNX variants are made from", hint=hint
        )
    with ExitStack() as stack:
        builder = _Builder(
            store=store or Store(),
            name=name or origin.name,
            model=open_source(origin.path),
            source=origin.hashed(progress),
            texts=calibration or calibration_text(origin.id if origin.kind == "bundled" else None),
            force=force,
            progress=progress,
            stack=stack,
        )
        return [builder.variant(kind) for kind in wanted]


@dataclass(kw_only=True)
class _Builder:
    store: Store
    name: str
    model: HfSource
    source: Source
    texts: Corpus
    force: bool
    progress: OnProgress
    stack: ExitStack
    exported: Path | None = None  # a folder with the graph in float32

    def variant(self, kind: OnnxType) -> Manifest:
        ref = f"{self.name}:{kind.name}"
        with self.store.lock(self.name, kind.name, waiting=lambda: self.tell("wait", ref)):
            found = None if self.force else self.reusable(kind)
            if found:
                self.tell("reuse", ref)
                return found
            made = self.make(kind, ref)
        self.tell("ready", ref)
        return made

    def reusable(self, kind: OnnxType) -> Manifest | None:
        """The variant in the store, if building it now would make the same and its files are sound."""
        found = self.store.find(self.name, kind.name)
        if not found:
            return None
        same = found.source.files == self.source.files and found.source.revision == self.source.revision
        if not same or found.recipe != self.recipe(kind) or found.tools != _tools():
            return None
        try:
            self.store.resolve(found.ref)
        except ModelError:
            return None
        return found

    def recipe(self, kind: OnnxType) -> dict[str, Any]:
        return {**kind.recipe, "calibration": self.texts.sha256 if kind.calibrated else None}

    def make(self, kind: OnnxType, ref: str) -> Manifest:
        began = time.perf_counter()
        base = self.exported = self.exported or self.export(ref)
        with self.store.draft() as draft:
            files, scratch = draft / "files", draft / "scratch"
            files.mkdir()
            scratch.mkdir()
            notes = self.quantize(base, files, scratch, kind, ref)
            _check_whole(files)
            seconds = round(time.perf_counter() - began, 3)
            return self.store.add(self.manifest(kind, files, notes, seconds), files)

    def export(self, ref: str) -> Path:
        """The folder with the graph in float32: that of the variant in the store, or a new one."""
        stored = None if self.force else self.reusable(ONNX_TYPES[ONNX_F32])
        if stored:
            return self.store.folder(stored)
        draft = self.stack.enter_context(self.store.draft())
        files, scratch = draft / "files", draft / "scratch"
        files.mkdir()
        scratch.mkdir()
        require_space(draft, self.model.nbytes)
        with disk_errors(draft, self.model.nbytes):
            run(
                "export",
                doing=f"exported {self.name!r}",
                scratch=scratch,
                progress=self.meter("convert", ref),
                source=str(self.model.path),
                target=str(files),
                what=self.model.task,
                architecture=self.model.architecture,
            )
        _check_whole(files)
        return files

    def quantize(self, base: Path, files: Path, scratch: Path, kind: OnnxType, ref: str) -> tuple[str, ...]:
        """Fill the folder `files` of a variant."""
        self.tell("quantize", ref)
        with disk_errors(files, self.model.nbytes):
            for name in _BESIDE:
                if (base / name).is_file():
                    shutil.copyfile(base / name, files / name)
            for name in _GRAPH if kind.method == "float" else ():
                if (base / name).is_file():
                    os.link(base / name, files / name)
            require_space(files, self.model.nbytes if kind.method != "float" else 0)
        result = run(
            "quantize",
            doing=f"made {kind.name!r}",
            scratch=scratch,
            kind=kind.name,
            source=str(base / MODEL),
            target=str(files / MODEL),
            texts=self.texts.documents if kind.calibrated else (),
            special=self.texts.special,
        )
        return tuple(result["notes"])

    def manifest(self, kind: OnnxType, files: Path, notes: tuple[str, ...], seconds: float) -> Manifest:
        names = sorted((p.name for p in files.iterdir()), key=lambda n: (n not in _GRAPH, n))
        graph = sum((files / n).stat().st_size for n in names if n in _GRAPH)
        return Manifest(
            name=self.name,
            variant=kind.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            source=self.source,
            files={n: FileRecord(sha256=sha256(files / n), bytes=(files / n).stat().st_size) for n in names},
            recipe=self.recipe(kind),
            tools=_tools(),
            architecture=self.model.architecture,
            parameters=self.model.parameters,
            bits_per_weight=round(8 * graph / self.model.parameters, 4),
            context_length=open_folder(files / MODEL).trained_tokens,
            seconds=seconds,
            notes=notes,
        )

    def tell(self, stage: Stage, ref: str) -> None:
        self.progress(Progress(stage=stage, what=ref))

    def meter(self, stage: Stage, ref: str) -> Any:
        return lambda done, total: self.progress(Progress(stage=stage, what=ref, done=done, total=total))


def _check_whole(files: Path) -> None:
    """Raise `SetupError` for a graph that was not written to its end, `ModelError` where a file is missing."""
    if not (files / MODEL).is_file():
        raise ModelError(f"the export holds no {MODEL}, but {sorted(p.name for p in files.iterdir())[:5]}")
    try:
        open_folder(files / MODEL)
    except ModelError as error:
        if "no ONNX model" not in error.message:
            raise
        hint = "look for limits on file sizes (ulimit -f) and quotas"
        raise SetupError(f"the graph was not written completely: {error.message}", hint=hint) from error


@cache
def _tools() -> dict[str, str]:
    """Raises `SetupError` where one is missing."""
    try:
        return {tool: version(tool) for tool in _TOOLS}
    except PackageNotFoundError as error:
        raise SetupError(f"ONNX variants need {error.name}", hint="pip install 'foreshore[onnx-export]'") from error
