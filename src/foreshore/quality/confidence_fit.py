"""Learning to tell right answers from wrong ones: logistic regression, its calibration, and how good both are.

Everything reported is cross-fitted: a score that is judged comes from a model, and a calibration, that never saw it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from foreshore.card import Interval

__all__ = ["Line", "Scaled", "auroc", "ece", "interval", "isotonic", "logistic", "platt", "sigmoid", "split"]

BINS = 10  # of the calibration error, with equally many answers in each
RESAMPLES = 500
STEPS = 50  # of Newton's method; a dozen do

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]
Line = tuple[Numbers, Numbers]  # of a calibration: scores, ascending, and probabilities; straight between them


def sigmoid(scores: Numbers) -> Numbers:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)))


class Scaled:
    """Columns brought to mean 0 and variance 1; what is missing becomes the mean, 0."""

    def __init__(self, rows: Numbers) -> None:
        known = np.isfinite(rows)
        count = np.maximum(known.sum(axis=0), 1)
        self.mean = np.where(known, rows, 0.0).sum(axis=0) / count
        squares = np.where(known, rows - self.mean, 0.0) ** 2
        spread = np.sqrt(squares.sum(axis=0) / count)
        self.scale = np.where(spread > 1e-9, spread, 1.0)

    def __call__(self, rows: Numbers) -> Numbers:
        return np.asarray(np.nan_to_num((rows - self.mean) / self.scale, nan=0.0, posinf=0.0, neginf=0.0))


def logistic(rows: Numbers, right: Flags, *, ridge: float = 1.0) -> Numbers:
    """Weights (features + 1,), the bias last, of an L2-penalised logistic regression, by Newton's method.

    The penalty is `ridge`/2 times the squared weights, bias aside, so that separable answers have a solution too.
    """
    x = np.column_stack([rows, np.ones(len(rows))])
    penalty = np.append(np.full(rows.shape[1], ridge), 1e-6)
    weights = np.zeros(x.shape[1])
    for _ in range(STEPS):
        shares = sigmoid(x @ weights)
        slope = x.T @ (shares - right) + penalty * weights
        curve = (x * (shares * (1 - shares))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        weights -= np.clip(step, -4.0, 4.0)
        if np.abs(step).max() < 1e-8:
            break
    return weights


def platt(scores: Numbers, right: Flags) -> Line:
    """A sigmoid through the scores (Platt, "Probabilistic Outputs for Support Vector Machines", 1999), as a line."""
    slope, bias = logistic(scores[:, None], right, ridge=1e-3)
    ends = np.linspace(scores.min() - 1, scores.max() + 1, 65)
    return ends, sigmoid(slope * ends + bias)


def isotonic(scores: Numbers, right: Flags) -> Line:
    """The best non-decreasing map (pool adjacent violators), straight between the blocks' means.

    A block's share is taken with half a right and half a wrong answer more, so that none is certain.
    """
    blocks: list[list[float]] = []  # sum of scores, right answers, answers
    for at in np.argsort(scores, kind="stable"):
        blocks.append([float(scores[at]), float(right[at]), 1.0])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][2] >= blocks[-1][1] * blocks[-2][2]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    sums, rights, counts = np.array(blocks).T
    shares = np.maximum.accumulate((rights + 0.5) / (counts + 1))
    return sums / counts, shares


def split(count: int, folds: int, seed: int) -> Iterator[tuple[Flags, Flags]]:
    """Masks of what is learnt from and what is judged, by fold."""
    place = np.random.default_rng(seed).permutation(count) % folds
    for fold in range(folds):
        yield place != fold, place == fold


def auroc(scores: Numbers, right: Flags) -> float:
    """The probability that a right answer scores above a wrong one, ties counting half. NaN without both kinds."""
    order = np.argsort(scores, kind="stable")
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.bincount(inverse, weights=ranks) / counts)[inverse]
    positive, negative = int(right.sum()), int((~right).sum())
    if not positive or not negative:
        return float("nan")
    return float((ranks[right].sum() - positive * (positive + 1) / 2) / (positive * negative))


def ece(shares: Numbers, right: Flags) -> float:
    """The expected calibration error: mean distance of predicted from actual share, over bins of equally many."""
    order = np.argsort(shares, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    gaps = [abs(float(shares[part].mean()) - float(right[part].mean())) * len(part) for part in parts]
    return sum(gaps) / len(shares)


def interval(measure: Callable[[Numbers, Flags], float], scores: Numbers, right: Flags, seed: int) -> Interval:
    """`measure` and its 95 % interval by the percentiles of a bootstrap over answers."""
    rng = np.random.default_rng(seed)
    value = measure(scores, right)
    drawn = (rng.integers(len(scores), size=len(scores)) for _ in range(RESAMPLES))
    found = np.array([measure(scores[at], right[at]) for at in drawn])
    low, high = np.nanquantile(found, (0.025, 0.975))
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value))
