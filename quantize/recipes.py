"""How a variant is made of the base file: one type for all weights, or a mix that a search finds."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from foreshore.disk import disk_errors, require_space, sha256, write_text
from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.errors import ModelError, UsageError
from foreshore.home import home
from foreshore.manifest import Calibration
from foreshore.quantize.convert.weights import unbounded
from foreshore.quantize.ftypes import FLOATS
from foreshore.quantize.importance import Importance
from foreshore.quantize.mixing import MadeMix, make_mix
from foreshore.quantize.native import Plan, plan, quantize, quantizer
from foreshore.quantize.progress import OnProgress, Progress, counter
from foreshore.quantize.search.fit_targets import FitTargets
from foreshore.quantize.search.meter import Meter, MeterJob
from foreshore.quantize.texts import Corpus

__all__ = ["Base", "Made", "Mix", "Recipe", "Uniform", "mix_name", "sensitivity"]

FLOAT_DTYPES = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}  # bf16: its bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The file that all variants are made of, in the source's own precision, and what its making noted."""

    info: GgufInfo
    sha256: str
    notes: tuple[str, ...] = ()
    ours: bool = False  # made in a draft, so that a variant may take it over


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The file of a variant. `found` goes into the manifest's recipe."""

    info: GgufInfo
    notes: tuple[str, ...] = ()
    found: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None


class Recipe(Protocol):
    @property
    def variant(self) -> str:
        """The variant's name."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides, with the source and the tools, which file is made."""

    def make(self, base: Base, target: Path, ref: str, progress: OnProgress) -> Made: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """A type as llama.cpp has them, with its own choice of a few larger tensors."""

    kind: str
    importance: Importance
    requantize: bool = False

    @property
    def variant(self) -> str:
        return self.kind

    @property
    def settings(self) -> dict[str, Any]:
        return {"type": self.kind, **self._importance.recipe, "requantize": self.requantize}

    @property
    def _importance(self) -> Importance:
        return Importance() if self.kind in FLOATS else self.importance  # nothing is rounded to those by it

    def make(self, base: Base, target: Path, ref: str, progress: OnProgress) -> Made:
        if self.kind == base.info.file_type:
            return _copied(base, target)
        importance = self._importance
        matrix = importance.open(base.info, base.sha256, counter(progress, "calibrate", ref))
        with quantizer() as child:
            planned = plan(base.info, self.kind, requantize=self.requantize, imatrix=matrix, child=child)
            if planned.needs_imatrix and matrix is None:
                hint = "let one be collected with --imatrix auto, or give one with --imatrix FILE"
                raise UsageError(f"{self.kind!r} of this model needs an importance matrix", hint=hint)
            made = quantize(
                base.info,
                target,
                self.kind,
                planned,
                imatrix=matrix,
                requantize=self.requantize,
                progress=_bytes(progress, ref, base.info.size),
                child=child,
            )
        return Made(info=made, notes=_fallen(planned, self.kind), calibration=importance.calibration(matrix))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Types tensor by tensor, searched for on `text`, which the importance matrix may have read too."""

    targets: FitTargets
    text: Corpus
    importance: Importance
    budget_s: float
    refine: bool = False
    meters: Callable[[MeterJob], Meter] = Meter
    workers: int | None = None

    @property
    def variant(self) -> str:
        return mix_name(self.targets)

    @property
    def settings(self) -> dict[str, Any]:
        asked = {"type": "mix", "fit": str(self.targets), "budget_s": self.budget_s, "refine": self.refine}
        return {**asked, **self.importance.recipe, "text": self.text.sha256}

    def make(self, base: Base, target: Path, ref: str, progress: OnProgress) -> Made:
        matrix = self.importance.open(base.info, base.sha256, counter(progress, "calibrate", ref))
        mix = make_mix(
            base.info,
            self.targets,
            target,
            corpus=self.text,
            imatrix=matrix,
            budget_s=self.budget_s,
            cache=_searches(),
            refine=self.refine,
            workers=self.workers,
            make=self.meters,
            searching=counter(progress, "search", ref),
            writing=_bytes(progress, ref, base.info.size),
            compensating=counter(progress, "compensate", ref),
        )
        found = mix.found
        _keep(mix)
        calibration = self.importance.calibration(matrix) or Calibration()
        return Made(
            info=mix.info,
            notes=tuple(_said(mix)),
            found={
                "tensors": dict(found.types),
                "predicted_kl": found.predicted,
                "search_kl": found.measured,
                "refined": found.moments is not None,
                "compensated": str(mix.compensated) if mix.compensated else "",
            },
            calibration=replace(calibration, search_sha256=self.text.sha256),
        )


def mix_name(targets: FitTargets) -> str:
    """`size<=300MB,kl<=0.03` -> `mix-300mb-kl0.03`, fit for a folder's name."""
    shown = {"size": "{}", "memory": "memory{}", "kl": "kl{:g}", "decode": "decode{:g}"}
    parts = [
        shown[name].format(_short(value) if name in ("size", "memory") else value)
        for name in shown
        if (value := getattr(targets, name)) is not None
    ]
    return re.sub(r"[^a-z0-9._-]+", "", "-".join(["mix", *parts]).lower())[:100]


def sensitivity(digest: str) -> dict[str, dict[str, tuple[float, bool | None]]]:
    """KL of each tensor alone by type, and whether it was measured (`None`: not known), as the search found that made
    the file with the SHA-256 `digest`; empty where nothing is kept of it."""
    try:
        found = json.loads(_kept(digest).read_text(encoding="utf-8"))
        probed = found.get("probed")
        return {
            str(name): {
                str(kind): (float(kl), None if probed is None else kind in probed.get(name, ()))
                for kind, kl in row.items()
            }
            for name, row in found["costs"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _fallen(planned: Plan, kind: str) -> tuple[str, ...]:
    """How many tensors cannot have the type, if any, and each of them."""
    count = len(planned.fallbacks)
    weights = "1 tensor has" if count == 1 else f"{count} tensors have"
    said = f"{weights} another type than {kind} gives them, since their rows do not divide into its blocks"
    return (said, *planned.fallbacks) if count else ()


def _copied(base: Base, target: Path) -> Made:
    if not base.ours:
        _check_finite(base.info)
    with disk_errors(target.parent, base.info.size):
        if base.ours:
            os.link(base.info.path, target)
        else:
            require_space(target.parent, base.info.size)
            shutil.copyfile(base.info.path, target)
    return Made(info=inspect(target))


def _check_finite(info: GgufInfo) -> None:
    """Raises `ModelError` for a float weight that is NaN or infinite, as all that quantize it would."""
    for tensor in info.tensors:
        kind = FLOAT_DTYPES.get(tensor.type)
        if kind and tensor.nbytes:
            bytes_ = np.memmap(info.path, np.uint8, "r", offset=tensor.offset, shape=(tensor.nbytes,))
            if unbounded(bytes_.view(kind)):
                raise ModelError(f"{tensor.name!r} has weights that are not finite", hint="fetch the model again")


def _short(size: int) -> str:
    """Bytes in the largest unit of thousands that leaves them whole."""
    for unit in ("", "k", "m", "g"):
        if size % 1000 or size < 1000:
            return f"{size}{unit}b"
        size //= 1000
    return f"{size}tb"


def _said(mix: MadeMix) -> list[str]:
    found = mix.found
    mixes = "1 mix" if len(found.trials) == 1 else f"{len(found.trials)} mixes"
    how = f"{mixes} measured on {found.tokens} tokens in {found.seconds:.0f} s"
    said = [f"searched: {how}; KL there {found.measured:.4g}, predicted {found.predicted:.4g} nats a token"]
    if found.moments is not None:
        said.append("refined: rounded again so that errors cancel in the outputs")
    if mix.compensated:
        said.append(f"compensated, to make up for the errors of earlier tensors: {mix.compensated}")
    if mix.failed:
        said.append(f"not compensated: {mix.failed}")
    if not found.complete:
        said.append("the budget ended the search early: a longer one may find a better mix")
    return said


def _keep(mix: MadeMix) -> None:
    """For a report. The variant is sound without it."""
    found = mix.found
    trials = [{k: v for k, v in asdict(t).items() if k != "types"} for t in found.trials]
    target = _kept(sha256(mix.info.path))
    with disk_errors(target.parent):
        kept = {"costs": found.costs, "probed": found.probed, "trials": trials, "seconds": found.seconds}
        write_text(target, json.dumps(kept))


def _kept(digest: str) -> Path:
    return _searches() / f"{digest}.json"


def _searches() -> Path:
    folder = home() / "searches"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _bytes(progress: OnProgress, ref: str, total: int) -> Callable[[int], None]:
    return lambda done: progress(Progress(stage="quantize", what=ref, done=done, total=total))
