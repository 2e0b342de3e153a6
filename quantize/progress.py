"""How a build tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["OnCount", "OnProgress", "Progress", "Stage", "counter", "silent"]

Stage = Literal[
    "download",  # done and total are bytes
    "hash",
    "convert",
    "quantize",
    "calibrate",  # from here on they are counts: tokens read,
    "search",  # measurements,
    "compensate",  # inputs whose weights were rounded once more,
    "reference",  # documents, or tokens, read with the parent
    "quality",  # and with the variant,
    "answers",  # questions asked,
    "speed",  # runs
    "wait",  # another process builds the same variant
    "reuse",  # the variant was there, equal in source, recipe and tools
    "measured",  # the variant's card has just what would be measured
    "ready",  # the variant is in the store
]
COUNTED = frozenset({"calibrate", "search", "compensate", "reference", "quality", "answers", "speed"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    stage: Stage
    what: str  # a file, or the ref of a variant
    done: int = 0
    total: int = 0  # 0 if not known

    @property
    def counted(self) -> bool:
        """Whether `done` and `total` are counts, not bytes."""
        return self.stage in COUNTED


OnProgress = Callable[[Progress], None]
OnCount = Callable[[int, int], None]  # done, and of how many


def silent(progress: Progress) -> None:
    """Tell nobody."""


def counter(progress: OnProgress, stage: Stage, what: str) -> OnCount:
    """What a measurement can tell its steps to."""
    return lambda done, total: progress(Progress(stage=stage, what=what, done=done, total=total))
