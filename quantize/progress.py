"""How a build tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["OnProgress", "Progress", "Stage", "silent"]

Stage = Literal[
    "download",  # done and total are bytes
    "hash",
    "convert",
    "quantize",
    "wait",  # another process builds the same variant
    "reuse",  # the variant was there, equal in source, recipe and tools
    "ready",  # the variant is in the store
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    stage: Stage
    what: str  # a file, or the ref of a variant
    done: int = 0  # bytes
    total: int = 0  # bytes; 0 if not known


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """Tell nobody."""
