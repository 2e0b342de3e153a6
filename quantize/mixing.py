"""A mix of types, from the search to the file: searched for, assembled, compensated."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.errors import ForeshoreError
from foreshore.quantize.assemble import assemble
from foreshore.quantize.progress import OnCount
from foreshore.quantize.search.compensate import Compensated, compensate, worthwhile
from foreshore.quantize.search.fit_targets import FitTargets
from foreshore.quantize.search.meter import Meter, MeterJob
from foreshore.quantize.search.search import Found, search
from foreshore.quantize.texts import Corpus

__all__ = ["MadeMix", "make_mix"]

COMPENSATING = 0.25  # share of the budget that a search leaves for it; it may have what else the search leaves
Bytes = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeMix:
    """`compensated` is none where the search did not refine what it measured, where the text is far too short, or where
    it `failed`, with the reason."""

    info: GgufInfo
    found: Found
    compensated: Compensated | None
    failed: str = ""


def make_mix(
    base: GgufInfo,
    targets: FitTargets,
    target: Path,
    *,
    corpus: Corpus,
    imatrix: Path | None,
    budget_s: float,
    cache: Path,
    refine: bool,
    workers: int | None = None,
    make: Callable[[MeterJob], Meter] = Meter,
    searching: OnCount = lambda done, total: None,
    writing: Bytes = lambda done: None,
    compensating: OnCount = lambda done, total: None,
) -> MadeMix:
    """Write `target`, a mix that meets `targets`, within about `budget_s`. Arguments and errors are those of `search`
    and `assemble`; each part tells its progress to its own."""
    began, reserved = time.monotonic(), COMPENSATING if refine and worthwhile(base, corpus) else 0.0
    found = search(
        base.path,
        targets,
        corpus=corpus,
        imatrix=imatrix,
        budget_s=budget_s * (1 - reserved),
        cache=cache,
        workers=workers,
        refine=refine,
        progress=searching,
        make=make,
    )
    moments, tensors = found.moments, cache / "tensors"
    assemble(base, found.types, target, imatrix=imatrix, moments=moments, cache=tensors, progress=writing)
    compensated, failed = None, ""
    if moments is not None and reserved:
        left = max(COMPENSATING * budget_s, budget_s - (time.monotonic() - began))
        try:
            compensated = compensate(
                base.path, target, corpus, budget_s=left, cache=cache / "compensated", progress=compensating
            )
        except ForeshoreError as error:  # the file is sound without it
            failed = error.message
    return MadeMix(info=inspect(target), found=found, compensated=compensated, failed=failed)
