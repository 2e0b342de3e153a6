"""What every row on a model begins with: its F16 file, an importance matrix, and texts that share no document."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.quantize import build
from foreshore.quantize.assemble import assemble, file_bytes
from foreshore.quantize.calibrate import collect
from foreshore.quantize.mixing import make_mix
from foreshore.quantize.native import Plan, plan, quantize
from foreshore.quantize.quality import Compared, compare
from foreshore.quantize.reference import Reference
from foreshore.quantize.search.compensate import Compensated
from foreshore.quantize.search.fit_targets import FitTargets
from foreshore.quantize.search.search import Found
from foreshore.quantize.texts import Corpus, calibration_text, evaluation_text
from foreshore.store import Store

__all__ = ["Mix", "Parent", "Variant"]

NEAR = 0.8  # of the bytes allowed: a type with less is not measured, since those with more lose less


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What was made of a parent, and measured. The file itself is gone."""

    name: str
    bytes: int
    compared: Compared

    @property
    def kl(self) -> float:
        return float(self.compared.kl.sum() / self.compared.tokens.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix(Variant):
    found: Found
    compensated: Compensated | None
    seconds: float  # that the search took, and to make the file


@dataclass(kw_only=True)
class Parent:
    """Made as it is asked for. `folder` keeps its F16 file and its reference; `scratch` is its own, and emptied."""

    name: str  # a starter's, or a source that `build` takes
    folder: Path
    scratch: Path
    documents: int | None = None  # of each text; default: all
    _variants: dict[str, Variant] = field(default_factory=dict)
    _plans: dict[tuple[str, Path | None], Plan] = field(default_factory=dict)
    _mixes: dict[tuple[int, float, bool], Mix] = field(default_factory=dict)

    @cached_property
    def info(self) -> GgufInfo:
        store = Store(self.folder / "store")
        (manifest,) = build(self.name, ["f16"], store=store)
        return inspect(store.path(manifest))

    @cached_property
    def calibration(self) -> Corpus:
        """What the importance matrix and the search see."""
        return calibration_text(self.name, documents=self.documents)

    @cached_property
    def imatrix(self) -> Path:
        path = self.scratch / "imatrix.gguf"
        collect(self.info.path, self.calibration, output=True).save(path)
        return path

    @cached_property
    def reference(self) -> Reference:
        """On text that neither the importance matrix nor the search has seen."""
        text = evaluation_text(self.name, documents=self.documents)
        return Reference.build(self.info.path, text, self.folder / "references")

    def planned(self, ftype: str, imatrix: Path | None = None) -> Plan:
        if (ftype, imatrix) not in self._plans:
            self._plans[ftype, imatrix] = plan(self.info, ftype, imatrix=imatrix)
        return self._plans[ftype, imatrix]

    def uniform(self, ftype: str, imatrix: Path | None = None) -> Path:
        """A new file of one type."""
        target = self.scratch / f"{ftype}.gguf"
        return quantize(self.info, target, ftype, self.planned(ftype, imatrix), imatrix=imatrix).path

    def measured(self, ftype: str) -> Variant:
        """The uniform type with the importance matrix."""
        if ftype not in self._variants:
            self._variants[ftype] = self._measure(ftype, self.uniform(ftype, self.imatrix))
        return self._variants[ftype]

    def best_uniform(self, limit: int, types: Sequence[str]) -> Variant:
        """Of `types` the one with the least KL among those of at most `limit` bytes, and not far less."""
        sizes = {ftype: self.info.size - self._tensors + self.planned(ftype, self.imatrix).nbytes for ftype in types}
        near = [ftype for ftype, size in sizes.items() if NEAR * limit <= size <= 1.01 * limit]
        return min((v for v in map(self.measured, near) if v.bytes <= limit), key=lambda v: v.kl)

    def best_pure(self, limit: int, mix: Mix) -> Variant | None:
        """The one type for every tensor that `mix` chose for, with the least KL at no more than `limit` bytes."""
        names = list(mix.found.types)
        common = set.intersection(*(set(mix.found.costs[name]) for name in names))
        files = {kind: dict.fromkeys(names, kind) for kind in sorted(common)}
        sizes = {kind: file_bytes(self.info, types) for kind, types in files.items()}
        near = [kind for kind, size in sizes.items() if NEAR * limit <= size <= limit]
        return min((self._pure(kind, files[kind]) for kind in near), key=lambda v: v.kl, default=None)

    def searched(self, limit: int, budget_s: float, cache: Path | None = None, *, refine: bool = False) -> Mix:
        """The best mix of at most `limit` bytes. Searches with no `cache` of their own share what they measured, and
        the same one is not made twice."""
        if cache is None and (limit, budget_s, refine) in self._mixes:
            return self._mixes[limit, budget_s, refine]
        matrix, begun = self.imatrix, time.perf_counter()
        made = make_mix(
            self.info,
            FitTargets(size=limit),
            self.scratch / "mix.gguf",
            corpus=self.calibration,
            imatrix=matrix,
            budget_s=budget_s,
            cache=cache or self.scratch / "search",
            refine=refine,
        )
        seconds = time.perf_counter() - begun
        found, measured = made.found, self._measure(f"size<={limit}", made.info.path)
        mix = Mix(
            name=measured.name,
            bytes=measured.bytes,
            compared=measured.compared,
            found=found,
            compensated=made.compensated,
            seconds=seconds,
        )
        if cache is None:
            self._mixes[limit, budget_s, refine] = mix
        return mix

    def mixed(self, types: dict[str, str]) -> Variant:
        """A mix that nobody searched for."""
        return self._measure("mix", self._assembled(types))

    def folder_for_search(self) -> Path:
        """An empty one, so that a search begins with nothing."""
        return Path(tempfile.mkdtemp(dir=self.scratch))

    def _pure(self, kind: str, types: dict[str, str]) -> Variant:
        name = f"pure {kind}"
        if name not in self._variants:
            made = self.mixed(types)
            self._variants[name] = Variant(name=name, bytes=made.bytes, compared=made.compared)
        return self._variants[name]

    def _assembled(self, types: dict[str, str]) -> Path:
        kept, target = self.scratch / "search" / "tensors", self.scratch / "mix.gguf"
        return assemble(self.info, types, target, imatrix=self.imatrix, cache=kept).path

    def _measure(self, name: str, path: Path) -> Variant:
        variant = Variant(name=name, bytes=path.stat().st_size, compared=compare(self.reference, path))
        path.unlink()
        return variant

    @property
    def _tensors(self) -> int:
        return sum(t.nbytes for t in self.info.tensors)
