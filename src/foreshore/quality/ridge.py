"""Ridge regression on many columns, for all targets and folds at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshore.quality.design import Design

__all__ = ["Fitted", "choose_scales", "fit", "fit_few"]

SAMPLE = 1200  # rows that scales are chosen on: a scale is a signal-to-noise ratio, which does not grow with the rows
GRID = tuple(10 ** (k / 2) for k in range(-6, 3))  # 0.001 to 10
START = {"words": 0.1, "answer_counts": 0.1}  # of the other blocks 0.03
WORTH = 2e-3  # of the error: a smaller gain is chance, and moves no scale
EXACT = 1e-4  # of the right side's length: what is left when the solution is good enough
STEPS = 200

Numbers = NDArray[np.float64]
Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """`weights` (columns, targets) and `bias` (targets,) on rows of the design; `held` (rows, targets) are the scores
    of each row by a fit that did not see its fold."""

    weights: Matrix
    bias: Matrix
    held: Matrix


def fit(design: Design, right: Numbers, weight: Numbers, folds: NDArray[np.intp]) -> Fitted:
    """For each target minimises sum(weight * (right - bias - row @ weights)**2) + sum(weights**2), the bias free.

    `right` and `weight` (rows, targets); a weight of 0 leaves a row out. `folds` (rows,).
    """
    targets = right.shape[1]
    kinds = np.unique(folds)
    kept = np.column_stack([np.ones(len(folds), bool), *(folds != kind for kind in kinds)])
    masks = np.repeat(kept, targets, axis=1) * np.tile(weight, (1, kept.shape[1]))
    weights, bias = _solve(design, np.tile(right, (1, kept.shape[1])), masks.astype(np.float32))
    scores = design.times(weights) + bias
    held = np.zeros(right.shape, np.float32)
    for number, kind in enumerate(kinds, start=1):
        held[folds == kind] = scores[folds == kind, number * targets : (number + 1) * targets]
    return Fitted(weights=weights[:, :targets], bias=bias[:targets], held=held)


def fit_few(rows: Matrix, right: Numbers, weight: Numbers, folds: NDArray[np.intp], penalty: float) -> Fitted:
    """As `fit`, but of few columns, `rows` (rows, columns), with `penalty` times the squared weights."""
    x = np.column_stack([rows, np.ones(len(rows))]).astype(np.float64)
    penalties = np.diag(np.append(np.full(rows.shape[1], penalty), 0.0))

    def solved(kept: NDArray[np.bool_], target: int) -> Numbers:
        heavy = x * (weight[:, target] * kept)[:, None]
        return np.asarray(np.linalg.solve(heavy.T @ x + penalties, heavy.T @ right[:, target]))

    held, found = np.zeros(right.shape), np.zeros((x.shape[1], right.shape[1]))
    for target in range(right.shape[1]):
        found[:, target] = solved(np.ones(len(rows), np.bool_), target)
        for fold in np.unique(folds):
            held[folds == fold, target] = x[folds == fold] @ solved(folds != fold, target)
    as_float = (part.astype(np.float32) for part in (found[:-1], found[-1], held))
    return Fitted(**dict(zip(("weights", "bias", "held"), as_float, strict=True)))


def _solve(design: Design, right: Numbers, weight: Matrix) -> tuple[Matrix, Matrix]:
    """Conjugate gradients (Hestenes and Stiefel, 1952), a column of `right` and `weight` (rows, n) for each problem;
    the bias is the last of the unknowns, and bears no penalty."""

    def applied(unknowns: Matrix) -> Matrix:
        inner = weight * (design.times(unknowns[:-1]) + unknowns[-1])
        return np.vstack([design.transposed_times(inner) + unknowns[:-1], inner.sum(axis=0)])

    aim = (weight * right).astype(np.float32)
    left = np.vstack([design.transposed_times(aim), aim.sum(axis=0)])
    found, direction = np.zeros_like(left), left.copy()
    norm = start = (left**2).sum(axis=0)
    for _ in range(STEPS):
        image = applied(direction)
        length = norm / np.maximum((direction * image).sum(axis=0), 1e-30)
        found += length * direction
        left -= length * image
        before, norm = norm, (left**2).sum(axis=0)
        if (norm <= EXACT**2 * start).all():
            break
        direction = left + norm / np.maximum(before, 1e-30) * direction
    return found[:-1], found[-1]


def choose_scales(
    design: Design, right: Numbers, weight: Numbers, without: Collection[str] = ()
) -> Mapping[str, float]:
    """The variance of each block's weights, over the noise's, that predicts left-out rows best: one block after the
    other, steps up and down `GRID`. Of left-out rows a ridge regression's errors have a closed form (Allen, "The
    relationship between variable selection and data augmentation and a method for prediction", 1974).

    `right` (rows, targets), `weight` (rows,): rows of which no target has a label have the weight 0. Blocks in
    `without` get 0, and say nothing.
    """
    at = np.flatnonzero(weight)
    if len(at) > SAMPLE:
        at = np.sort(np.random.default_rng(0).choice(at, SAMPLE, replace=False))
    of_block = {block: rows for block, rows in design.products(at).items() if block not in without}
    products = list(of_block.values())
    known: dict[tuple[int, ...], float] = {}

    def loss(place: tuple[int, ...]) -> float:
        if place not in known:
            total = np.sum([GRID[p] * k for p, k in zip(place, products, strict=True)], axis=0)
            known[place] = _left_out(total, right[at], weight[at])
        return known[place]

    best = tuple(int(np.searchsorted(GRID, 0.99 * START.get(block, GRID[3]))) for block in of_block)
    while True:
        before = best
        for block in range(len(products)):
            near = [p for p in (best[block] - 1, best[block] + 1) if 0 <= p < len(GRID)]
            found = min(((*best[:block], p, *best[block + 1 :]) for p in near), key=loss)
            best = found if loss(found) < (1 - WORTH) * loss(best) else best
        if best == before:
            return dict.fromkeys(design.blocks, 0.0) | dict(zip(of_block, (GRID[p] for p in best), strict=True))


def _left_out(products: Matrix, right: Numbers, weight: Numbers) -> float:
    """Mean squared error of each row by a fit without it."""
    system = np.linalg.inv(products + np.diag(1 / weight).astype(np.float32)).astype(np.float64)
    ones = system.sum(axis=1)
    system -= np.outer(ones, ones) / ones.sum()  # the bias is free
    errors = (system @ right) / np.diag(system)[:, None]
    return float((weight[:, None] * errors**2).sum() / weight.sum())
