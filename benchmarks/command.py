"""What the benchmarks' commands share: their options, which rows are wanted, and how a row is tried and shown."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import typer
from rich.markup import escape

from benchmarks.row import Row, Target, failed, worst
from foreshore.cli.bench import machine
from foreshore.cli.console import err, out, print_json
from foreshore.errors import UsageError

__all__ = ["attempt", "check_names", "names", "on_each", "parser", "run_as_command", "show"]


def parser(about: str, quick: str) -> argparse.ArgumentParser:
    """With the options that every benchmark has."""
    found = argparse.ArgumentParser(description=about)
    found.add_argument("--json", action="store_true", help="one JSON object on stdout")
    found.add_argument("--quick", action="store_true", help=quick)
    found.add_argument("--only", type=names, metavar="KEY,...", help="these rows alone")
    return found


def names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def check_names(what: str, given: Sequence[str] | None, known: Collection[str]) -> None:
    """Raises `UsageError` for a name that is not among `known`, and for none at all; `None` means: all."""
    hint = "there are " + ", ".join(known)
    if given is not None and not given:
        raise UsageError(f"no {what} is named", hint=hint)
    for name in given or ():
        if name not in known:
            raise UsageError(f"there is no {what} {name!r}", hint=hint)


def attempt(
    keys: Sequence[str], run: Callable[[], dict[str, Row]], targets: Mapping[str, Target], on: str
) -> dict[str, Row]:
    """The rows `keys` that `run` measures; what goes wrong is their `error`, so that other rows can be measured."""
    begun = time.monotonic()
    try:
        with err.status(f"{on}: {', '.join(keys)}"):
            found = run()
    except Exception as error:  # a peer that crashes, a server that answers wrongly
        found = {key: failed(key, error) for key in keys}
    for row in found.values():
        err.print(f"[dim]{time.monotonic() - begun:6.1f} s[/]  {on}  {_line(row, targets[row.key])}")
    return found


def on_each(
    models: Sequence[str], keys: Sequence[str], run: Callable[[str], dict[str, Row]], targets: Mapping[str, Target]
) -> dict[str, Row]:
    """The rows `keys` that `run` measures on each of `models`: of each row the worst model's."""
    found = {name: attempt(keys, partial(run, name), targets, name) for name in models}
    return {key: worst({name: found[name][key] for name in models}, targets[key]) for key in keys}


def show(rows: Sequence[Row], targets: Mapping[str, Target], *, as_json: bool, **beside: Any) -> None:
    """The result on stdout; `beside` and the machine's facts only in JSON."""
    if as_json:
        print_json({**{row.key: targets[row.key].to_json(row) for row in rows}, **beside, "machine": machine()})
        return
    for row in rows:
        out.print(_line(row, targets[row.key]))


def run_as_command(main: Callable[[], None]) -> None:
    """As `python -m`: a benchmark that is told to end ends its servers on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except typer.Exit as leave:
        raise SystemExit(leave.exit_code) from None


def _line(row: Row, target: Target) -> str:
    if row.value is None:
        return f"[red]error [/]  {row.key}: {escape(row.error or '')}"
    low, high = (row.value if v is None else v for v in (row.low, row.high))
    mark = "[green]ok    [/]" if target.met(row) else "[yellow]missed[/]"
    return f"{mark}  {row.key:32} {row.value:9.4g} {f'({low:.4g} to {high:.4g})':22} {target}"
