"""`foreshore route lint`: what is wrong with a policy, and proof that what must stay here stays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.route_options import ConfigOption, JsonOption

if TYPE_CHECKING:
    from foreshore.config import Config
    from foreshore.router.lint.egress import Egress
    from foreshore.router.lint.lint import Report

__all__ = ["lint"]


def lint(
    config: ConfigOption = None,
    no_egress: Annotated[
        list[str] | None,
        typer.Option("--no-egress", help="CEL: such requests must not leave this machine either. May be repeated."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find what is wrong with a policy, and prove that private requests stay on this machine or print one that leaves.

    Expressions are typed; rules that never decide, contradictory constraints and unused targets are named. Exit codes:
    0 clean, 1 findings, 2 no such file, 3 a request gets out, 4 not proved.
    """
    with exit_on_error():
        from foreshore.config import find_config, load_config

        path = find_config(config)
        report = _report(load_config(path), path, no_egress or [])
        print_json(_json(report)) if as_json else _show(report)
        warned = strict and bool(report.findings)
        if report.exit_code or warned:
            raise typer.Exit(report.exit_code or 1)


def _report(config: Config, path: Path | None, kinds: Sequence[str]) -> Report:
    from foreshore.router.lint.finding import Finding
    from foreshore.router.lint.lint import Report, lint, mistakes
    from foreshore.router.policy import Policy

    where = str(path or "built in")
    wrong = mistakes(config, where)
    if wrong:
        placed = [(f"{m.where}, line {m.line}, column {m.column}", m.message) for m in wrong]
        return Report(findings=[Finding(code="type", where=place, message=what) for place, what in placed], egress=())
    return lint(config, Policy(config, where=where), kinds)


def _json(report: Report) -> dict[str, object]:
    return {
        "findings": [
            {"code": f.code, "where": f.where, "message": f.message, "serious": f.serious} for f in report.findings
        ],
        "no_egress": [
            {
                "property": e.property,
                "verdict": e.verdict,
                "targets": list(e.targets),
                "by": dict(e.by),
                "because": list(e.because),
                "witness": e.witness.as_json() if e.witness else None,
            }
            for e in report.egress
        ],
        "exit_code": report.exit_code,
    }


def _show(report: Report) -> None:
    for finding in report.findings:
        mark = "[red]error[/]  " if finding.serious else "[yellow]warning[/]"
        out.print(f"{mark} {escape(finding.where)}: {escape(finding.message)}")
    if any(finding.code == "type" for finding in report.findings):
        err.print("[yellow]note:[/] nothing is proved of a policy whose expressions have mistakes")
    elif not report.findings:
        out.print("[green]ok[/]      every expression has its types, every rule decides somewhere")
    for egress in report.egress:
        _show_egress(egress)


def _show_egress(egress: Egress) -> None:
    kind, away = escape(egress.property), escape(", ".join(egress.targets))
    if not egress.targets:
        out.print(f"[green]proved[/]  {kind} never leaves: every target is on this machine")
    elif egress.verdict == "proved":
        out.print(f"[green]proved[/]  {kind} never reaches {away} ({', '.join(sorted(set(egress.by.values())))})")
    elif egress.verdict == "not proved":
        out.print(f"[yellow]not proved[/] that {kind} never reaches {away}; in the way:")
        for text in egress.because:
            out.print(f"        {escape(text)}")
    elif egress.witness is not None:
        witness = egress.witness
        out.print(f"[bold red]broken[/]  {kind} reaches {escape(repr(witness.target))}: a request that does")
        for name, value in witness.given.items():
            out.print(f"        {escape(name)}: {escape(repr(list(value) if isinstance(value, tuple) else value))}")
        for name in witness.fields:
            out.print(f"        {escape(name)}: in the body, a field that not every target honours")
        tries = ", then ".join(witness.targets)
        out.print(f"        is decided by {escape(repr(witness.rule))}, which tries {escape(tries)}")
