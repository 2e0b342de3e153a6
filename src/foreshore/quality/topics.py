"""What a prompt is about, learnt from prompts without any label.

Single words are projected onto the directions in which the prompts differ most (latent semantic analysis: Deerwester et
al., "Indexing by latent semantic analysis", 1990), by subspace iteration (Halko et al., "Finding structure with
randomness", 2011). On the unit sphere there the prompts are put into clusters (spherical k-means: Dhillon and Modha,
"Concept decompositions for large sparse text data using clustering", 2001). A prompt belongs to each in part: the
nearer, the more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshore.quality.sparse import Bag, Sparse

__all__ = ["CLUSTERS", "DIRECTIONS", "Topics"]

DIRECTIONS = 64
CLUSTERS = 64
SOFTNESS = 0.1  # difference of two cosines at which one cluster's part is e times the other's
ROUNDS = 4  # of subspace iteration
SPARE = 16  # directions that are computed beside those that are kept
MOVES = 15  # of the clusters' middles

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """`directions` (words, DIRECTIONS), `centre` (DIRECTIONS,), `middles` (DIRECTIONS, CLUSTERS)."""

    directions: Matrix
    centre: Matrix
    middles: Matrix

    @classmethod
    def learnt(cls, bags: Sequence[Bag], columns: int) -> Topics:
        rows = Sparse(bags, columns)
        rng = np.random.default_rng(0)
        directions = _directions(rows, rng)
        places = rows @ directions
        centre = places.mean(axis=0)
        return cls(directions=directions, centre=centre, middles=_middles(_unit(places - centre), rng))

    def __call__(self, bag: Bag) -> Matrix:
        """(CLUSTERS,), parts of 1."""
        words, values = bag
        place = values @ self.directions.take(words, axis=0) - self.centre
        place /= max(float(np.sqrt(place @ place)), 1e-6)
        near = place @ self.middles
        parts = np.exp((near - near.max()) / SOFTNESS)
        return np.asarray(parts / parts.sum())


def _directions(rows: Sparse, rng: np.random.Generator) -> Matrix:
    """Orthonormal, (columns, DIRECTIONS). What fewer prompts than directions do not span stays 0."""
    count, columns = rows.shape
    mean = rows.transposed_times(np.full((count, 1), 1 / count, np.float32))[:, 0]
    found = rng.standard_normal((columns, min(DIRECTIONS + SPARE, count)), np.float32)
    for _ in range(ROUNDS):
        across, _ = np.linalg.qr(rows @ found - mean @ found)
        found = rows.transposed_times(across) - np.outer(mean, across.sum(axis=0))
    found, lengths, _ = np.linalg.svd(found, full_matrices=False)
    strong = min(DIRECTIONS, int(np.count_nonzero(lengths > 1e-4 * max(float(lengths[0]), 1e-9))))
    kept = np.zeros((columns, DIRECTIONS), np.float32)
    kept[:, :strong] = found[:, :strong]
    return kept


def _middles(places: Matrix, rng: np.random.Generator) -> Matrix:
    """(DIRECTIONS, CLUSTERS), of length 1. A cluster that lost all its prompts keeps its middle."""
    found = places[rng.choice(len(places), CLUSTERS, replace=len(places) < CLUSTERS)]
    for _ in range(MOVES):
        nearest = (places @ found.T).argmax(axis=1)
        sums = np.zeros_like(found)
        np.add.at(sums, nearest, places)
        filled = np.bincount(nearest, minlength=CLUSTERS) > 0
        found[filled] = _unit(sums[filled])
    return np.ascontiguousarray(found.T)


def _unit(rows: Matrix) -> Matrix:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))
