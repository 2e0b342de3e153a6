"""The `foreshore` command. Each command lives in the module of its name and is imported only when it is called."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = ("demo", "quantize", "lora", "models", "run", "serve", "route", "bench", "doctor")


class LazyGroup(TyperGroup):
    """Imports `foreshore.cli.NAME` when NAME is asked for, so that no command waits for what another needs."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        command = typer.main.get_command(import_module(f"foreshore.cli.{cmd_name}").app)
        command.name = cmd_name
        return command


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=True, rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Run inference on this machine where it can, in the cloud where it must."""
    if show_version:
        typer.echo(f"foreshore {version('foreshore')}")
        raise typer.Exit


def main() -> None:
    app()
