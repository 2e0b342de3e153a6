"""95 % confidence intervals from a bootstrap by document.

Tokens of one document are alike, so documents are drawn, not tokens: with replacement, as many as there are, and
with all their tokens. What is estimated are ratios of sums over documents: of KL and tokens, or of the KL of two
variants on the same documents, which pairs them.

The interval is the studentized bootstrap's ("bootstrap-t"; Efron and Tibshirani, "An Introduction to the Bootstrap",
1993, ch. 12), with the standard error of a ratio by linearization, and on the logarithm where nothing is negative.
Sums of KL are so skewed that plain percentiles of 40 documents hold the truth in 92 % of cases; these do in 95 %
(`coverage` simulates it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import erfc
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreshore.card import Interval
from foreshore.errors import UsageError
from foreshore.wilson import Z95, wilson

__all__ = ["MIN_DOCUMENTS", "Coverage", "coverage", "quantile", "ratio", "share"]

MIN_DOCUMENTS = 8  # of fewer, resampling says too little about the ones not seen
REPLICATES = 4000
KEPT = 2000  # with at most so many documents, what was drawn is kept for the next interval (32 MB)
SPREAD = 2.0  # variance of the logarithm of simulated tokens' KL
SMALL = 3.0  # intervals are wider by this over the number of documents: without it 40 hold the truth in 93 %
MIN_VARIED = 10  # documents: a share that fewer of them have anything of is not resampled

Numbers = NDArray[np.float64]


def ratio(top: ArrayLike, bottom: ArrayLike, *, seed: int = 0) -> Interval:
    """The sum of `top` over the sum of `bottom`, both (documents,), and the interval of what it would be over all
    documents of their kind. An end is infinite where the resamples set no bound.

    Raises `UsageError` for fewer than `MIN_DOCUMENTS`, `ValueError` for values that are not finite.
    """
    above, below = _checked(top, bottom)
    value = float(above.sum() / below.sum())
    if not above.any():
        return Interval(value=0.0, low=0.0, high=0.0)
    values, errors = _statistics(_resampled(above, below, seed), len(above))
    value_error = float(_statistics(_moments(above, below).sum(axis=0)[None], len(above))[1][0])
    logarithmic = bool((above >= 0).all())
    low, high = _studentized(value, value_error, values, errors, len(above), logarithmic)
    return Interval(value=value, low=low, high=high)


def share(some: ArrayLike, of: ArrayLike, *, seed: int = 0) -> Interval:
    """The share of tokens that `some` (documents,) counts among `of` (documents,).

    The rarer of the share and its complement is resampled. Where fewer than `MIN_VARIED` documents have any of it, the
    interval is Wilson's for the number of tokens that the variance between documents leaves (Korn and Graubard,
    "Confidence Intervals for Proportions With Small Expected Number of Positive Counts", 1998).
    """
    part, whole = _checked(some, of)
    if 2 * part.sum() > whole.sum():
        rest = share(whole - part, whole, seed=seed)
        return Interval(value=1 - rest.value, low=1 - rest.high, high=1 - rest.low)
    if np.count_nonzero(part) < MIN_VARIED:
        return _effective_wilson(part, whole)
    found = ratio(part, whole, seed=seed)
    return Interval(value=found.value, low=max(0.0, found.low), high=min(1.0, found.high))


def quantile(values: Sequence[NDArray[Any]], q: float, *, seed: int = 0) -> Interval:
    """The quantile `q` of all tokens' `values`, an array for each document; its interval is Woodruff's ("Confidence
    Intervals for Medians and Other Position Measures", 1952): that of the share of tokens above it, read as quantiles.
    """
    pooled = np.sort(np.concatenate(values).astype(np.float64))
    value = _nearest(pooled, q)
    above = share([np.count_nonzero(v > value) for v in values], [len(v) for v in values], seed=seed)
    return Interval(value=value, low=_nearest(pooled, 1 - above.high), high=_nearest(pooled, 1 - above.low))


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many of `trials` intervals held the truth, and Wilson's interval of that share."""

    documents: int
    trials: int
    mean: Interval  # of ratios, such as the mean KL
    paired: Interval  # of two variants' ratio on the same documents
    share: Interval  # such as the same-top rate
    quantile: Interval  # the 99th percentile


def coverage(documents: int, trials: int, *, seed: int = 0) -> Coverage:
    """Simulate `trials` measurements on texts of `documents` documents whose truth is known.

    The kind of document is meant to be hard: lengths from 8 to 1,000 tokens (log-normal), KL that differs between
    documents (log-normal, less in longer ones) and more between the tokens of one.
    """
    rng = np.random.default_rng(seed)
    truth = _truths()
    hits = np.zeros(len(truth))
    for _ in range(trials):
        found = _simulated(rng, documents)
        hits += [i.low <= t <= i.high for i, t in zip(found, truth, strict=True)]
    mean, paired, part, percentile = (_share_of(h, trials) for h in hits)
    return Coverage(documents=documents, trials=trials, mean=mean, paired=paired, share=part, quantile=percentile)


def _share_of(hits: float, trials: int) -> Interval:
    low, high = wilson(float(hits), trials)
    return Interval(value=float(hits / trials), low=low, high=high)


def _checked(top: ArrayLike, bottom: ArrayLike) -> tuple[Numbers, Numbers]:
    above, below = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    if above.shape != below.shape or above.ndim != 1:
        raise ValueError(f"sums of shapes {above.shape} and {below.shape} are not of the same documents")
    if len(above) < MIN_DOCUMENTS:
        raise UsageError(
            f"the text has {len(above)!r} documents, too few for a confidence interval",
            hint=f"give at least {MIN_DOCUMENTS}, better 100",
        )
    if not (np.isfinite(above).all() and np.isfinite(below).all() and (below >= 0).all() and below.any()):
        raise ValueError("sums that are not finite, or over nothing")
    return above, below


def _moments(above: Numbers, below: Numbers) -> Numbers:
    """What the ratio and its standard error are made of, by document: (documents, 5)."""
    return np.stack([above, below, above * above, above * below, below * below], axis=1)


def _resampled(above: Numbers, below: Numbers, seed: int) -> Numbers:
    """The sums of `_moments` over each resample, (replicates, 5)."""
    moments = _moments(above, below)
    scale = np.abs(moments).max(axis=0)
    scaled = moments / np.where(scale > 0, scale, 1)
    if len(above) <= KEPT:
        sums = _drawn(len(above), REPLICATES, seed) @ scaled
    else:
        block = max(1, KEPT * REPLICATES // 8 // len(above))
        rng = np.random.default_rng(seed)
        sums = np.concatenate([_counts(len(above), block, rng) @ scaled for _ in range(-(-REPLICATES // block))])
    return np.asarray(sums * scale)


@lru_cache(maxsize=2)
def _drawn(documents: int, replicates: int, seed: int) -> NDArray[np.float32]:
    return _counts(documents, replicates, np.random.default_rng(seed))


def _counts(documents: int, replicates: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """How often each resample has each document, (replicates, documents)."""
    drawn = rng.integers(documents, size=(replicates, documents)) + documents * np.arange(replicates)[:, None]
    counts = np.bincount(drawn.reshape(-1), minlength=replicates * documents)
    return counts.reshape(replicates, documents).astype(np.float32)


def _statistics(sums: Numbers, documents: int) -> tuple[Numbers, Numbers]:
    """The ratio of each row of summed moments, and its standard error by linearization."""
    above, below, squares, products, bottoms = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        values = above / below
        spread = np.maximum(squares - 2 * values * products + values * values * bottoms, 0)
        return values, np.sqrt(spread * documents / (documents - 1)) / below


def _studentized(
    value: float, error: float, values: Numbers, errors: Numbers, documents: int, logarithmic: bool
) -> tuple[float, float]:
    """The ends whose distance from `value`, in standard errors, the resamples keep on either side."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = (np.log(values / value) * values if logarithmic else values - value) / errors
    distances = np.sort(np.nan_to_num(distances, nan=0.0, posinf=np.inf, neginf=-np.inf))
    last = len(distances) - 1
    wider = 1 + SMALL / documents
    below, above = wider * distances[int(0.025 * last)], wider * distances[last - int(0.025 * last)]
    if error == 0:
        return value, value
    if logarithmic:
        with np.errstate(over="ignore"):
            return float(value * np.exp(-above * error / value)), float(value * np.exp(-below * error / value))
    return float(value - above * error), float(value - below * error)


def _effective_wilson(part: Numbers, whole: Numbers) -> Interval:
    value = float(part.sum() / whole.sum())
    error = float(_statistics(_moments(part, whole).sum(axis=0)[None], len(part))[1][0])
    tokens = float(whole.sum())
    effective = min(tokens, value * (1 - value) / error**2) if error > 0 and 0 < value < 1 else tokens
    low, high = wilson(value * effective, effective, Z95)
    return Interval(value=value, low=low, high=high)


def _nearest(ordered: Numbers, q: float) -> float:
    """The smallest of the values that the share `q` of them does not exceed."""
    return float(ordered[min(len(ordered) - 1, max(0, int(np.ceil(q * len(ordered) - 1e-9)) - 1))])


# --- simulation -------------------------------------------------------------------------------------------------


def _documents(rng: np.random.Generator, count: int) -> tuple[NDArray[np.int64], Numbers]:
    """Lengths and mean KL of simulated documents, each (count,)."""
    lengths = np.clip(rng.lognormal(np.log(120), 0.7, count), 8, 1000).astype(np.int64)
    return lengths, 0.02 * rng.lognormal(0, 0.6, count) * (lengths / 120) ** -0.2


def _changing(rates: Numbers) -> Numbers:
    return 3 * rates / (1 + 3 * rates)


def _simulated(rng: np.random.Generator, documents: int) -> tuple[Interval, ...]:
    """One measurement, in the order of `_truths`."""
    lengths, rates = _documents(rng, documents)
    of_token = np.repeat(rates, lengths)
    kl = of_token * rng.lognormal(-SPREAD / 2, np.sqrt(SPREAD), len(of_token))
    halved = kl * np.repeat(rng.lognormal(-0.02, 0.2, documents), lengths) / 2
    other = halved * rng.lognormal(-0.125, 0.5, len(kl))
    changed = rng.random(len(kl)) < _changing(of_token)
    starts = np.cumsum(lengths) - lengths
    sums, others, changes = (np.add.reduceat(v, starts) for v in (kl, other, changed.astype(np.float64)))
    return (
        ratio(sums, lengths),
        ratio(others, sums),
        share(lengths - changes, lengths),
        quantile(np.split(kl, starts[1:]), 0.99),
    )


@lru_cache(maxsize=1)
def _truths() -> tuple[float, float, float, float]:
    """Mean KL, ratio of two variants' means, share of unchanged tokens and 99th percentile, over all documents."""
    lengths, rates = _documents(np.random.default_rng(1), 1_000_000)
    tokens = lengths.sum()
    weights, edges = np.histogram(np.log(rates), bins=500, weights=lengths)
    centres = (edges[1:] + edges[:-1]) / 2

    def above(log_kl: float) -> float:
        """The share of tokens whose KL is larger: each document's are log-normal."""
        places = (log_kl - centres + SPREAD / 2) / np.sqrt(2 * SPREAD)
        return float(sum(w * erfc(x) for w, x in zip(weights, places, strict=True)) / 2 / tokens)

    low, high = np.log(1e-6), np.log(1e3)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) > 0.01 else (low, middle)
    kept = 1 - float((lengths * _changing(rates)).sum() / tokens)
    return float((lengths * rates).sum() / tokens), 0.5, kept, float(np.exp(low))
