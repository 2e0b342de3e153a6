"""Gaps between an answer's tokens, counted in the classes of `GAP_BOUNDS`: cheap to send, to add up and to compare."""

from __future__ import annotations

from collections.abc import Sequence

from foreshore.types import GAP_BOUNDS

__all__ = ["gap_quantile"]


def gap_quantile(counts: Sequence[int], q: float) -> float:
    """The gap in seconds that the share `q` (0 to 1) of all gaps does not exceed, estimated from `Timings.gaps`.

    Within a class the gaps count as spread evenly, as PromQL's `histogram_quantile` takes them, so that the truth lies
    in the same class; of the last class, which has no upper bound, only the lower one is known and returned.
    0 where nothing was counted.
    """
    rank, below = q * sum(counts), 0
    for i, count in enumerate(counts):
        if count and below + count >= rank:
            lower = GAP_BOUNDS[i - 1] if i else 0.0
            upper = GAP_BOUNDS[i] if i < len(GAP_BOUNDS) else lower
            return lower + (upper - lower) * (rank - below) / count
        below += count
    return 0.0
