"""What all commands share: stdout is data, stderr is everything else, errors become exit codes here and only here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from foreshore.errors import ForeshoreError

__all__ = ["INTERRUPTED", "err", "exit_on_error", "out", "print_json", "show_error"]

PIPED_WIDTH = 120  # of a table that goes to a file or a pipe

out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
err = Console(stderr=True, soft_wrap=True, highlight=False)

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def print_json(value: Any) -> None:
    """One JSON document on stdout, plain even on a terminal."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def show_error(error: ForeshoreError) -> None:
    """One line, and a hint where there is one."""
    err.print(f"[bold red]error:[/] {escape(error.message)}")
    if error.hint:
        err.print(f"[bold]hint:[/] {escape(error.hint)}")


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print a `ForeshoreError` as one line and a hint, and leave with its exit code."""
    try:
        yield
    except ForeshoreError as error:
        show_error(error)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        err.print("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # `foreshore models list | head -1`
        sys.stderr.close()
        raise typer.Exit(0) from None
