"""Many measurements in few numbers: percentiles of one run, and their spread over several."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from foreshore.cli.shot import Shot

__all__ = ["Figures", "Measurement", "percentile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number over several runs."""

    median: float
    low: float
    high: float
    runs: tuple[float, ...]

    @classmethod
    def of(cls, runs: Sequence[float]) -> Self:
        """Of at least one run."""
        return cls(median=statistics.median(runs), low=min(runs), high=max(runs), runs=tuple(runs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a server did under one load; times in milliseconds. None: no run measured it.

    `tokens_per_s` counts the generated tokens of whole answers, from the first request to the last token, prompts and
    queues included. A gap is the time between two pieces of text of one answer, as the client got them.
    """

    tokens_per_s: Measurement | None
    ttft_ms: dict[str, Measurement | None]
    gap_ms: dict[str, Measurement | None]
    queue_ms: dict[str, Measurement | None]
    requests: int
    answered: int
    errors: dict[str, int]

    @classmethod
    def of(cls, rounds: Sequence[Sequence[Shot]]) -> Self:
        """From the shots of each repetition."""
        answered = [good for shots in rounds if (good := [shot for shot in shots if not shot.error])]

        def over(measure: Callable[[list[Shot]], list[float]], *shares: float) -> dict[str, Measurement | None]:
            values = [found for good in answered if (found := measure(good))]
            return {_name(q): Measurement.of([percentile(v, q) for v in values]) if values else None for q in shares}

        return cls(
            tokens_per_s=Measurement.of([_tokens_per_s(good) for good in answered]) if answered else None,
            ttft_ms=over(lambda good: [shot.ttft_ms for shot in good], 0.5, 0.95, 0.99),
            gap_ms=over(lambda good: [gap for shot in good for gap in shot.gaps_ms], 0.5, 0.99, 1.0),
            queue_ms=over(lambda good: [s.queue_ms for s in good if s.queue_ms is not None], 0.5, 0.99),
            requests=sum(map(len, rounds)),
            answered=sum(map(len, answered)),
            errors=dict(Counter(shot.error for shots in rounds for shot in shots if shot.error)),
        )


def percentile(values: Sequence[float], q: float) -> float:
    """The smallest of `values` that the share `q` of them does not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def _name(q: float) -> str:
    return "max" if q == 1 else f"p{q * 100:.0f}"


def _tokens_per_s(shots: Sequence[Shot]) -> float:
    seconds = max(shot.ended for shot in shots) - min(shot.due for shot in shots)
    return sum(shot.tokens for shot in shots) / seconds
