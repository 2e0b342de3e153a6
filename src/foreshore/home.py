"""Where state lives: everything under one folder, `$FORESHORE_HOME` (default `~/.foreshore`)."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["home"]


def home() -> Path:
    """The state folder, absolute; created by whoever writes into it first."""
    return Path(os.environ.get("FORESHORE_HOME") or Path.home() / ".foreshore").expanduser().absolute()
