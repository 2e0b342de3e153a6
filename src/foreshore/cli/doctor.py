"""`foreshore doctor`: is this machine ready, and if not, what mends it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from foreshore.cli.checks import CHECKS, Finding, check_all
from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.errors import SetupError

__all__ = ["app"]

app = typer.Typer()
MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[bold red]error[/]"}


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check Python, the native engine (by a real decode in a process of its own), memory, extras and config.

    Leaves with exit code 5 if something is broken; warnings leave with 0.
    """
    with exit_on_error():
        findings = []
        with err.status("checking"):
            for finding in check_all():
                findings.append(finding)
                if not as_json:
                    _show(finding)
    if as_json:
        ok = not any(f.status == "error" for f in findings)
        print_json({"ok": ok, "checks": [asdict(finding) for finding in findings]})
    if any(f.status == "error" for f in findings):
        raise typer.Exit(SetupError.exit_code)


def _show(finding: Finding) -> None:
    width = max(map(len, CHECKS))
    out.print(f"{finding.name:<{width}}  {MARKS[finding.status]}  {escape(finding.text)}")
    if finding.remedy:
        out.print(f"{'':<{width}}  [bold]hint:[/] {escape(finding.remedy)}")
