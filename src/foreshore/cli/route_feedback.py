"""`foreshore route feedback`: say of an answer whether it was right."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from foreshore.cli.console import err, exit_on_error, print_json
from foreshore.cli.route_options import ConfigOption, JsonOption
from foreshore.errors import UsageError

__all__ = ["feedback"]


def feedback(
    decision: Annotated[str, typer.Argument(help="The x-foreshore-decision header of the answer.")],
    correct: Annotated[bool | None, typer.Option("--correct/--wrong", help="Whether the answer was right.")] = None,
    score: Annotated[float | None, typer.Option(help="Instead: from 0, wrong, to 1, right.")] = None,
    evaluated: Annotated[bool, typer.Option("--evaluated", help="An evaluation says so, not a user.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say of an answer whether it was right. What is learnt later rests on this."""
    with exit_on_error():
        from foreshore.config import find_config, load_config
        from foreshore.reliability.feedback import give

        if (correct is None) == (score is None):
            raise UsageError("feedback says either --correct or --wrong, or --score", hint="give exactly one of them")
        value = float(bool(correct)) if score is None else score
        file = load_config(find_config(config)).ledger.file
        found = give(file, decision, value, source="eval" if evaluated else "user")
        if as_json:
            print_json(asdict(found))
        else:
            err.print(f"[green]noted[/] {escape(found.decision_id)}: {found.score:g}")
