"""What a search measured, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Found", "Trial"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One whole mix that was measured; KL in nats a token."""

    types: Mapping[str, str]
    bytes: int  # of its file
    predicted: float  # before it was measured
    measured: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """`measured` is KL on the search's own documents: measure the file on others for what it costs."""

    types: Mapping[str, str]
    bytes: int
    predicted: float  # before it was measured
    measured: float
    tokens: int  # that mixes were measured on
    seconds: float
    complete: bool  # `False`: the budget ended it early
    costs: Mapping[str, Mapping[str, float]]  # KL of each tensor alone, by type
    probed: Mapping[str, Sequence[str]]  # types by tensor for which that was measured; for others it is read off
    trials: tuple[Trial, ...]
    moments: Path | None = None  # for `assemble`: all that was measured was refined by them
    memory: int | None = None  # bytes that a worker holds, where that was a target
    decode: float | None = None  # tokens/s of one stream, measured, where that was a target
