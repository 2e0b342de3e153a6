"""What changes the logits of a few known tokens: biases, and penalties for tokens that were there before."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from foreshore.edge.sampling.candidates import Candidates, Ids, Logits
from foreshore.edge.sampling.chain import Chain, Stage
from foreshore.edge.sampling.scratch import scratch

__all__ = ["Touch"]


class Touch:
    """Logit bias, then the native samplers `stages`, which touch no token but the last `window`.

    They look at each token alone, so that giving them only those is exact. Biases are added here in float32, as there.
    """

    def __init__(self, bias: Mapping[int, float], stages: Sequence[Stage], window: int) -> None:
        self._biased = np.fromiter(bias.keys(), np.intp, len(bias))
        self._bias = np.fromiter(bias.values(), np.float32, len(bias))
        self._chain = Chain(stages)
        self._recent: deque[int] = deque(maxlen=window)

    def apply(self, row: Logits) -> Logits:
        """The changed logits, in memory of our own that holds until the next call; `row` stays as it is."""
        touched = scratch("touched", len(row))
        np.copyto(touched, row)
        if len(self._biased):
            touched[self._biased] += self._bias
        if self._recent:
            ids: Ids = np.fromiter(set(self._recent), np.intp)
            candidates = Candidates.shared()
            self._chain.apply(candidates.fill(ids, touched[ids]))
            touched[ids] = candidates.logits(len(ids))
        return touched

    def accept(self, token: int) -> None:
        if self._recent.maxlen:
            self._recent.append(token)
            self._chain.accept(token)

    def prime(self, tokens: Iterable[int]) -> None:
        for token in tokens:
            self.accept(token)

    def close(self) -> None:
        self._chain.close()
