"""Looks for the mix of types that keeps the most quality within a bound, by what mixes really cost on this model.

    survey   the rounding error of every type, and KL of a few types of each tensor alone
    solve    the knapsack over what the survey says: a first mix
    trials   mixes that may be better are drawn from what is believed, measured whole, and what is believed is mended

The mix that measured best wins. All are measured on the same documents, so that their differences are not noise.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import inf
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreshore.disk import sha256
from foreshore.edge.gguf import inspect
from foreshore.errors import ModelError, UsageError
from foreshore.quantize.assemble import file_bytes
from foreshore.quantize.costs import Belief
from foreshore.quantize.fit_targets import FitTargets
from foreshore.quantize.imatrix import read_imatrix
from foreshore.quantize.knapsack import Choice, frontier, lightest, solve, total_bytes
from foreshore.quantize.measurements import Measurements
from foreshore.quantize.measuring import Measuring, OnSteps, Steps
from foreshore.quantize.meter import Meter, MeterJob, Meters, Mix
from foreshore.quantize.survey import TYPES, Survey, candidates
from foreshore.quantize.tensor_cache import prune
from foreshore.quantize.texts import Corpus

__all__ = ["Found", "Trial", "search"]

PROBES = (("q3_k", "q4_0"), ("q5_k", "q8_0"))  # measured alone; the second of a pair where rows do not divide by 256
TOKENS = (4096, 2048, 1024, 512, 256)  # that a probe may be measured on
TRIAL_SHARE = 3  # a whole mix is measured on so many times the tokens of a probe
PROBING, TRYING = 0.4, 0.8  # shares of the budget, and of what is then left
TIMED_TOKENS = 512  # of the measurement by which all others are planned
MOST_TRIALS = 48
CONTEXT = 512
SMALL = 512 << 20  # bytes of a parent that every core may have a process of its own for
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


def search(
    base: Path,
    targets: FitTargets,
    *,
    corpus: Corpus,
    imatrix: Path | None = None,
    budget_s: float = 600.0,
    cache: Path | None = None,
    workers: int | None = None,
    types: Sequence[str] = TYPES,
    progress: OnSteps = lambda done, total: None,
    make: Callable[[MeterJob], Meter] = Meter,
) -> Found:
    """Types for `base`, a model in f16, bf16 or f32, that meet `targets`; `assemble` makes the file of them.

    `corpus` is what KL is measured on: keep it apart from what the result is judged by. `cache` is a folder that keeps
    measurements and quantized tensors: a search that was killed goes on from there. `workers` processes measure side
    by side (default: one a core for small models, else one). `progress` is told of steps whose number is fixed before
    the first is done. Raises `UsageError` where the targets cannot be met, saying what can, `ModelError` for a model
    that cannot be searched, `SetupError`.
    """
    began, steps, info = time.monotonic(), Steps(progress, budget_s), inspect(base)
    workers = workers or (_cores() if info.size <= SMALL else 1)
    matrix = set(read_imatrix(imatrix)) if imatrix else set()
    job = _job(base, corpus, imatrix, cache, workers)
    settings = {
        "model": sha256(base),
        "corpus": corpus.sha256,
        "imatrix": sha256(imatrix) if imatrix else None,
        "context": job.context,
        "engine": version("llama_cpp_python"),
    }
    with Meters(job, workers, make) as meters:
        survey = candidates(info, meters.first.used, matrix, types)
        if not survey.types:
            raise ModelError(f"{base.name!r} has no weights to choose types for", hint="give it in f16, bf16 or f32")
        measuring = Measuring(meters=meters, record=Measurements(cache, settings), steps=steps)
        return _Search(survey, targets, measuring).run(began)


class _Search:
    def __init__(self, survey: Survey, targets: FitTargets, measuring: Measuring) -> None:
        self.survey, self.targets, self.measuring = survey, targets, measuring
        self.names = list(survey.types)
        self.belief = Belief(len(self.names))
        self.trials: list[Trial] = []
        self.rng = np.random.default_rng(0)
        self.aim = targets.kl or 0.0  # what the mixes tried are to cost, where the smallest is looked for
        parent = total_bytes({name: some[-1] for name, some in survey.options().items()})
        self.fixed = file_bytes(survey.base, {}) - parent  # bytes of the file beside what is searched for
        self.limit = self._limit(parent)

    def run(self, began: float) -> Found:
        steps, budget = self.measuring.steps, self._plan()
        self._look(budget)
        while len(self.trials) < budget.trials and (steps.left_s > 0 or not self.trials) and self._try(budget.windows):
            pass
        complete = steps.left_s > 0
        best = self._best()
        steps.step(steps.total - steps.done)
        return Found(
            types=best.types,
            bytes=best.bytes,
            predicted=self._predict(best.types),
            measured=best.measured,
            tokens=self.measuring.tokens(budget.windows),
            seconds=time.monotonic() - began,
            complete=complete,
            costs=self.costs,
            trials=tuple(self.trials),
        )

    def _limit(self, parent: int) -> int:
        """Bytes that the tensors may have together. Raises `UsageError` where the lightest types have more."""
        least = total_bytes(lightest(self.survey.options()))
        allowed = parent if self.targets.size is None else min(parent, self.targets.size - self.fixed)
        if allowed < least:
            nearest = f"size<={self.fixed + least}"
            raise UsageError(f"size<={self.targets.size} is out of this model's reach", hint=f"it can have {nearest}")
        return allowed

    def _plan(self) -> _Budget:
        """How much is measured on so that it fits the time: by a first measurement, or as a search before this did."""
        measuring, workers = self.measuring, len(self.measuring.meters)
        began, some = time.monotonic(), measuring.windows(TIMED_TOKENS)
        measuring.meters.first.divergences({}, some)
        rate = workers * measuring.tokens(some) / (time.monotonic() - began)  # tokens a second
        probes = len(self.names) * len(PROBES)
        room = rate * max(measuring.steps.left_s, 0) * PROBING / probes
        key = {"probe tokens": len(self.names), "budget": round(measuring.steps.left_s, -1)}
        tokens = measuring.record.get(key) or float(next((n for n in TOKENS if n <= room), TOKENS[-1]))
        measuring.record.put(key, tokens)
        windows = measuring.windows(int(TRIAL_SHARE * tokens))
        left = max(measuring.steps.left_s, 0) * rate - probes * tokens
        trials = int(min(max(left * TRYING / measuring.tokens(windows), workers), MOST_TRIALS))
        measuring.steps.plan(len(self.names) + probes + trials)
        return _Budget(probe=measuring.windows(int(tokens)), windows=windows, trials=trials)

    def _look(self, budget: _Budget) -> None:
        self.survey = self.survey.with_errors(self.measuring.errors(self.survey.pairs()))
        pairs = [
            (name, kind)
            for pair in PROBES
            for name in sorted(self.names, key=lambda n: -len(self.survey.types[n]))
            if (kind := next((k for k in pair if k in self.survey.types[name]), None))
        ]
        found = self.measuring.kl([{name: kind} for name, kind in pairs], budget.probe)
        measured = [(pair, kl) for pair, kl in zip(pairs, found, strict=True) if kl is not None]
        self.survey = self.survey.with_kl(measured)
        self.costs = self.survey.costs()

    def _try(self, windows: int) -> bool:
        """Measure new mixes, one for each process. `False` where there is none that was not measured."""
        new: list[Choice] = []
        for _ in range(len(self.measuring.meters)):
            choice = self._propose({*(tuple(t.types.items()) for t in self.trials), *map(_key, new)})
            if choice:
                new.append(choice)
        mixes = [{name: o.type for name, o in choice.items()} for choice in new]
        predicted = [self._predict(mix) for mix in mixes]
        for choice, mix, expected, kl in zip(new, mixes, predicted, self.measuring.kl(mixes, windows), strict=True):
            if kl is not None:
                self.belief.observe(self._parts(mix), kl)
                self.aim *= 0.99 if kl > (self.targets.kl or inf) else 1.003
                size = self.fixed + total_bytes(choice)
                self.trials.append(Trial(types=mix, bytes=size, predicted=expected, measured=kl))
        return bool(new)

    def _propose(self, seen: set[tuple[tuple[str, str], ...]]) -> Choice | None:
        """The best mix by what is believed at present, or, where that was measured, by what may as well be so."""
        for draw in range(DRAWS if self.trials else 1):
            scales = self.belief.scales(self.rng if draw or seen else None)
            choice = self._solve(dict(zip(self.names, scales, strict=True)))
            if _key(choice) not in seen:
                return choice
        return None

    def _solve(self, scales: Mapping[str, float]) -> Choice:
        options = self.survey.options(self.costs, scales)
        if self.targets.smallest:
            return frontier(options, self.limit).down_to(self.aim)
        return solve(options, self.limit)

    def _parts(self, mix: Mix) -> NDArray[np.float64]:
        return np.array([self.costs[name][mix[name]] for name in self.names])

    def _predict(self, mix: Mix) -> float:
        return float(self._parts(mix) @ self.belief.scales())

    def _best(self) -> Trial:
        limit = self.targets.kl or inf
        good = [t for t in self.trials if t.measured <= limit]
        if good and self.targets.smallest:
            return min(good, key=lambda t: (t.bytes, t.measured))
        best = min(self.trials, key=lambda t: t.measured)
        if not good:
            self._contradict(best)
        return best

    def _contradict(self, best: Trial) -> None:
        scales = dict(zip(self.names, self.belief.scales(), strict=True))
        everything = frontier(self.survey.options(self.costs, scales), 1 << 62)
        size = self.fixed + total_bytes(everything.down_to(self.targets.kl or 0.0))
        raise UsageError(
            f"{self.targets} contradict each other: within {best.bytes} bytes the best mix has kl {best.measured:.4g}",
            hint=f"feasible are about size<={size} with kl<={self.targets.kl}, or kl<={best.measured:.4g} at this size",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Budget:
    probe: int  # windows
    windows: int  # for a trial
    trials: int


def _job(base: Path, corpus: Corpus, imatrix: Path | None, cache: Path | None, workers: int | None) -> MeterJob:
    """The job of each of `workers` processes, which share the cores."""
    info = inspect(base)
    tensors = cache / "tensors" if cache else None
    if tensors:
        prune(tensors)
    return MeterJob(
        model=base,
        corpus=corpus,
        imatrix=imatrix,
        cache=tensors,
        context=min(CONTEXT, info.context_length or CONTEXT),
        threads=max(1, _cores() // (workers or 1)),
    )


def _key(choice: Choice) -> tuple[tuple[str, str], ...]:
    return tuple((name, option.type) for name, option in choice.items())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
