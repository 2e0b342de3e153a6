"""`foreshore route policies`: the shipped policies, listed, or one of them printed as it stands in a config."""

from __future__ import annotations

import re
import textwrap
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foreshore.cli.console import exit_on_error, out, print_json
from foreshore.cli.route_options import ConfigOption, JsonOption

__all__ = ["policies"]


def policies(
    name: Annotated[str | None, typer.Argument(help="One of them: prints its YAML, to read or to copy.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the shipped policies, or print one with what your config sets in it."""
    with exit_on_error():
        from foreshore.config import find_config, load_config
        from foreshore.errors import NotFound
        from foreshore.router.library import NAMES, shipped, text_of

        loaded = load_config(find_config(config))
        known = {str(n): n for n in NAMES}
        if name is not None and name not in known:
            raise NotFound(f"there is no shipped policy {name!r}", hint=f"there are {', '.join(NAMES)}")
        chosen = NAMES if name is None else (known[name],)
        if as_json:
            print_json({n: {"used": n in loaded.policy, **shipped(n, loaded).model_dump(mode="json")} for n in chosen})
        elif name is not None:
            about = textwrap.wrap(shipped(known[name], loaded).about, 118)
            typer.echo("\n".join(f"# {line}" for line in about))
            typer.echo(_parts(text_of(known[name], loaded)), nl=False)
        else:
            table = Table(box=None, pad_edge=False)
            for heading in ("policy", "used", "what it does"):
                table.add_column(heading, no_wrap=heading != "what it does")
            for n in chosen:
                table.add_row(n, "yes" if n in loaded.policy else "", escape(shipped(n, loaded).about))
            out.print(table)


def _parts(text: str) -> str:
    """What a config can hold of a policy's file: its constraints and rules."""
    return re.split(r"^(?=constraints:|rules:)", text, maxsplit=1, flags=re.MULTILINE)[1]
