"""`foreshore route test`: a policy's expected decisions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.route_options import ConfigOption, JsonOption

if TYPE_CHECKING:
    from foreshore.router.checks.cases import Outcome

__all__ = ["run"]


def run(
    files: Annotated[list[Path], typer.Argument(help="YAML files of cases; see docs/policy-checks.md.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Decide on each case and hold what comes out against what is expected; exit code 1 where one differs."""
    with exit_on_error():
        from foreshore.config import find_config, load_config
        from foreshore.router.checks.case_file import read_cases
        from foreshore.router.checks.cases import run_cases
        from foreshore.router.policy import Policy

        path = find_config(config)
        loaded = load_config(path)
        policy = Policy(loaded, where=str(path or "built in"))
        found = {str(file): list(run_cases(read_cases(file), loaded, policy)) for file in files}
        failed = sum(bool(o.failures) for outcomes in found.values() for o in outcomes)
        if as_json:
            print_json(_json(found, failed))
        else:
            _show(found, failed)
        if failed:
            raise typer.Exit(1)


def _json(found: dict[str, list[Outcome]], failed: int) -> dict[str, object]:
    cases = [
        {
            "file": file,
            "line": outcome.line,
            "name": outcome.name,
            "passed": not outcome.failures,
            "decided": outcome.decided,
            "failures": [{"line": f.line, "message": f.message} for f in outcome.failures],
        }
        for file, outcomes in found.items()
        for outcome in outcomes
    ]
    return {"passed": len(cases) - failed, "failed": failed, "cases": cases}


def _show(found: dict[str, list[Outcome]], failed: int) -> None:
    for file, outcomes in found.items():
        for outcome in outcomes:
            mark = "[red]failed[/]" if outcome.failures else "[green]passed[/]"
            out.print(f"{mark} {escape(outcome.name)}")
            for failure in outcome.failures:
                out.print(f"       {escape(file)}:{failure.line}: {escape(failure.message)}")
    count = sum(map(len, found.values()))
    err.print(f"{count - failed} of {count} cases passed")
