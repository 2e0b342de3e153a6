"""Builds ONNX variants: source -> graph in float32 -> one graph for each type, each a folder that the engine loads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foreshore.disk import disk_errors, require_space, sha256
from foreshore.edge.onnx.folder import MODEL, open_folder
from foreshore.errors import ModelError, SetupError, UsageError
from foreshore.manifest import Calibration, Manifest, Parent
from foreshore.quantize.onnx.export import HfSource, open_source
from foreshore.quantize.onnx.graph import DATA, weights
from foreshore.quantize.onnx.job import run
from foreshore.quantize.onnx.types import ONNX_F32, ONNX_TYPES, OnnxType, parse_onnx_types
from foreshore.quantize.progress import OnProgress, counter, silent
from foreshore.quantize.source import locate
from foreshore.quantize.storing import Facts, Storing
from foreshore.quantize.texts import Corpus, calibration_text
from foreshore.store import Store, check_name

__all__ = ["build_onnx"]

_GRAPH = (MODEL, DATA)
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
    model = open_source(origin.path)
    with ExitStack() as stack:
        storing = Storing(
            store=store or Store(),
            name=name or origin.name,
            source=origin.hashed(progress),
            tools=_tools(),
            force=force,
            progress=progress,
        )
        texts = calibration or calibration_text(origin.id if origin.kind == "bundled" else None)
        builder = _Builder(storing=storing, model=model, texts=texts, stack=stack)
        return [builder.variant(kind) for kind in wanted]


@dataclass(kw_only=True)
class _Builder:
    storing: Storing
    model: HfSource
    texts: Corpus
    stack: ExitStack
    base: Path | None = None  # a folder with the graph in float32

    def variant(self, kind: OnnxType) -> Manifest:
        return self.storing.variant(kind.name, self.settings(kind), partial(self.fill, kind))

    def settings(self, kind: OnnxType) -> dict[str, Any]:
        return {**kind.recipe, **({"text": self.texts.sha256} if kind.calibrated else {})}

    def fill(self, kind: OnnxType, files: Path, ref: str) -> Facts:
        base = self.base = self.base or self.exported(ref)
        notes = self.quantize(base, files, kind, ref)
        _check_whole(files)
        graph = sum((files / name).stat().st_size for name in _GRAPH if (files / name).is_file())
        return Facts(
            main=MODEL,
            architecture=self.model.architecture,
            parameters=self.model.parameters,
            bits_per_weight=8 * graph / self.model.parameters,
            context_length=open_folder(files / MODEL).trained_tokens,
            notes=notes,
            parent=Parent(sha256=sha256(weights(base)), ref=f"{self.storing.name}:{ONNX_F32}"),
            calibration=Calibration(text_sha256=self.texts.sha256) if kind.calibrated else None,
        )

    def exported(self, ref: str) -> Path:
        """The folder with the graph in float32: that of the variant in the store, or a new one."""
        kind = ONNX_TYPES[ONNX_F32]
        if stored := self.storing.reusable(kind.name, self.settings(kind)):
            return self.storing.store.folder(stored)
        files = self.stack.enter_context(self.storing.store.draft()) / "files"
        files.mkdir()
        require_space(files, self.model.nbytes)
        with disk_errors(files, self.model.nbytes):
            run(
                "export",
                doing=f"exported {self.storing.name!r}",
                scratch=_scratch(files),
                progress=counter(self.storing.progress, "convert", ref),
                source=str(self.model.path),
                target=str(files),
                what=self.model.task,
                architecture=self.model.architecture,
            )
        _check_whole(files)
        return files

    def quantize(self, base: Path, files: Path, kind: OnnxType, ref: str) -> tuple[str, ...]:
        """Fill the folder `files` of a variant. Returns notes."""
        self.storing.tell("quantize", ref)
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
                scratch=_scratch(files),
                kind=kind.name,
                source=str(base / MODEL),
                target=str(files / MODEL),
                texts=self.texts.documents if kind.calibrated else (),
                special=self.texts.special,
            )
        return tuple(result["notes"])


def _scratch(files: Path) -> Path:
    """A folder for temporary files in the draft whose `files` these are."""
    folder = files.with_name("scratch")
    folder.mkdir(exist_ok=True)
    return folder


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
