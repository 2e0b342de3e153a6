"""Foreshore's local runtime beside its peers: speed, gaps, fairness, memory. One row for each target.

    python -m benchmarks.serving [--json] [--quick] [--only KEY,...] [--models NAME,...] [--cache FOLDER]

Runs of the two sides alternate, one side works at a time, each with 2 threads; a row's value is the median of the
ratios of runs that followed each other, `low` and `high` are the smallest and the largest. Where several models are
given, `value` is the worst model's. stdout has the result, stderr the progress. docs/benchmarks.md describes every row,
and how to build the peers (`LLAMA_SERVER`, `PEERS_PYTHON`).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from benchmarks import models, peers, throughput
from benchmarks.capacity import overcommit, shared_prefix
from benchmarks.fairness import fairness
from benchmarks.gaps import gaps
from benchmarks.memory import leak, overhead
from benchmarks.own_time import own_time
from benchmarks.row import TARGETS, Row, failed, worst
from benchmarks.scale import FULL, QUICK, Scale
from foreshore.cli.bench import machine
from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.errors import UsageError

__all__ = ["GROUPS", "Group", "main", "measure"]

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


def measure(groups: Sequence[Group], scale: Scale, cache: Path | None = None) -> dict[str, Row]:
    """Every row of `groups`. What goes wrong in one measurement is its rows' `error`; the others run."""
    rows: dict[str, Row] = {}
    for group in groups:
        names = (group.model,) if group.model else scale.models if group.every_model else scale.models[:1]
        found = {name: _attempt(group, scale, name, cache) for name in names}
        for key in group.keys:
            rows[key] = worst({name: found[name][key] for name in names})
    return rows


def _attempt(group: Group, scale: Scale, name: str, cache: Path | None) -> dict[str, Row]:
    begun = time.monotonic()
    try:
        with err.status(f"{name}: {', '.join(group.keys)}"):
            found = group.run(scale, models.model(name, cache))
    except Exception as error:  # a peer that crashes, a server that answers wrongly: other rows can still be measured
        found = {key: failed(key, error) for key in group.keys}
    for row in found.values():
        err.print(f"[dim]{time.monotonic() - begun:6.1f} s[/]  {name}  {_line(row)}")
    return found


def main(argv: list[str] | None = None) -> None:
    options = _arguments(argv)
    with exit_on_error():
        groups = _chosen(options.only)
        _check("benchmark model", options.models, models.NAMES)
        scale = QUICK if options.quick else FULL
        scale = replace(scale, models=tuple(options.models or scale.models))
        rows = measure(groups, scale, options.cache)
        wanted = options.only or [key for group in groups for key in group.keys]
        beside = {} if options.only or options.quick else _beside(scale, options.cache)
    if options.json:
        print_json({**{key: rows[key].to_json() for key in wanted}, **beside, "machine": machine()})
        return
    for key in wanted:
        out.print(_line(rows[key]))


def _beside(scale: Scale, cache: Path | None) -> dict[str, Any]:
    """xllamacpp, which has no target, where it is installed."""
    if not peers.has_xllamacpp():
        return {}
    try:
        return {"xllamacpp": throughput.xllamacpp(scale, models.model(scale.models[0], cache))}
    except Exception as error:
        return {"xllamacpp": {"error": str(error)}}


def _chosen(only: Sequence[str] | None) -> list[Group]:
    _check("row", only, TARGETS)
    return [group for group in GROUPS if not only or set(group.keys) & set(only)]


def _check(what: str, names: Sequence[str] | None, known: Collection[str]) -> None:
    hint = "there are " + ", ".join(known)
    if names is not None and not names:
        raise UsageError(f"no {what} is named", hint=hint)
    for name in names or ():
        if name not in known:
            raise UsageError(f"there is no {what} {name!r}", hint=hint)


def _line(row: Row) -> str:
    if row.value is None:
        return f"[red]error[/]  {row.key}: {escape(row.error or '')}"
    spread = f"({row.low:.4g} to {row.high:.4g})"
    mark = "[green]ok   [/]" if row.ok else "[yellow]below[/]" if row.target.side == ">=" else "[yellow]above[/]"
    return f"{mark}  {row.key:32} {row.value:9.4g} {spread:22} {row.target.side} {row.target.bound:g}"


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The local runtime beside its peers.")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="small, on a starter model: within a minute")
    parser.add_argument("--only", type=_list, metavar="KEY,...", help="these rows alone")
    parser.add_argument("--models", type=_list, metavar="NAME,...", help="instead of " + ", ".join(FULL.models))
    parser.add_argument("--cache", type=Path, help="where models are kept; default: $FORESHORE_HOME/benchmarks")
    return parser.parse_args(argv)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the servers are ended on the way out
    try:
        main()
    except typer.Exit as leave:
        raise SystemExit(leave.exit_code) from None
