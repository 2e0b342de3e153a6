"""What was measured of mixes, kept on disk line by line, so that a search that was killed goes on where it was.

One file holds the mixes of one parent on one corpus with one importance matrix. A line that broke off is passed over;
two searches that write at once cost nothing but a line that is there twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

__all__ = ["Measurements"]


class Measurements:
    """`settings` names all that a measurement depends on beside the mix. Without a folder nothing is kept on disk."""

    def __init__(self, folder: Path | None, settings: Mapping[str, object]) -> None:
        self._known: dict[str, float] = {}
        self._path = folder / f"{_digest(settings)}.jsonl" if folder else None
        if folder and self._path:
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
            self._read(self._path)

    def get(self, key: Mapping[str, object]) -> float | None:
        return self._known.get(_digest(key))

    def put(self, key: Mapping[str, object], value: float) -> None:
        """Keep it; a disk that is full costs only that it must be measured again."""
        name = _digest(key)
        self._known[name] = value
        if self._path:
            with suppress(OSError):
                handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                try:
                    os.write(handle, f"\n{json.dumps([name, value])}\n".encode())
                finally:
                    os.close(handle)

    def _read(self, path: Path) -> None:
        with suppress(OSError):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, TypeError):
                    name, value = json.loads(line)
                    self._known[str(name)] = float(value)


def _digest(value: Mapping[str, object]) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
