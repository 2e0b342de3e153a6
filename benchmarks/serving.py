"""Foreshore's local runtime beside its peers: speed, gaps, fairness, memory. One row for each target.

    python -m benchmarks.serving [--json] [--quick] [--only KEY,...] [--models NAME,...] [--cache FOLDER]

Runs of the two sides alternate, one side works at a time, each with 2 threads; a row's value is the median of the
ratios of runs that followed each other, `low` and `high` are the smallest and the largest. Where several models are
given, `value` is the worst model's. stdout has the result, stderr the progress. docs/benchmarks.md describes every row,
and how to build the peers (`LLAMA_SERVER`, `PEERS_PYTHON`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import models, peers, throughput
from benchmarks.capacity import overcommit, shared_prefix
from benchmarks.command import check_names, names, on_each, parser, run_as_command, show
from benchmarks.fairness import fairness
from benchmarks.gaps import gaps
from benchmarks.memory import leak, overhead
from benchmarks.own_time import own_time
from benchmarks.row import Row, Target
from benchmarks.scale import FULL, QUICK, Scale
from foreshore.cli.console import exit_on_error

__all__ = ["GROUPS", "TARGETS", "Group", "main", "measure"]

Measure = Callable[[Scale, Path], dict[str, Row]]
LEAK_MODEL = "starter-s-q4_k_m"  # small, so that thousands of requests take a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that one measurement yields, on every model or on the first alone."""

    keys: tuple[str, ...]
    run: Measure
    every_model: bool = False
    model: str | None = None  # not one of the scale's


def _groups() -> Iterator[Group]:
    yield Group(keys=("decode_vs_llama_bench",), run=throughput.decode, every_model=True)
    for streams in (1, 4, 8, 16):
        run = partial(throughput.aggregate, streams=streams)
        yield Group(keys=(f"aggregate_vs_llama_server_{streams}",), run=run, every_model=True)
    yield Group(keys=("aggregate_vs_llama_cpp_server_8",), run=throughput.llama_cpp_server)
    keys = ("gap_p99_vs_llama_server", "gap_p99_vs_undisturbed", "long_ttft_vs_llama_server")
    yield Group(keys=keys, run=gaps, every_model=True)
    yield Group(keys=("own_us_per_token_greedy", "own_us_per_token_sampled"), run=own_time)
    yield Group(keys=("overcommit_completed",), run=overcommit)
    yield Group(keys=("shared_prefix_prefill",), run=shared_prefix)
    yield Group(keys=("fair_ttft_vs_fifo", "fair_throughput_vs_fifo"), run=fairness)
    yield Group(keys=("rss_overhead_mb",), run=overhead)
    yield Group(keys=("leak_kib_per_request",), run=leak, model=LEAK_MODEL)


GROUPS = tuple(_groups())

_HTTP = "tokens/s of all streams over HTTP, ours / llama-server's, {} streams"
TARGETS = {
    "decode_vs_llama_bench": Target(bound=0.97, side=">=", what="single stream decode, ours / llama-bench's"),
    "aggregate_vs_llama_server_1": Target(bound=1.0, side=">=", what=_HTTP.format(1)),
    "aggregate_vs_llama_server_4": Target(bound=1.1, side=">=", what=_HTTP.format(4)),
    "aggregate_vs_llama_server_8": Target(bound=1.1, side=">=", what=_HTTP.format(8)),
    "aggregate_vs_llama_server_16": Target(bound=1.1, side=">=", what=_HTTP.format(16)),
    "aggregate_vs_llama_cpp_server_8": Target(bound=3.0, side=">=", what="the same, ours / llama_cpp.server's"),
    "gap_p99_vs_llama_server": Target(
        bound=1 / 40, side="<=", what="p99 gap of running streams while a long prompt is read, ours / llama-server's"
    ),
    "gap_p99_vs_undisturbed": Target(bound=6.0, side="<=", what="that gap / our own undisturbed median"),
    "long_ttft_vs_llama_server": Target(bound=1.3, side="<=", what="the long prompt's TTFT, ours / llama-server's"),
    "own_us_per_token_greedy": Target(bound=60.0, side="<=", what="µs a token outside llama_decode, greedy"),
    "own_us_per_token_sampled": Target(bound=200.0, side="<=", what="the same, top-k 40, top-p, temperature"),
    "overcommit_completed": Target(bound=1.0, side=">=", what="share completed when demand is 3x the KV cache"),
    "shared_prefix_prefill": Target(bound=1.15, side="<=", what="prompt tokens computed for all / for one"),
    "fair_ttft_vs_fifo": Target(bound=0.2, side="<=", what="chat's TTFT p95 beside long prompts, fair / FIFO"),
    "fair_throughput_vs_fifo": Target(bound=0.98, side=">=", what="tokens/s of that, fair / FIFO"),
    "rss_overhead_mb": Target(bound=200.0, side="<=", what="MB of a worker beyond weights and KV cache"),
    "leak_kib_per_request": Target(bound=1.0, side="<=", what="KiB that a short request leaves in memory"),
}


def measure(groups: Sequence[Group], scale: Scale, cache: Path | None = None) -> dict[str, Row]:
    """Every row of `groups`. What goes wrong in one measurement is its rows' `error`; the others run."""
    rows: dict[str, Row] = {}
    for group in groups:
        on = (group.model,) if group.model else scale.models if group.every_model else scale.models[:1]
        rows |= on_each(on, group.keys, partial(_run, group, scale, cache), TARGETS)
    return rows


def _run(group: Group, scale: Scale, cache: Path | None, name: str) -> dict[str, Row]:
    return group.run(scale, models.model(name, cache))


def main(argv: list[str] | None = None) -> None:
    quick = "small, on a starter model: within a minute"
    options = parser("The local runtime beside its peers.", quick)
    options.add_argument("--models", type=names, metavar="NAME,...", help="instead of " + ", ".join(FULL.models))
    options.add_argument("--cache", type=Path, help="where models are kept; default: $FORESHORE_HOME/benchmarks")
    given = options.parse_args(argv)
    with exit_on_error():
        check_names("row", given.only, TARGETS)
        check_names("benchmark model", given.models, models.NAMES)
        scale = QUICK if given.quick else FULL
        scale = replace(scale, models=tuple(given.models or scale.models))
        groups = [group for group in GROUPS if not given.only or set(group.keys) & set(given.only)]
        rows = measure(groups, scale, given.cache)
        wanted = [rows[key] for key in given.only or [key for group in groups for key in group.keys]]
        beside = {} if given.only or given.quick else _beside(scale, given.cache)
    show(wanted, TARGETS, as_json=given.json, **beside)


def _beside(scale: Scale, cache: Path | None) -> dict[str, Any]:
    """xllamacpp, which has no target, where it is installed."""
    if not peers.has_xllamacpp():
        return {}
    try:
        return {"xllamacpp": throughput.xllamacpp(scale, models.model(scale.models[0], cache))}
    except Exception as error:
        return {"xllamacpp": {"error": str(error)}}


if __name__ == "__main__":
    run_as_command(main)
