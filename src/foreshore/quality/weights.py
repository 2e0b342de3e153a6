"""One fit: what is multiplied with a prompt's features to get log-odds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foreshore.quality.features import Features

__all__ = ["Weights"]

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """`words` and `dense` (columns, targets), `bias` (targets,). The dense columns are counts, shares, topics and, of a
    fit that an encoder tells, its vector. `scales`: how much each block of them was allowed to say."""

    words: Matrix
    dense: Matrix
    bias: Matrix
    scales: Mapping[str, float] = field(default_factory=dict)

    def score(self, read: Features, *more: Matrix) -> Matrix:
        """Log-odds (targets,); `more` are the dense columns after the counts and shares."""
        places, values = read.words
        dense = np.concatenate([read.counts, read.shares, *more])
        return np.asarray(values @ self.words.take(places, axis=0) + dense @ self.dense + self.bias)
