"""Builds variants: source -> base GGUF in the source's own precision -> one file for each type, or for a mix."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from foreshore.disk import sha256
from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.errors import ModelError, UsageError
from foreshore.manifest import Manifest, Parent
from foreshore.quantize.convert.convert import HfFolder, convert
from foreshore.quantize.ftypes import check_imatrix, parse_types
from foreshore.quantize.imatrix import read_imatrix
from foreshore.quantize.importance import AUTO, Importance
from foreshore.quantize.progress import OnProgress, Progress, silent
from foreshore.quantize.recipes import Base, Mix, Recipe, Uniform
from foreshore.quantize.search.fit_targets import FitTargets, parse_fit
from foreshore.quantize.search.meter import Meter, MeterJob
from foreshore.quantize.source import Origin, locate
from foreshore.quantize.storing import Facts, Storing
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
    refine: bool = True,
    workers: int | None = None,
    meters: Callable[[MeterJob], Meter] = Meter,
) -> Manifest:
    """Have a variant of `source` in the store whose types, tensor by tensor, were searched for to meet `fit`.

    The importance matrix is collected, and the search measures, on `calibration` (default: a shipped text), for at
    most `budget_s` seconds. With `refine` weights are rounded so that their errors cancel in the outputs, within a
    tensor and across them, as far as there is time. `workers` and `meters` are those of `search`. All else is as in
    `build`. Raises `UsageError` too where `fit` cannot be met, saying what can.
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
        refine=refine,
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
        storing = Storing(
            store=store,
            name=name or origin.name,
            source=origin.hashed(progress),
            tools=_tools(),
            force=force,
            progress=progress,
        )
        builder = _Builder(storing=storing, model=model, progress=progress, stack=stack)
        return [builder.variant(recipe) for recipe in recipes]


@dataclass(kw_only=True)
class _Builder:
    storing: Storing
    model: HfFolder | GgufInfo
    progress: OnProgress
    stack: ExitStack
    base: Base | None = None

    def variant(self, recipe: Recipe) -> Manifest:
        return self.storing.variant(recipe.variant, recipe.settings, partial(self.fill, recipe))

    def fill(self, recipe: Recipe, folder: Path, ref: str) -> Facts:
        base = self.base = self.base or self.make_base(recipe, ref)
        made = recipe.make(base, folder / MODEL, ref, self.progress)
        return Facts(
            main=MODEL,
            architecture=made.info.architecture,
            parameters=made.info.n_params,
            bits_per_weight=made.info.bits_per_weight,
            context_length=made.info.context_length,
            notes=(*base.notes, *made.notes),
            found=made.found,
            parent=Parent(sha256=base.sha256, ref=f"{self.storing.name}:{base.info.file_type}"),
            calibration=made.calibration,
        )

    def make_base(self, recipe: Recipe, ref: str) -> Base:
        store, source = self.storing.store, self.storing.source
        if isinstance(self.model, GgufInfo):
            return Base(info=self.model, sha256=source.files[self.model.path.name])
        own = Uniform(kind=self.model.precision, importance=Importance())
        kept = replace(self.storing, force=False).reusable(own.variant, own.settings)
        if kept and recipe.variant != own.variant:  # an earlier run kept the base as a variant
            return Base(info=inspect(store.path(kept)), sha256=kept.files[kept.main].sha256, notes=kept.notes)
        target = self.stack.enter_context(store.draft()) / MODEL
        told = partial(self.told, ref, self.model.nbytes)
        convert(self.model, target, self.storing.name, told)
        return Base(info=inspect(target), sha256=sha256(target), notes=self.model.notes, ours=True)

    def told(self, ref: str, total: int, done: int) -> None:
        self.progress(Progress(stage="convert", what=ref, done=done, total=total))


def _own_type(model: HfFolder | GgufInfo) -> str:
    kind = model.file_type if isinstance(model, GgufInfo) else model.precision
    if kind == "unknown":
        raise ModelError("the file does not say which quantization it has", hint="say it with --types")
    return kind


@cache
def _tools() -> dict[str, str]:
    return {tool: version(tool) for tool in ("foreshore", "llama_cpp_python", "gguf")}
