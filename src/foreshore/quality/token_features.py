"""What the log-probabilities of an answer's tokens say about it, as numbers.

Mean (the length-normalised log-probability), sum, lowest tokens and quantiles come from the tokens that were sampled.
Quantiles and not the mean alone: the mean hides the few unsure tokens of a long answer (Gupta et al., "Language Model
Cascades: Token-Level Uncertainty and Beyond", 2024). Entropies and margins need the likeliest alternatives at each
place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foreshore.types import TokenLogprob

__all__ = ["ALTERNATIVES", "SAMPLED", "features", "mean_probability"]

FLOOR = -30.0  # nats; servers write "impossible" as anything from -9999 to minus infinity
LOWEST = 3  # tokens
SAMPLED = ("mean", "sum", "lowest", "lowest_mean", "quantile_10", "quantile_25", "median", "first", "unsure", "length")
ALTERNATIVES = ("entropy_mean", "entropy_most", "margin_least", "margin_mean")
_IMPOSSIBLE = TokenLogprob(token="", bytes=b"", logprob=FLOOR)

Numbers = NDArray[np.float64]


def features(tokens: Sequence[TokenLogprob]) -> Numbers:
    """(features,) in the order `SAMPLED`, `ALTERNATIVES`; the latter are NaN where a token names fewer than two.

    Natural logarithms throughout; `unsure` is the share of tokens below even odds, `length` the logarithm of their
    number. Raises `ValueError` for no tokens.
    """
    if not tokens:
        raise ValueError("an answer without tokens has no features")
    return np.concatenate([_of_sampled(_clean([t.logprob for t in tokens])), _of_alternatives(tokens)])


def mean_probability(tokens: Sequence[TokenLogprob]) -> float:
    """The geometric mean of the tokens' probabilities: exp of the length-normalised log-probability."""
    return math.exp(float(_clean([t.logprob for t in tokens]).mean()))


def _of_sampled(values: Numbers) -> Numbers:
    ordered = np.sort(values)
    spread = np.quantile(ordered, (0.1, 0.25, 0.5))
    unsure = float((values < math.log(0.5)).mean())
    length = math.log(len(values))
    lowest = ordered[:LOWEST].mean()
    return np.array([values.mean(), values.sum(), ordered[0], lowest, *spread, values[0], unsure, length])


def _of_alternatives(tokens: Sequence[TokenLogprob]) -> Numbers:
    if any(len(t.top) < 2 for t in tokens):
        return np.full(len(ALTERNATIVES), np.nan)
    most = max(len(t.top) for t in tokens)
    rows = _clean([other.logprob for t in tokens for other in (*t.top, *[_IMPOSSIBLE] * (most - len(t.top)))])
    logs = np.sort(rows.reshape(len(tokens), most), axis=1)
    entropies, margins = _entropies(np.exp(logs)), logs[:, -1] - logs[:, -2]
    return np.array([entropies.mean(), entropies.max(), margins.min(), margins.mean()])


def _entropies(shares: Numbers) -> Numbers:
    """Of the alternatives that each row names, with all others taken as one: lower bounds."""
    rest = np.maximum(0.0, 1.0 - shares.sum(axis=1, keepdims=True))
    every = np.concatenate([shares, rest], axis=1)
    return np.asarray(-(every * np.log(np.maximum(every, 1e-300))).sum(axis=1))


def _clean(values: Sequence[float]) -> Numbers:
    """Between `FLOOR` and 0; what is no number counts as the least likely."""
    return np.clip(np.nan_to_num(np.asarray(values, np.float64), nan=FLOOR, neginf=FLOOR, posinf=0.0), FLOOR, 0.0)
