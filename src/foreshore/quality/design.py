"""The prompts that an estimator learns from, as rows of numbers: each block of columns centred and brought to size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from foreshore.quality.features import COUNTED, TOPIC_BITS, WORD_BITS, Features
from foreshore.quality.sparse import Sparse, spread
from foreshore.quality.topics import CLUSTERS, Topics

__all__ = ["EMBEDDING", "Design"]

WORDS = 1 << WORD_BITS
EMBEDDING = "embedding"  # the block of an encoder's vectors

Matrix = NDArray[np.float32]
Places = NDArray[np.intp]


class Design:
    """Rows (rows, columns): the words' columns first, then those of the dense blocks, topics, and last an encoder's
    `vectors` (rows, dimension) where there are any. A block's variances add up to 1, times `scales[block]`. `centre`
    and `size` (columns,) turn features into a row: (features - centre) * size. The words stay sparse: their centre is
    taken off where they are multiplied."""

    def __init__(self, read: Iterable[Features], blocks: Mapping[str, int], vectors: Matrix | None = None) -> None:
        texts = list(read)
        self.words = Sparse([text.words for text in texts], WORDS)
        self.topics = Topics.learnt([text.single for text in texts], 1 << TOPIC_BITS)
        seen = np.zeros((len(texts), 0), np.float32) if vectors is None else vectors
        self.blocks = {"words": WORDS, **blocks, "topics": CLUSTERS}
        self.blocks |= {EMBEDDING: seen.shape[1]} if vectors is not None else {}
        self.scales: Mapping[str, float] = dict.fromkeys(self.blocks, 1.0)
        self.counts = np.stack([text.counts for text in texts])
        shares = [np.concatenate([text.shares, self.topics(text.single)]) for text in texts]
        self._dense = np.hstack([self.counts, shares, seen])
        ones = np.full((len(texts), 1), 1 / len(texts), np.float32)
        means = [self.words.transposed_times(ones)[:, 0], self._dense.mean(axis=0, dtype=np.float64)]
        self.centre = np.concatenate(means, dtype=np.float32)
        self._dense -= self.centre[WORDS:]
        squares = self.words.squares() / len(texts) - self.centre[:WORDS].astype(np.float64) ** 2
        self._unit = self._units(np.concatenate([squares, np.square(self._dense, dtype=np.float64).mean(axis=0)]))
        self._dense *= self._unit[WORDS:]

    def __len__(self) -> int:
        return len(self._dense)

    @property
    def columns(self) -> int:
        return len(self.centre)

    @property
    def parts(self) -> dict[str, slice]:
        """Where each block's columns stand."""
        ends = np.cumsum(list(self.blocks.values())).tolist()
        return {name: slice(end - count, end) for (name, count), end in zip(self.blocks.items(), ends, strict=True)}

    @property
    def size(self) -> Matrix:
        return np.asarray(self._unit * self._scaling)

    def times(self, weights: Matrix) -> Matrix:
        """The rows times `weights` (columns, n): (rows, n)."""
        scaled = weights * self._scaling[:, None]
        words = scaled[:WORDS] * self._unit[:WORDS, None]
        return np.asarray(self.words @ words - self.centre[:WORDS] @ words + self._dense @ scaled[WORDS:])

    def transposed_times(self, values: Matrix) -> Matrix:
        """The rows, transposed, times `values` (rows, n): (columns, n)."""
        words = self.words.transposed_times(values) - np.outer(self.centre[:WORDS], values.sum(axis=0))
        words *= self._unit[:WORDS, None]
        return np.asarray(np.concatenate([words, self._dense.T @ values]) * self._scaling[:, None])

    def products(self, at: Places) -> dict[str, Matrix]:
        """By block, the products of the rows `at` with each other, at a scale of 1: (at, at)."""
        found = {"words": self._products_of_words(at)}
        for block, part in self.parts.items():
            if block != "words":
                rows = self._dense[at, part.start - WORDS : part.stop - WORDS]
                found[block] = rows @ rows.T
        return found

    def _products_of_words(self, at: Places) -> Matrix:
        """A few rows are spread out at a time. Centred as rows whose mean, over these, was taken off."""
        bags = [self.words.bag(row) for row in at]
        rows, squares = Sparse(bags, WORDS), self._unit[:WORDS] ** 2
        pieces = (spread(bags[start : start + 64], WORDS) * squares for start in range(0, len(bags), 64))
        found = np.hstack([rows @ np.ascontiguousarray(piece.T) for piece in pieces])
        means = found.mean(axis=0)
        return np.asarray(found - means - means[:, None] + means.mean())

    @property
    def _scaling(self) -> Matrix:
        scales = [np.full(count, self.scales[block] ** 0.5, np.float32) for block, count in self.blocks.items()]
        return np.concatenate(scales)

    def _units(self, variances: NDArray[np.float64]) -> Matrix:
        """What brings each block's variances to 1 in total. A column that never varies is left out."""
        found = np.zeros(len(variances), np.float32)
        for block, part in self.parts.items():
            here = np.maximum(variances[part], 0.0)
            varies = here > 1e-9
            if block in COUNTED:
                found[part] = np.where(varies, 1 / np.sqrt(np.maximum(here, 1e-9) * max(1, varies.sum())), 0.0)
            elif varies.any():
                found[part] = 1 / np.sqrt(here.sum())
        return found
