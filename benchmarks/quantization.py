"""The quantization toolchain beside llama-quantize, and what its own measurements are worth. One row for each target.

    python -m benchmarks.quantization [--json] [--quick] [--only KEY,...] [--cache FOLDER]
    python -m benchmarks.quantization --model SOURCE [--only KEY,...] [--budget SECONDS] [--json]

Of rows measured on both starters `value` is the worse one's. `low` and `high` are a 95 % confidence interval, except
for throughput (the smallest and largest ratio of runs that followed each other) and for what is counted, not sampled.
With `--model` the searched mixes of a model that you bring are measured, and nothing else. stdout has the result,
stderr the progress. docs/benchmarks.md describes every row, and how to build the peer (`LLAMA_QUANTIZE`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.command import attempt, check_names, on_each, parser, run_as_command, show
from benchmarks.quantization_measures import encoder, intervals, memory
from benchmarks.quantization_mixes import SIZES, fits, ratios, search_seconds
from benchmarks.quantization_parent import Parent
from benchmarks.quantization_scale import FULL, QUICK, Scale
from benchmarks.quantization_uniform import identical, throughput
from benchmarks.row import Row, Target
from foreshore.cli.console import exit_on_error
from foreshore.disk import disk_errors
from foreshore.errors import UsageError
from foreshore.home import home

__all__ = ["GROUPS", "MIXES", "TARGETS", "Group", "main", "measure"]

Rows = dict[str, Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that one measurement yields: on every starter, on the first alone, or on no model of its own."""

    keys: tuple[str, ...]
    run: Callable[[Scale, Parent], Rows]
    models: int | None = 1  # None: every one; 0: none, and of the parent only its folder is used


def _groups() -> Iterator[Group]:
    yield Group(keys=("uniform_identical",), run=identical, models=None)
    yield Group(keys=("throughput_vs_llama_quantize",), run=throughput)
    for ftype in SIZES:
        run = partial(ratios, ftype=ftype)
        yield Group(keys=(f"mix_kl_ratio_{ftype}",), run=run, models=None)
    yield Group(keys=("search_seconds",), run=search_seconds)
    yield Group(keys=("fit_size_error", "mix_rank_correlation"), run=fits)
    yield Group(keys=("interval_coverage",), run=lambda scale, _: intervals(scale), models=0)
    yield Group(keys=("kl_peak_mb",), run=lambda scale, parent: memory(scale, parent.folder), models=0)
    yield Group(keys=("minilm_int8_cosine",), run=lambda scale, parent: encoder(scale, parent.folder), models=0)


GROUPS = tuple(_groups())
MIXES = tuple(f"mix_kl_ratio_{ftype}" for ftype in SIZES)

_RATIO = "held-out KL of the searched mix / of the best uniform type, at no more bytes than {}"
TARGETS: Mapping[str, Target] = {
    "uniform_identical": Target(bound=1.0, side=">=", what="share of files equal to llama-quantize's, byte by byte"),
    "throughput_vs_llama_quantize": Target(bound=0.95, side=">=", what="MB/s of the source, ours / llama-quantize's"),
    **{
        key: Target(bound=0.30, side="<=", high=0.40, what=_RATIO.format(ftype.upper()))
        for key, ftype in zip(MIXES, SIZES, strict=True)
    },
    "search_seconds": Target(bound=60.0, side="<=", what="s of a search that comes within 5 % of the full one's KL"),
    "fit_size_error": Target(bound=0.0, side=">=", most=0.01, what="share by which a file is below the size asked for"),
    "mix_rank_correlation": Target(bound=0.9, side=">=", what="Spearman's rho of foretold and measured KL"),
    "interval_coverage": Target(bound=0.93, side=">=", most=0.97, what="share of 95 % intervals that hold the truth"),
    "kl_peak_mb": Target(bound=500.0, side="<=", what="MB beyond the model while KL is measured, 151,936 tokens"),
    "minilm_int8_cosine": Target(bound=0.99, side=">=", what="mean cosine of int8 vectors and FP32 ones"),
}


def measure(groups: Sequence[Group], scale: Scale, parents: Sequence[Parent]) -> Rows:
    """Every row of `groups`. What goes wrong in one measurement is its rows' `error`; the others run."""
    rows: Rows = {}
    for group in groups:
        if group.models == 0:
            rows |= attempt(group.keys, partial(group.run, scale, parents[0]), TARGETS, "no model")
        else:
            on = {parent.name: parent for parent in parents[: group.models]}
            rows |= on_each(tuple(on), group.keys, partial(_run, group, scale, on), TARGETS)
    return rows


def _run(group: Group, scale: Scale, on: Mapping[str, Parent], name: str) -> Rows:
    return group.run(scale, on[name])


def main(argv: list[str] | None = None) -> None:
    options = parser("The quantization toolchain beside llama-quantize.", "small, on starter-s: within a minute")
    options.add_argument("--model", metavar="SOURCE", help="the searched mixes of a folder, a .gguf or hf:ORG/NAME")
    options.add_argument("--budget", type=float, metavar="SECONDS", help=f"of each search; default: {FULL.search_s:g}")
    options.add_argument("--cache", type=Path, help="where models are kept; default: $FORESHORE_HOME/benchmarks")
    given = options.parse_args(argv)
    with exit_on_error():
        known = MIXES if given.model else tuple(TARGETS)
        check_names("row" if not given.model else "row for a model of yours", given.only, known)
        scale = _with_budget(QUICK if given.quick else FULL, given.budget)
        wanted = given.only or known
        groups = [group for group in GROUPS if set(group.keys) & set(wanted)]
        folder = (given.cache or home() / "benchmarks").expanduser().resolve()
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="quantization-", dir=folder) as scratch:
            rows = measure(groups, scale, _parents(scale, given.model, folder, Path(scratch)))
    show([rows[key] for key in wanted], TARGETS, as_json=given.json)


def _with_budget(scale: Scale, budget: float | None) -> Scale:
    if budget is not None and not budget > 0:
        raise UsageError(f"the budget is {budget!r} seconds; it must be positive")
    return scale if budget is None else replace(scale, search_s=budget)


def _parents(scale: Scale, model: str | None, folder: Path, scratch: Path) -> list[Parent]:
    names = [model] if model else scale.starters
    places = [Path(tempfile.mkdtemp(dir=scratch)) for _ in names]
    return [
        Parent(name=name, folder=folder, scratch=place, documents=scale.documents)
        for name, place in zip(names, places, strict=True)
    ]


if __name__ == "__main__":
    run_as_command(main)
