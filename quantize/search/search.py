"""Looks for the mix of types that keeps the most quality within a bound, by what mixes really cost on this model.

    survey   the rounding error of every type, and KL of a few types of each tensor alone
    solve    the knapsack over what the survey says: a first mix
    trials   mixes that may be better are drawn from what is believed, measured whole, and what is believed is mended

The mix that measured best wins. All are measured on the same documents, so that their differences are not noise. What
wins is refined (`foreshore.quantize.search.refine`), where the budget has room for that, and measured once more.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreshore.disk import sha256
from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.edge.options import EngineOptions
from foreshore.errors import ModelError, SetupError, UsageError
from foreshore.quantize.imatrix import read_imatrix
from foreshore.quantize.measurements import Measurements
from foreshore.quantize.measuring import Measuring, OnSteps, Steps
from foreshore.quantize.prune import prune
from foreshore.quantize.search.bounds import Bounds, memory_table
from foreshore.quantize.search.costs import Belief
from foreshore.quantize.search.decode_times import DecodeTimes
from foreshore.quantize.search.fit_targets import FitTargets
from foreshore.quantize.search.knapsack import Choice, Option, frontier, total_memory, total_seconds
from foreshore.quantize.search.meter import Meter, MeterJob, Meters, Mix
from foreshore.quantize.search.moments import collect_moments
from foreshore.quantize.search.plan import (
    DECODE_CHECKS,
    PROBES,
    REFINING,
    SearchPlan,
    affordable,
    decode_table,
    refining_seconds,
    search_plan,
)
from foreshore.quantize.search.survey import TYPES, Survey, candidates
from foreshore.quantize.texts import Corpus

__all__ = ["Found", "Trial", "search"]

CONTEXT = 512
SMALL = 512 << 20  # bytes of a parent that every core may have a process of its own for
MOST_TRIALS = 48
DRAWS = 8  # of a mix that was not measured yet, before the trials end


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One whole mix that was measured; KL in nats a token."""

    types: Mapping[str, str]
    bytes: int  # of its file
    predicted: float  # before it was measured
    measured: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`measured` is KL on the search's own documents: measure the file on others for what it costs."""

    types: Mapping[str, str]
    bytes: int
    predicted: float  # by what is known at the end
    measured: float
    tokens: int  # that mixes were measured on
    seconds: float
    complete: bool  # `False`: the budget ended it early
    costs: Mapping[str, Mapping[str, float]]  # KL of each tensor alone, by type
    trials: tuple[Trial, ...]
    moments: Path | None = None  # for `assemble`: the mix was refined by them
    refined: float | None = None  # KL with them; `predicted` and `measured` are without
    memory: int | None = None  # bytes that a worker holds, where that was a target
    decode: float | None = None  # tokens/s of one stream, measured, where that was a target


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
    by side (default: one a core for small models, else one), at most `trials` whole mixes. With `refine` the winner is
    refined, if there is a `cache` and enough time. `engine` is how the model will be run, for its memory and speed.
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
    engine, record = engine or EngineOptions(), Measurements(cache, settings)
    with (
        _tensors(cache) as tensors,
        Meters(job := _job(info, corpus, imatrix, tensors, workers), workers, make) as meters,
    ):
        survey = candidates(info, meters.first.used, matrix, types)
        if not survey.types:
            raise ModelError(f"{base.name!r} has no weights to choose types for", hint="give it in f16, bf16 or f32")
        measuring = Measuring(meters=meters, record=record, steps=steps)
        every = survey.kinds
        survey = affordable(measuring, survey, budget_s)
        refining = None if cache is None or not refine else refining_seconds(record, survey, job.threads / _cores())
        if refining is not None and refining > REFINING * budget_s:
            refining = None
        steps.reserve(refining or 0.0)
        plan = search_plan(measuring, survey, budget_s, trials, decode=targets.decode is not None)
        times = DecodeTimes(base=info, record=record, imatrix=imatrix, threads=engine.threads)
        if targets.decode is not None:
            survey = decode_table(times, measuring, survey)
        if targets.memory is not None:
            survey = survey.with_memory(memory_table(info, survey.types))
        try:
            bounds = Bounds.of(targets, info, survey.options(), engine)
        except UsageError as error:
            raise _with_time(error, sorted(set(every) - set(survey.kinds))) from error
        found = _Search(survey, bounds, measuring, times, plan).run(began)
    if refining is None or cache is None:
        return found
    moments = cache / f"moments-{settings['model']}-{corpus.sha256[:16]}.npz"
    return _refined(found, replace(job, moments=moments, threads=_cores()), plan.windows, began, budget_s)


def _with_time(error: UsageError, dropped: Sequence[str]) -> UsageError:
    if not dropped:
        return error
    more = f"a longer budget leaves time to make {', '.join(dropped)} too"
    return UsageError(error.message, hint=f"{error.hint}; {more}")


def _refined(found: Found, job: MeterJob, windows: int, began: float, budget_s: float) -> Found:
    """`found` with what refining it gains; as it is where that gains nothing, or the budget is spent before it is done.
    What was refined by then is kept."""
    assert job.moments
    if not job.moments.exists():
        collect_moments(job.model, job.corpus, job.moments)
    meter, late = Meter(job), threading.Event()

    def end() -> None:
        late.set()
        meter.close()

    left = min(max(began + budget_s - time.monotonic(), 1.0), threading.TIMEOUT_MAX)
    timer = threading.Timer(left, end)
    timer.start()
    try:
        kl = sum(meter.divergences(found.types, windows)) / found.tokens
    except (SetupError, ValueError):  # the process, or the pipe to it, was closed
        if not late.is_set():
            raise
        return replace(found, complete=False, seconds=time.monotonic() - began)
    finally:
        timer.cancel()
        meter.close()
    if not kl < found.measured:
        return found
    return replace(found, moments=job.moments, refined=kl, seconds=time.monotonic() - began)


class _Search:
    def __init__(
        self, survey: Survey, bounds: Bounds, measuring: Measuring, times: DecodeTimes, plan: SearchPlan
    ) -> None:
        bounds.solve(survey.options())  # or an error, before anything is measured
        self.survey, self.bounds, self.measuring, self.times, self.plan = survey, bounds, measuring, times, plan
        self.targets = bounds.targets
        self.names = list(survey.types)
        self.belief = Belief(len(self.names))
        self.trials: list[Trial] = []
        self.rng = np.random.default_rng(0)
        self.aim = self.targets.kl or 0.0  # what the mixes tried are to cost, where the smallest is looked for

    def run(self, began: float) -> Found:
        steps = self.measuring.steps
        self._look()
        if self.targets.decode is not None:
            self._decodes(self._mix(self._solve()))  # how far a mix is from what its types take alone
        self._try(self.plan.trials)
        best, decode = self._decoding() if self.targets.decode is not None else (self._best(), None)
        complete = steps.left_s > 0
        steps.step(steps.total - steps.done)
        return Found(
            types=best.types,
            bytes=best.bytes,
            predicted=self._predict(best.types),
            measured=best.measured,
            tokens=self.measuring.tokens(self.plan.windows),
            seconds=time.monotonic() - began,
            complete=complete,
            costs=self.costs,
            trials=tuple(self.trials),
            memory=self._memory(best.types),
            decode=decode,
        )

    def _look(self) -> None:
        self.survey = self.survey.with_errors(self.measuring.errors(self.survey.pairs()))
        pairs = [
            (name, kind)
            for pair in PROBES
            for name in sorted(self.names, key=lambda n: -len(self.survey.types[n]))
            if (kind := next((k for k in pair if k in self.survey.types[name]), None))
        ]
        found = self.measuring.kl([{name: kind} for name, kind in pairs], self.plan.probe)
        measured = [(pair, kl) for pair, kl in zip(pairs, found, strict=True) if kl is not None]
        self.survey = self.survey.with_kl(measured)
        self.costs = self.survey.costs()

    def _try(self, count: int) -> None:
        """Measure up to `count` new mixes, one for each process at a time, while there is time; one always."""
        most = len(self.trials) + count
        while len(self.trials) < most and (self.measuring.steps.left_s > 0 or not self.trials):
            if not self._batch():
                return

    def _batch(self) -> bool:
        """`False` where there is no mix that was not measured."""
        new: list[Choice] = []
        for _ in range(len(self.measuring.meters)):
            choice = self._propose({*(tuple(t.types.items()) for t in self.trials), *map(_key, new)})
            if choice:
                new.append(choice)
        mixes = [self._mix(choice) for choice in new]
        predicted = [self._predict(mix) for mix in mixes]
        found = self.measuring.kl(mixes, self.plan.windows, always=not self.trials)
        for choice, mix, expected, kl in zip(new, mixes, predicted, found, strict=True):
            if kl is not None:
                self.belief.observe(self._parts(mix), kl)
                self.aim *= 0.99 if kl > (self.targets.kl or inf) else 1.003
                self.trials.append(Trial(types=mix, bytes=self.bounds.size(choice), predicted=expected, measured=kl))
        return bool(new)

    def _propose(self, seen: set[tuple[tuple[str, str], ...]]) -> Choice | None:
        """The best mix by what is believed at present, or, where that was measured, by what may as well be so."""
        for draw in range(DRAWS if self.trials else 1):
            choice = self._solve(self.rng if draw or seen else None)
            if _key(choice) not in seen:
                return choice
        return None

    def _solve(self, rng: np.random.Generator | None = None) -> Choice:
        options = self._options(rng)
        if self.targets.smallest:
            return frontier(options, self.bounds.bytes).down_to(self.aim)
        return self.bounds.solve(options)

    def _options(self, rng: np.random.Generator | None = None) -> Mapping[str, Sequence[Option]]:
        return self.survey.options(self.costs, dict(zip(self.names, self.belief.scales(rng), strict=True)))

    def _mix(self, choice: Choice) -> dict[str, str]:
        return {name: option.type for name, option in choice.items()}

    def _parts(self, mix: Mix) -> NDArray[np.float64]:
        return np.array([self.costs[name][mix[name]] for name in self.names])

    def _predict(self, mix: Mix) -> float:
        return float(self._parts(mix) @ self.belief.scales())

    def _choice(self, mix: Mix) -> Choice:
        options = self.survey.options()
        return {name: next(o for o in options[name] if o.type == kind) for name, kind in mix.items()}

    def _memory(self, mix: Mix) -> int | None:
        return None if self.targets.memory is None else self.bounds.fixed_memory + total_memory(self._choice(mix))

    def _decodes(self, mix: Mix) -> float:
        """Tokens a second of `mix`, measured; how far that is from what was foretold is kept for further mixes."""
        seconds = self.times.measure(self._own(mix))
        self.measuring.steps.step()
        self.bounds = self.bounds.slower(seconds / total_seconds(self._choice(mix)))
        return 1 / seconds

    def _own(self, mix: Mix) -> dict[str, str]:
        """Without the tensors that stay as the parent has them."""
        return {name: kind for name, kind in mix.items() if kind != self.survey.types[name][-1]}

    def _decoding(self) -> tuple[Trial, float]:
        """The best mix of those that decode as fast as is asked; where the best does not, more are tried."""
        wanted, slow = self.targets.decode or 0.0, []
        for _ in range(DECODE_CHECKS):
            best = self._best(among=[t for t in self.trials if t not in slow])
            found = self._decodes(best.types)
            if found >= wanted:
                return best, found
            slow.append(best)
            self._try(len(self.measuring.meters))
        raise UsageError(
            f"decode>={wanted:g} was not reached within the other targets: the best mix has {found:.3g} tokens/s",
            hint=f'feasible is "{replace(self.targets, decode=float(f"{0.98 * found:.2g}"))}"',
        )

    def _best(self, among: Sequence[Trial] | None = None) -> Trial:
        trials = self.trials if among is None else among
        limit = self.targets.kl or inf
        good = [t for t in trials if t.measured <= limit]
        if good and self.targets.smallest:
            return min(good, key=lambda t: (t.bytes, t.measured))
        best = min(trials, key=lambda t: t.measured)
        if not good:
            self._contradict(best)
        return best

    def _contradict(self, best: Trial) -> None:
        if self.targets.smallest:
            hint = "allow more, or take the model as it is"
            raise UsageError(f"{self.targets} was not reached: the best mix has kl {best.measured:.4g}", hint=hint)
        everything = frontier(self._options(), 1 << 62)
        size = self.bounds.size(everything.down_to(self.targets.kl or 0.0))
        raise UsageError(
            f"{self.targets} contradict each other: within the other bounds the best mix has kl {best.measured:.4g}",
            hint=f"feasible are about size<={size} with kl<={self.targets.kl}, or kl<={best.measured:.4g} as it is",
        )


def _job(info: GgufInfo, corpus: Corpus, imatrix: Path | None, tensors: Path, workers: int) -> MeterJob:
    """The job of each of `workers` processes, which share the cores."""
    threads = max(1, _cores() // workers)
    return MeterJob(
        model=info.path, corpus=corpus, imatrix=imatrix, cache=tensors, context=_context(info), threads=threads
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
    return min(CONTEXT, info.context_length or CONTEXT)


def _key(choice: Choice) -> tuple[tuple[str, str], ...]:
    return tuple((name, option.type) for name, option in choice.items())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
