"""Forecasts of the router, live: how far off is the time to first token, and how often do its intervals hold?

    python -m benchmarks.latency [--json] [--quick] [--only KEY,...] [--seed N] [--runs N] [--rounds N]
        [--model NAME:VARIANT|FILE.gguf]

A router with starter-s on this machine and starter-l behind HTTP is put under a mixed load: prompts of every length,
one request at a time, several side by side, open arrivals, bursts. Each forecast is read before its request is sent,
by the forecaster that has learned from all answers that had ended by then. Every run begins with one that has learned
nothing; its first answers (`details.warm_up`) are not counted. docs/latency.md has the method.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.command import attempt, check_names, parser, run_as_command, show
from benchmarks.latency_baselines import BASELINES, foretold
from benchmarks.latency_live import EDGE, Sample, cloud, live
from benchmarks.row import Row, Target
from foreshore.cli.console import err, exit_on_error
from foreshore.wilson import wilson

__all__ = ["TARGETS", "main", "rows"]

TARGETS = {
    "ttft_mape": Target(bound=0.20, side="<=", what="median absolute percentage error of the time to first token"),
    "coverage_80": Target(
        bound=0.75, side=">=", most=0.85, what="share of outcomes in 80 % intervals, of TTFT or total: the further off"
    ),
}
SEED = 20_261_121
RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    runs: int
    rounds: int
    warm_up: int  # answers of each run that are not counted


FULL = Scale(runs=3, rounds=8, warm_up=150)
QUICK = Scale(runs=1, rounds=1, warm_up=40)


def measure(scale: Scale, seed: int, model: str = EDGE) -> dict[str, Row]:
    runs = []
    with cloud() as url:
        for n in range(scale.runs):
            with err.status(f"run {n + 1} of {scale.runs}"):
                runs.append(live(url, seed=seed + n, rounds=scale.rounds, model=model))
    return rows(runs, warm_up=scale.warm_up, seed=seed)


def rows(runs: Sequence[Sequence[Sample]], *, warm_up: int, seed: int = 0) -> dict[str, Row]:
    """Of all runs together."""
    counted = [sample for run in runs for sample in run[warm_up:]]
    beside: dict[str, Any] = {
        "seed": seed, "runs": len(runs), "warm_up": warm_up, "answers": len(counted),
        "baselines": _baselines(runs, warm_up), "targets": _by(counted, lambda s: s.target),
        "phases": _by(counted, lambda s: s.phase), "tenants": _by(counted, lambda s: s.tenant),
    }  # fmt: skip
    errors = [_error(s.ttft[1], s.ttft_s) for s in counted]
    low, high = _bootstrap(errors, seed)
    shares = {
        "ttft": [_within(s.ttft, s.ttft_s) for s in counted],
        "total": [_within(s.total, s.total_s) for s in counted],
    }
    worst = max(shares, key=lambda name: abs(statistics.mean(shares[name]) - 0.8))
    held = sum(shares[worst])
    interval = wilson(held, len(counted))
    coverage = {name: round(statistics.mean(found), 4) for name, found in shares.items()}
    return {
        "ttft_mape": Row(key="ttft_mape", value=statistics.median(errors), low=low, high=high, details=beside),
        "coverage_80": Row(
            key="coverage_80", value=held / len(counted), low=interval[0], high=interval[1],
            details={"of": worst, **coverage, "answers": len(counted)},
        ),
    }  # fmt: skip


def _error(foretold_s: float, seconds: float) -> float:
    return abs(foretold_s / seconds - 1.0)


def _within(levels: Sequence[float], seconds: float) -> bool:
    return levels[0] <= seconds <= levels[-1]


def _by(samples: Sequence[Sample], part: Callable[[Sample], str]) -> dict[str, Any]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(part(sample), []).append(sample)
    return {name: _figures(group) for name, group in sorted(groups.items())}


def _figures(samples: Sequence[Sample]) -> dict[str, float]:
    found = {
        "answers": len(samples),
        "ttft_ms_p50": 1e3 * statistics.median(s.ttft_s for s in samples),
        "ttft_mape": statistics.median(_error(s.ttft[1], s.ttft_s) for s in samples),
        "ttft_coverage_80": statistics.mean(_within(s.ttft, s.ttft_s) for s in samples),
        "total_ms_p50": 1e3 * statistics.median(s.total_s for s in samples),
        "total_mape": statistics.median(_error(s.total[1], s.total_s) for s in samples),
        "total_coverage_80": statistics.mean(_within(s.total, s.total_s) for s in samples),
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def _baselines(runs: Sequence[Sequence[Sample]], warm_up: int) -> dict[str, dict[str, float]]:
    """The same errors of simpler forecasts, over the same answers."""
    found = {}
    for name, make in BASELINES.items():
        pairs = [pair for run in runs for pair in foretold(run, make)[warm_up:]]
        errors = [_error(seconds, sample.ttft_s) for sample, seconds in pairs]
        found[name] = {"ttft_mape": float(f"{statistics.median(errors):.4g}")}
    return found


def _bootstrap(errors: Sequence[float], seed: int) -> tuple[float, float]:
    """The 95 % interval of their median."""
    draws = random.Random(seed)
    medians = sorted(statistics.median(draws.choices(errors, k=len(errors))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def main(argv: list[str] | None = None) -> None:
    options = parser("The router's forecasts, live.", "one short run: that it works")
    options.add_argument("--seed", type=int, default=SEED, help="of the load; the n-th run takes this one + n")
    options.add_argument("--runs", type=int, help=f"how many; default: {FULL.runs}")
    options.add_argument("--model", default=EDGE, help=f"on this machine, by name or file; default: {EDGE}")
    options.add_argument("--rounds", type=int, help=f"of all phases, in each run; default: {FULL.rounds}")
    given = options.parse_args(argv)
    with exit_on_error():
        check_names("row", given.only, TARGETS)
        scale = QUICK if given.quick else FULL
        rounds = max(1, given.rounds or scale.rounds)
        runs = max(1, given.runs or scale.runs)
        scale = replace(scale, runs=runs, rounds=rounds, warm_up=min(scale.warm_up, QUICK.warm_up * rounds))
        found = attempt(list(TARGETS), lambda: measure(scale, given.seed, given.model), TARGETS, given.model)
    show([found[key] for key in given.only or TARGETS], TARGETS, as_json=given.json)


if __name__ == "__main__":
    run_as_command(main)
