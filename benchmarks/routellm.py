"""How well the quality estimator routes, by RouteLLM's own metric on RouteLLM's own tables.

    python -m benchmarks.routellm --data DIR [--json]       # DIR holds mmlu.csv.gz and gsm8k.csv.gz
    python -m benchmarks.routellm --data FILE [--json]      # any pair: prompt, weak_correct, strong_correct
    python -m benchmarks.routellm --data DIR --encoder minilm:q8_0      # and all again, told by a local encoder

The tables are lm-sys/RouteLLM's `routellm/evals` (Apache-2.0), without the prompts that it lists as contaminated:
prompt, weak_correct (Mixtral-8x7B-Instruct), strong_correct (GPT-4-1106-preview), for GSM8K weak_response. What is
measured is the estimator that ships, `foreshore.quality.train` with its defaults. Folds are fixed by `--seed`. APGR and
CPT are as in `foreshore.quality.curve`, intervals from a bootstrap over prompts. The cascade's rows do not charge the
pass of the weak model that each prompt then costs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table as Grid

from benchmarks.command import attempt, check_names, parser, run_as_command, show
from benchmarks.routellm_data import Table, read_all
from benchmarks.routellm_encoder import Remembered, encoder_of
from benchmarks.routellm_rows import (
    FEW,
    Routed,
    by_length,
    by_luck,
    by_oracle,
    cross_validated,
    few_labels,
    transferred,
)  # fmt: skip
from benchmarks.row import Row, Target
from foreshore.cli.bench import machine
from foreshore.cli.console import exit_on_error, out, print_json
from foreshore.errors import UsageError

__all__ = ["TARGETS", "main"]

QUICK = 600  # prompts of each table
TARGETS = {
    "mmlu_apgr": Target(bound=0.665, side=">=", what="MMLU, prompt only, 5 folds"),
    "gsm8k_apgr": Target(bound=0.65, side=">=", what="GSM8K, prompt only, 5 folds"),
    "gsm8k_cascade_apgr": Target(bound=0.74, side=">=", what="GSM8K, after the weak model's answer, 5 folds"),
    "transfer_apgr": Target(bound=0.58, side=">=", what="learnt on MMLU, judged on GSM8K"),
    "apgr": Target(bound=0.5, side=">=", what="the table given, prompt only, 5 folds; 0.5 is chance"),
    "cascade_apgr": Target(bound=0.5, side=">=", what="the table given, after the weak model's answer, 5 folds"),
}
PUBLISHED = {  # the best of RouteLLM's routers on each table, from its paper; in percent as there
    "mmlu": {"router": "published best (sw_ranking)", "apgr": 0.603, "cpt50": 35.40, "cpt80": 71.55},
    "gsm8k": {"router": "published best (causal_llm)", "apgr": 0.622, "cpt50": 33.64, "cpt80": 63.26},
}

Rows = list[dict[str, Any]]


def measure(
    tables: dict[str, Table], only: list[str] | None, seed: int, encoder: Remembered | None = None
) -> tuple[list[Row], Rows]:
    """The rows with targets, and those of all routers on all tables; with `encoder` each of ours again, told by it."""
    ways = _ways(tables, seed)
    check_names("row", only, ways)
    wanted = only or list(ways)
    rows: Rows = [row for table in tables.values() for row in _baselines(table)]
    found: list[Row] = []
    for key in wanted:
        done: Rows = []
        result = attempt([key], partial(_row, key, ways[key], done), TARGETS, ways[key].args[0].name)
        found.append(result[key])
        rows.extend(done)
        if encoder is not None and done:
            rows.append(ways[key](encoder=encoder).row())
    if not only:
        large = [table for table in tables.values() if len(table) > 2 * FEW]
        rows.extend(few_labels(table, seed).row() for table in large)
        rows.extend(few_labels(table, seed, encoder=encoder).row() for table in large if encoder is not None)
    return found, sorted(rows, key=lambda row: row["table"])


def _ways(tables: dict[str, Table], seed: int) -> dict[str, partial[Routed]]:
    if "mmlu" in tables and "gsm8k" in tables:
        mmlu, gsm8k = tables["mmlu"], tables["gsm8k"]
        return {
            "mmlu_apgr": partial(cross_validated, mmlu, seed),
            "gsm8k_apgr": partial(cross_validated, gsm8k, seed),
            "gsm8k_cascade_apgr": partial(cross_validated, gsm8k, seed, answers=True),
            "transfer_apgr": partial(transferred, mmlu, gsm8k),
        }
    (table,) = tables.values()
    found = {"apgr": partial(cross_validated, table, seed)}
    return {**found, "cascade_apgr": partial(cross_validated, table, seed, answers=True)} if table.answers else found


def _row(key: str, way: Callable[[], Routed], done: Rows) -> dict[str, Row]:
    routed = way().row()
    done.append(routed)
    details = {name: value for name, value in routed.items() if name not in ("apgr", "low", "high")}
    return {key: Row(key=key, value=routed["apgr"], low=routed["low"], high=routed["high"], details=details)}


def _baselines(table: Table) -> Rows:
    """What a router must beat, and what none can; models of another price, if the table has any."""
    found = [way(table).row() for way in (by_luck, by_length, by_oracle)]
    weak, strong = float(table.weak.mean()), float(table.strong.mean())
    for name, right in table.singles.items():
        accuracy = float(right.mean())
        gap = (accuracy - weak) / (strong - weak) if strong != weak else None
        found.append({"table": table.name, "router": f"single {name}", "accuracy": accuracy, "gap_recovered": gap})
    if not table.singles:
        none = "this table has no model of middle price"
        found.append({"table": table.name, "router": "single model of middle price", "accuracy": None, "why": none})
    if table.name in PUBLISHED:
        found.append({"table": table.name, **PUBLISHED[table.name]})
    return found


def _show(rows: Rows) -> None:
    columns = ("table", "router", "apgr", "low", "high", "cpt50", "cpt80", "cpt50_envelope", "cpt80_envelope", "labels")
    grid = Grid(*columns, box=None, pad_edge=False)
    for row in rows:
        cells = (row.get(name, "") for name in columns)
        grid.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in cells))
    out.print(grid)


def main(argv: list[str] | None = None) -> None:
    options = _options(argv)
    with exit_on_error():
        if options.most is not None and options.most < 1:
            raise UsageError(f"--most is {options.most!r}; it must be at least 1")
        tables = read_all(options.data)
        if most := QUICK if options.quick else options.most:
            tables = {name: table.drawn(most, options.seed) for name, table in tables.items()}
        with encoder_of(options.encoder) as encoder:
            found, rows = measure(tables, options.only, options.seed, encoder)
        if options.json:
            beside = {"rows": rows, "seed": options.seed, "quick": options.quick, "machine": machine()}
            beside["encoder"] = encoder.to_json() if encoder else None
            print_json({**{row.key: TARGETS[row.key].to_json(row) for row in found}, **beside})
        else:
            show(found, TARGETS, as_json=False)
            _show(rows)
            if encoder:
                each = encoder.to_json()
                p50, p90 = each["alone_p50_ms"], each["alone_p90_ms"]
                out.print(f"{each['model']}: {p50:.1f} ms for a prompt alone, {p90:.1f} ms at the 90th percentile")


def _options(argv: list[str] | None) -> argparse.Namespace:
    found = parser("APGR of the quality estimator on RouteLLM's tables.", f"{QUICK} prompts of each table")
    found.add_argument("--data", type=Path, required=True, help="a folder with mmlu and gsm8k, or one table")
    found.add_argument("--most", type=int, help="prompts of each table, drawn by chance; default: all")
    found.add_argument("--encoder", help="a local model whose vectors tell ours: NAME:VARIANT or a path")
    found.add_argument("--seed", type=int, default=0, help="of the folds and draws")
    return found.parse_args(argv)


if __name__ == "__main__":
    run_as_command(main)
