"""Looks for the mix of types that keeps the most quality within a bound, by what mixes really cost on this model.

    survey     the types that each tensor may have, and llama.cpp's own mixes of them
    probes     the rounding error of every type, and KL of a few types of each tensor alone
    proposals  llama.cpp's mixes, the knapsack over what the probes say, and what may be better by what is believed
    trials     these mixes, measured whole; what is believed is mended by each

The mix that measured best wins. All are measured on the same documents, so that their differences are not noise. Where
the budget has room for that, every tensor is refined (`refine`) before it is measured, since not all types gain alike.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from foreshore.disk import sha256
from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.edge.options import EngineOptions
from foreshore.errors import ModelError, UsageError
from foreshore.quantize.imatrix import read_imatrix
from foreshore.quantize.native import quantizer
from foreshore.quantize.prune import prune
from foreshore.quantize.search.bounds import Bounds, memory_table
from foreshore.quantize.search.decode_times import DecodeTimes
from foreshore.quantize.search.decoding import Decoding
from foreshore.quantize.search.fit_targets import FitTargets
from foreshore.quantize.search.found import Found
from foreshore.quantize.search.knapsack import lightest
from foreshore.quantize.search.measurements import Measurements
from foreshore.quantize.search.measuring import Measuring, OnSteps, Steps
from foreshore.quantize.search.meter import Meter, MeterJob, Meters, Mix
from foreshore.quantize.search.moments import kept_moments
from foreshore.quantize.search.plan import (
    REFINING,
    SearchPlan,
    affordable,
    decode_table,
    refining_seconds,
    search_plan,
)
from foreshore.quantize.search.probes import all_probed, probed
from foreshore.quantize.search.proposals import Proposals
from foreshore.quantize.search.survey import TYPES, Survey, candidates
from foreshore.quantize.search.trials import Trials
from foreshore.quantize.search.uniform import uniform_mixes
from foreshore.quantize.texts import Corpus

__all__ = ["Found", "search"]

SMALL = 512 << 20  # bytes of a parent that every core may have a process of its own for
CONTEXT, SHORT = 512, 128  # tokens of a window; of a larger parent more mixes can be measured on shorter ones
MOST_TRIALS = 48


def search(
    base: Path,
    targets: FitTargets,
    *,
    corpus: Corpus,
    imatrix: Path | None = None,
    budget_s: float = 600.0,
    cache: Path | None = None,
    workers: int | None = None,
    trials: int = MOST_TRIALS,
    refine: bool = False,
    types: Sequence[str] = TYPES,
    engine: EngineOptions | None = None,
    progress: OnSteps = lambda done, total: None,
    make: Callable[[MeterJob], Meter] = Meter,
) -> Found:
    """Types for `base`, a model in f16, bf16 or f32, that meet `targets`; `assemble` makes the file of them.

    `corpus` is what KL is measured on: keep it apart from what the result is judged by. `cache` is a folder that keeps
    measurements and quantized tensors: a search that was killed goes on from there. `workers` processes measure side
    by side (default: one a core for small models, else one), at most `trials` whole mixes. With `refine` every
    tensor is refined, if there is a `cache` and enough time. `engine` is how the model will be run, for its memory and
    speed.
    `progress` is told of steps whose number is fixed before the first is done. Raises `UsageError` where the targets
    cannot be met, saying what can, `ModelError` for a model that cannot be searched, `SetupError`.
    """
    began, steps, info = time.monotonic(), Steps(progress, budget_s), inspect(base)
    workers = workers or (_cores() if info.size <= SMALL else 1)
    matrix = set(read_imatrix(imatrix)) if imatrix else set()
    settings = {
        "model": sha256(base),
        "corpus": corpus.sha256,
        "imatrix": sha256(imatrix) if imatrix else None,
        "context": _context(info),
        "engine": version("llama_cpp_python"),
    }
    refining_s, moments = refining_seconds(info, workers), None
    if refine and cache is not None and refining_s <= REFINING * budget_s:
        moments = kept_moments(base, corpus, cache / f"moments-{settings['model']}-{corpus.sha256[:16]}.npz")
        settings["moments"] = moments.name
    engine, record = engine or EngineOptions(), Measurements(cache, settings)
    with (
        quantizer() as planner,
        _tensors(cache) as tensors,
        Meters(_job(info, corpus, imatrix, moments, tensors, workers), workers, make) as meters,
    ):
        every = candidates(info, meters.first.used, matrix, types, planner)
        if not every.types:
            raise ModelError(f"{base.name!r} has no weights to choose types for", hint="give it in f16, bf16 or f32")
        measuring = Measuring(meters=meters, record=record, steps=steps)
        survey = affordable(measuring, every, budget_s)
        plan = search_plan(
            measuring,
            survey,
            budget_s,
            trials,
            decode=targets.decode is not None,
            refining_s=refining_s if moments else 0,
        )
        times = DecodeTimes(base=info, record=record, imatrix=imatrix, threads=engine.threads)
        if targets.decode is not None:
            survey = decode_table(times, measuring, survey)
        if targets.memory is not None:
            survey = survey.with_memory(memory_table(info, survey.types))
        bounds = Bounds.of(targets, info, survey.options(), engine)
        _check(bounds, survey, every)
        own = uniform_mixes(survey, imatrix, planner).values()
        found = _hunted(survey, bounds, own, measuring, times, plan)
    return replace(found, moments=moments, seconds=time.monotonic() - began)


def _check(bounds: Bounds, survey: Survey, every: Survey) -> None:
    """Raise `UsageError` before anything is measured if nothing can be within `bounds`, saying what can."""
    try:
        bounds.solve(survey.options())
    except UsageError as error:
        dropped = sorted({option.type for option in lightest(every.options()).values()} - set(survey.kinds))
        more = f"; a longer budget leaves time to make {', '.join(dropped)} too" if dropped else ""
        raise UsageError(error.message, hint=f"{error.hint}{more}") from error


def _hunted(
    survey: Survey, bounds: Bounds, own: Iterable[Mix], measuring: Measuring, times: DecodeTimes, plan: SearchPlan
) -> Found:
    survey = probed(survey, measuring, plan.probe)
    proposals = Proposals(survey, bounds, survey.costs(), own)
    trials = Trials(proposals, measuring, plan.windows)
    decoding = None if bounds.targets.decode is None else Decoding(times=times, trials=trials)
    if decoding:
        first = proposals.solve(proposals.options())
        decoding.measure({name: option.type for name, option in first.items()})
    trials.run(plan.trials)
    best, decode = decoding.best() if decoding else (trials.best(), None)
    complete = measuring.steps.left_s > 0 and all_probed(survey)
    measuring.steps.step(measuring.steps.total - measuring.steps.done)
    return Found(
        types=best.types,
        bytes=best.bytes,
        predicted=best.predicted,
        measured=best.measured,
        tokens=measuring.tokens(plan.windows),
        seconds=0.0,
        complete=complete,
        costs=proposals.costs,
        probed={name: list(row) for name, row in survey.kl.items()},
        trials=tuple(trials.done),
        memory=bounds.held(proposals.choice(best.types)),
        decode=decode,
    )


def _job(
    info: GgufInfo, corpus: Corpus, imatrix: Path | None, moments: Path | None, tensors: Path, workers: int
) -> MeterJob:
    """The job of each of `workers` processes, which share the cores."""
    threads = max(1, _cores() // workers)
    return MeterJob(
        model=info.path,
        corpus=corpus,
        imatrix=imatrix,
        moments=moments,
        cache=tensors,
        context=_context(info),
        threads=threads,
    )


@contextmanager
def _tensors(cache: Path | None) -> Iterator[Path]:
    """The folder of quantized tensors, which all processes share; one for this search where none is kept."""
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="foreshore-search-") as folder:
            yield Path(folder)
    else:
        prune(cache / "tensors")
        yield cache / "tensors"


def _context(info: GgufInfo) -> int:
    longest = CONTEXT if info.size <= SMALL else SHORT
    return min(longest, info.context_length or longest)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
