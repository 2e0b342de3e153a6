"""How far the counts went of the prompts that were learnt from: what lies beyond is told apart, not extrapolated to.

Words, letters and topics say nothing of another kind of prompt, however much they say of their own; counts, cut off at
what is usual, say a little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Reach"]

SPREADS = 2.0  # standard deviations from the mean at which a count is cut off
STRANGE = 3  # counts beyond the margin: one may be chance, or a comma where there had been none
MARGIN = 0.1  # of the range: so far beyond what was seen nothing is strange yet
LEAST = 0.5  # of a count, whatever its range: among prompts all alike a digit more makes none strange

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Each (counts,): what is usual, and beyond what a prompt is strange."""

    centre: Matrix
    spread: Matrix  # standard deviations; huge for what never varied, so that it becomes 0
    least: Matrix
    most: Matrix

    @classmethod
    def learnt(cls, counts: Matrix) -> Reach:
        """From (prompts, counts)."""
        spread = counts.std(axis=0)
        least, most = counts.min(axis=0), counts.max(axis=0)
        margin = np.maximum(MARGIN * (most - least), np.float32(LEAST))
        usual = np.where(spread > 1e-4, spread, np.float32(1e30)).astype(np.float32)
        return cls(centre=counts.mean(axis=0), spread=usual, least=least - margin, most=most + margin)

    def cut(self, counts: Matrix) -> Matrix:
        """In standard deviations, of one prompt (counts,) or of many (prompts, counts)."""
        return np.asarray(np.clip((counts - self.centre) / self.spread, -SPREADS, SPREADS))

    def strange(self, counts: Matrix) -> bool:
        """Whether a prompt has several counts of which none like it was learnt from."""
        return bool(np.count_nonzero((counts < self.least) | (counts > self.most)) >= STRANGE)
