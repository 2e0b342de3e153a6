"""Options that the commands of `foreshore route` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["ConfigOption", "JsonOption"]

ConfigOption = Annotated[
    Path | None, typer.Option("-c", "--config", help="Default: $FORESHORE_CONFIG, then ./foreshore.yaml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
