"""The few tokens of a vocabulary that a sampler can leave, found without sorting the vocabulary.

A narrowing maps a row of logits to the ids of a set that holds every token its sampler would keep. `top_k` and `min_p`
may hold more, since the native sampler runs on the set and cuts it exactly; `top_p` and `top_n_sigma` need sums over
the vocabulary, which are made here, so their sets are final. None holds a token whose logit is minus infinity, and
where the best logit is no number the set may be empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from foreshore.edge.sampling.candidates import Ids, Logits
from foreshore.edge.sampling.scratch import scratch

__all__ = ["Narrowing", "best", "everything", "min_p", "ranked", "top_k", "top_n_sigma", "top_p"]

Narrowing = Callable[[Logits], Ids]

_LINES = 64  # a row is read as a matrix of so many lines: measured fastest from 32k to 256k logits
_NONE = np.empty(0, np.intp)
_SLACK = 1e-3  # far above what logf and its sum may be rounded by, far below what would let many tokens in
_FEW, _MORE = 64, 1024  # how many of the best are looked at for a nucleus before all are


def top_k(k: int) -> Narrowing:
    return lambda row: best(row, k)


def min_p(p: float, min_keep: int) -> Narrowing:
    below = math.log(p) - _SLACK

    def narrow(row: Logits) -> Ids:
        bound = float(row.max()) + below
        return _reaching(row, min(bound, _kth(row, min_keep)) if min_keep > 1 else bound)

    return narrow


def top_p(p: float, min_keep: int) -> Narrowing:
    """The best tokens, best first, up to the first at which their probabilities sum to `p`, but at least `min_keep`."""
    least, wanted = max(1, min_keep), np.float32(p)

    def narrow(row: Logits) -> Ids:
        weights = scratch("weights", len(row))
        peak = row.max()
        if not math.isfinite(peak):
            return _NONE
        np.exp(np.subtract(row, peak, out=weights), out=weights)
        total = weights.sum()
        for count in (max(_FEW, least), max(_MORE, least), len(row)):
            ids = best(row, count)
            ids = ids[np.argsort(-row[ids])]
            mass = np.cumsum(weights[ids] / total, dtype=np.float32)
            at = int(mass.searchsorted(wanted))
            if at < len(ids):
                break
        return ids[: max(at + 1, least)]

    return narrow


def top_n_sigma(n: float) -> Narrowing:
    def narrow(row: Logits) -> Ids:
        peak = float(row.max())
        if not math.isfinite(peak):
            return _NONE
        known = row[row > -np.inf]
        return _reaching(row, peak - n * float(known.std(dtype=np.float64)))

    return narrow


def everything(row: Logits) -> Ids:
    return _all(len(row)) if row.min() > -math.inf else _reaching(row, -math.inf)


@cache
def _all(size: int) -> Ids:
    return np.arange(size)


def ranked(row: Logits) -> Ids:
    """All tokens, the best first: where a sampler would sort them anyhow, numpy does it several times faster."""
    ids = np.argsort(-row)
    return ids[: np.count_nonzero(row > -math.inf)]


def best(row: Logits, k: int) -> Ids:
    """Ids, ascending, of all logits that reach a bound which at least `k` reach, and for small `k` few more.

    Each column of the row as a matrix has a maximum, which is a logit of its own: so at least `k` logits reach the
    k-th largest maximum, and whatever is among the `k` largest does. Only columns whose maximum reaches it are read.
    """
    size, width = len(row), len(row) // _LINES
    if 4 * k > width:
        return _reaching(row, _kth(row, k))
    lines = row[: width * _LINES].reshape(_LINES, width)
    peaks = lines.max(axis=0)
    bound = np.partition(peaks, width - k)[width - k]
    columns = np.flatnonzero(peaks >= bound)
    if bound == -np.inf or 2 * len(columns) > width:
        return _reaching(row, float(bound))
    line, place = (lines.take(columns, axis=1) >= bound).nonzero()
    ids: Ids = line * width + columns[place]
    if size == width * _LINES:
        return ids
    return np.concatenate((ids, width * _LINES + np.flatnonzero(row[width * _LINES :] >= bound)))


def _kth(row: Logits, k: int) -> float:
    """The `k`-th largest logit."""
    return float(np.partition(row, len(row) - k)[len(row) - k]) if k < len(row) else -math.inf


def _reaching(row: Logits, bound: float) -> Ids:
    return np.flatnonzero(row > bound if bound == -math.inf else row >= bound)
