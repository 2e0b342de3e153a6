"""Builds variants: source -> base GGUF in the source's own precision -> one file for each type, or for a mix."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

from foreshore.disk import sha256
from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.errors import ModelError, UsageError
from foreshore.manifest import FileRecord, Manifest, Parent, Source
from foreshore.quantize.convert import HfFolder, convert
from foreshore.quantize.fit_targets import FitTargets, parse_fit
from foreshore.quantize.ftypes import check_imatrix, parse_types
from foreshore.quantize.imatrix import read_imatrix
from foreshore.quantize.importance import AUTO, Importance
from foreshore.quantize.meter import Meter, MeterJob
from foreshore.quantize.progress import OnProgress, Progress, Stage, silent
from foreshore.quantize.recipes import Base, Made, Mix, Recipe, Uniform, settled
from foreshore.quantize.source import Origin, locate
from foreshore.quantize.texts import Corpus, calibration_text
from foreshore.store import Store, check_name

__all__ = ["BUDGET_S", "build", "build_mix"]

MODEL = "model.gguf"
BUDGET_S = 600.0  # of a search


def build(
    source: str | Path,
    types: Iterable[str] | None = ("q4_k_m",),
    name: str | None = None,
    *,
    store: Store | None = None,
    progress: OnProgress | None = None,
    force: bool = False,
    imatrix: str | Path | None = None,
    calibration: Corpus | None = None,
    requantize: bool = False,
) -> list[Manifest]:
    """Have a variant of `source` in the store for each of `types`, and return their manifests in that order.

    `source` is a Hugging Face folder, a .gguf file, `hf:ORG/NAME[/FILE.gguf][@REVISION]`, or a bundled model's
    name. `types=None` keeps the source's own precision. A variant whose source hashes, recipe and tools are
    the same is reused, unless `force`. `imatrix` is an importance matrix in GGUF, or "auto": then one is collected on
    `calibration` (default: a shipped text). `requantize` allows a source that is quantized already. Raises
    `UsageError`, `ModelError`, `NotFound` or `SetupError`; what was finished before an error stays.
    """
    wanted = None if types is None else parse_types(types)
    if imatrix is None:
        check_imatrix(wanted or ())
    _check(name, imatrix)
    origin = locate(source, progress or silent)
    importance = _importance(origin, imatrix, calibration)
    model = origin.open()
    recipes = [
        Uniform(kind=kind, importance=importance, requantize=requantize) for kind in wanted or (_own_type(model),)
    ]
    return _build(origin, model, recipes, name, store or Store(), progress or silent, force)


def build_mix(
    source: str | Path,
    fit: FitTargets | str | Iterable[str],
    name: str | None = None,
    *,
    store: Store | None = None,
    progress: OnProgress | None = None,
    force: bool = False,
    imatrix: str | Path | None = AUTO,
    calibration: Corpus | None = None,
    budget_s: float = BUDGET_S,
    workers: int | None = None,
    meters: Callable[[MeterJob], Meter] = Meter,
) -> Manifest:
    """Have a variant of `source` in the store whose types, tensor by tensor, were searched for to meet `fit`.

    The importance matrix is collected, and the search measures, on `calibration` (default: a shipped text), for at
    most `budget_s` seconds. `workers` and `meters` are those of `search`. All else is as in `build`. Raises
    `UsageError` too where `fit` cannot be met, saying what can.
    """
    targets = fit if isinstance(fit, FitTargets) else parse_fit(fit)
    if not budget_s > 0:
        raise UsageError(f"the budget is {budget_s!r} seconds; it must be positive")
    _check(name, imatrix)
    origin = locate(source, progress or silent)
    recipe = Mix(
        targets=targets,
        text=calibration or _default_text(origin),
        importance=_importance(origin, imatrix, calibration),
        budget_s=budget_s,
        workers=workers,
        meters=meters,
    )
    return _build(origin, origin.open(), [recipe], name, store or Store(), progress or silent, force)[0]


def _check(name: str | None, imatrix: str | Path | None) -> None:
    """What can be known to be wrong before anything is downloaded."""
    if name is not None:
        check_name(name)
    if imatrix is not None and imatrix != AUTO:
        read_imatrix(imatrix)


def _importance(origin: Origin, imatrix: str | Path | None, calibration: Corpus | None) -> Importance:
    if imatrix == AUTO:
        return Importance(text=calibration or _default_text(origin))
    return Importance(file=Path(imatrix).absolute() if imatrix else None)


def _default_text(origin: Origin) -> Corpus:
    return calibration_text(origin.id if origin.kind == "bundled" else None)


def _build(
    origin: Origin,
    model: HfFolder | GgufInfo,
    recipes: Iterable[Recipe],
    name: str | None,
    store: Store,
    progress: OnProgress,
    force: bool,
) -> list[Manifest]:
    with ExitStack() as stack:
        builder = _Builder(
            store=store,
            name=name or origin.name,
            model=model,
            source=origin.hashed(progress),
            force=force,
            progress=progress,
            stack=stack,
        )
        return [builder.variant(recipe) for recipe in recipes]


@dataclass(kw_only=True)
class _Builder:
    store: Store
    name: str
    model: HfFolder | GgufInfo
    source: Source
    force: bool
    progress: OnProgress
    stack: ExitStack
    base: Base | None = None

    def variant(self, recipe: Recipe) -> Manifest:
        ref = f"{self.name}:{recipe.variant}"
        with self.store.lock(self.name, recipe.variant, waiting=lambda: self.tell("wait", ref)):
            found = None if self.force else self.reusable(recipe)
            if found:
                self.tell("reuse", ref)
                return found
            made = self.make(recipe, ref)
        self.tell("ready", ref)
        return made

    def reusable(self, recipe: Recipe) -> Manifest | None:
        """The variant in the store, if building it now would make the same and its files are sound."""
        found = self.store.find(self.name, recipe.variant)
        if not found:
            return None
        same = found.source.files == self.source.files and found.source.revision == self.source.revision
        if not same or settled(found.recipe) != recipe.settings or found.tools != _tools():
            return None
        try:
            return self.store.sound(found.ref)
        except ModelError:
            return None

    def make(self, recipe: Recipe, ref: str) -> Manifest:
        began = time.perf_counter()
        base = self.base = self.base or self.make_base(recipe, ref)
        with self.store.draft() as folder:
            target = folder / "files" / MODEL
            target.parent.mkdir()
            made = recipe.make(base, target, ref, self.progress)
            seconds = round(time.perf_counter() - began, 3)
            return self.store.add(self.manifest(recipe, base, made, seconds), target.parent)

    def make_base(self, recipe: Recipe, ref: str) -> Base:
        if isinstance(self.model, GgufInfo):
            return Base(info=self.model, sha256=self.source.files[self.model.path.name])
        own = Uniform(kind=self.model.precision, importance=Importance())
        stored = self.reusable(own) if recipe.variant != own.variant else None
        if stored:  # an earlier run kept the base as a variant
            path = self.store.path(stored)
            return Base(info=inspect(path), sha256=stored.files[stored.main].sha256, notes=stored.notes)
        target = self.stack.enter_context(self.store.draft()) / MODEL
        convert(self.model, target, self.name, self.meter("convert", ref, self.model.nbytes))
        return Base(info=inspect(target), sha256=sha256(target), notes=self.model.notes, ours=True)

    def manifest(self, recipe: Recipe, base: Base, made: Made, seconds: float) -> Manifest:
        return Manifest(
            name=self.name,
            variant=recipe.variant,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            source=self.source,
            files={MODEL: FileRecord(sha256=sha256(made.info.path), bytes=made.info.size)},
            recipe={**recipe.settings, **made.found},
            tools=_tools(),
            architecture=made.info.architecture,
            parameters=made.info.n_params,
            bits_per_weight=round(made.info.bits_per_weight, 4),
            context_length=made.info.context_length,
            seconds=seconds,
            notes=(*base.notes, *made.notes),
            parent=Parent(sha256=base.sha256, ref=f"{self.name}:{base.info.file_type}"),
            calibration=made.calibration,
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
