"""Keeps a folder of things that can be made again from growing for ever."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["prune"]

KEPT_BYTES = 4 << 30


def prune(folder: Path, keep: int = KEPT_BYTES) -> None:
    """Delete the oldest files until at most `keep` bytes are left."""
    entries = []
    for path in folder.glob("*"):
        with suppress(OSError):
            status = path.stat()
            entries.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, size, path in sorted(entries, reverse=True):
        total += size
        if total > keep:
            with suppress(OSError):
                path.unlink()
