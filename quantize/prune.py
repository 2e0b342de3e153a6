"""Keeps a folder of things that can be made again from growing for ever."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

__all__ = ["prune"]

KEPT_BYTES = 4 << 30


def prune(folder: Path, keep: int = KEPT_BYTES, *, idle_s: float = 0.0) -> None:
    """Delete the oldest files until at most `keep` bytes are left, but none that changed within the last `idle_s`."""
    entries, since = [], time.time() - idle_s
    for path in folder.glob("*"):
        with suppress(OSError):
            status = path.stat()
            entries.append((status.st_mtime, status.st_size, path))
    total = 0
    for changed, size, path in sorted(entries, reverse=True):
        total += size
        if total > keep and changed <= since:
            with suppress(OSError):
                path.unlink()
