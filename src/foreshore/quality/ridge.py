"""Ridge regression on many columns: all targets that share their rows at once, and each row's score without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshore.quality.design import Design

__all__ = ["Fitted", "choose_scales", "fit"]

SAMPLE = 2000  # rows that scales are chosen on: a scale is a signal-to-noise ratio, which does not grow with the rows
GRID = tuple(10 ** (k / 2) for k in range(-6, 3))  # 0.001 to 10
START = 4  # 0.1

Numbers = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """`weights` (columns, targets) and `bias` (targets,) on rows of the design; `held` (rows, targets) are the scores
    of each row by a fit that did not see its fold."""

    weights: Numbers
    bias: Numbers
    held: Numbers


def fit(design: Design, at: Places, right: Numbers, weight: Numbers, folds: Places) -> Fitted:
    """Minimises sum(weight * (right - bias - row @ weights)**2) + sum(weights**2), the bias free.

    `at` (rows,) are rows of the design, `right` (rows, targets), `weight` and `folds` (rows,).
    """
    solve = _Dual if len(at) < design.columns else _Primal
    problem = solve(design, at, right, weight)
    held = np.zeros(right.shape)
    for fold in np.unique(folds):
        held[folds == fold] = problem.without(folds == fold)
    weights, bias = problem.whole()
    return Fitted(weights=weights, bias=bias, held=held)


class _Dual:
    """By products of rows: as many equations as rows."""

    def __init__(self, design: Design, at: Places, right: Numbers, weight: Numbers) -> None:
        self._rows = design.rows(at)
        self._products = (self._rows @ self._rows.T).astype(np.float64)
        self._right, self._weight = right, weight

    def without(self, out: NDArray[np.bool_]) -> Numbers:
        kept = ~out
        inner, bias = self._solve(kept)
        return self._products[np.ix_(out, kept)] @ inner + bias

    def whole(self) -> tuple[Numbers, Numbers]:
        inner, bias = self._solve(np.ones(len(self._right), bool))
        return self._rows.T.astype(np.float64) @ inner, bias

    def _solve(self, kept: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
        weight = self._weight[kept]
        system = self._products[np.ix_(kept, kept)] + np.diag(1 / weight)
        found = np.linalg.solve(system, np.column_stack([self._right[kept], np.ones(len(weight))]))
        inner, ones = found[:, :-1], found[:, -1]
        bias = inner.sum(axis=0) / ones.sum()
        return np.asarray(inner - np.outer(ones, bias)), np.asarray(bias)


class _Primal:
    """By products of columns: as many equations as columns."""

    def __init__(self, design: Design, at: Places, right: Numbers, weight: Numbers) -> None:
        self._design, self._at, self._right, self._weight = design, at, right, weight
        self._system, self._known = self._sums(np.ones(len(at), bool))
        self._system[np.diag_indices(design.columns)] += 1

    def without(self, out: NDArray[np.bool_]) -> Numbers:
        system, known = self._sums(out)
        np.subtract(self._system, system, out=system)
        weights, bias = self._solve(system, self._known - known, ~out)
        parts = [rows @ weights for _, rows in self._design.pieces(self._at[out])]
        return np.concatenate(parts) + bias

    def whole(self) -> tuple[Numbers, Numbers]:
        return self._solve(self._system, self._known, np.ones(len(self._at), bool))

    def _sums(self, kept: NDArray[np.bool_]) -> tuple[NDArray[np.float32], Numbers]:
        """Weighted sums: of row by row (columns, columns), of row by right and of rows (columns, targets + 1)."""
        system = np.zeros((self._design.columns, self._design.columns), np.float32)
        known = np.zeros((self._design.columns, self._right.shape[1] + 1))
        right, weight, done = self._right[kept], self._weight[kept], 0
        for part, rows in self._design.pieces(self._at[kept]):
            here = slice(done, done := done + len(part))
            heavy = rows * weight[here, None].astype(np.float32)
            system += rows.T @ heavy
            known[:, :-1] += heavy.T @ right[here]
            known[:, -1] += heavy.sum(axis=0)
        return system, known

    def _solve(self, system: NDArray[np.float32], known: Numbers, kept: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
        """The bias is eliminated: it is that of rows whose weighted mean is 0."""
        found = np.linalg.solve(system, known.astype(np.float32)).astype(np.float64)
        inner, mean = found[:, :-1], found[:, -1]
        weight, total = self._weight[kept], float(self._weight[kept].sum())
        top = weight @ self._right[kept] - known[:, -1] @ inner
        bias = top / (total - known[:, -1] @ mean)
        return inner - np.outer(mean, bias), bias


def choose_scales(design: Design, at: Places, right: Numbers, weight: Numbers) -> Mapping[str, float]:
    """The variance of each block's weights, over the noise's, that predicts left-out rows best: one block after the
    other, steps up and down `GRID`. Of left-out rows a ridge regression's errors have a closed form (Allen, "The
    relationship between variable selection and data augmentation and a method for prediction", 1974)."""
    if len(at) > SAMPLE:
        drawn = np.sort(np.random.default_rng(0).choice(len(at), SAMPLE, replace=False))
        at, right, weight = at[drawn], right[drawn], weight[drawn]
    products = _products_by_block(design, at)
    known: dict[tuple[int, ...], float] = {}

    def loss(place: tuple[int, ...]) -> float:
        if place not in known:
            total = np.sum([GRID[p] * k for p, k in zip(place, products, strict=True)], axis=0)
            known[place] = _left_out(total, right, weight)
        return known[place]

    best = (START,) * len(products)
    while True:
        before = best
        for block in range(len(products)):
            near = [p for p in (best[block] - 1, best[block] + 1) if 0 <= p < len(GRID)]
            best = min([best, *((*best[:block], p, *best[block + 1 :]) for p in near)], key=loss)
        if best == before:
            return dict(zip(design.blocks, (GRID[p] for p in best), strict=True))


def _products_by_block(design: Design, at: Places) -> list[NDArray[np.float64]]:
    rows = design.rows(at)
    return [(rows[:, part] @ rows[:, part].T).astype(np.float64) for part in design.parts().values()]


def _left_out(products: Numbers, right: Numbers, weight: Numbers) -> float:
    """Mean squared error of each row by a fit without it."""
    system = np.linalg.inv(products + np.diag(1 / weight))
    ones = system.sum(axis=1)
    system -= np.outer(ones, ones) / ones.sum()  # the bias is free
    errors = (system @ right) / np.diag(system)[:, None]
    return float((weight[:, None] * errors**2).sum() / weight.sum())
