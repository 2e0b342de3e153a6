"""Ways to draw a token from a row of logits. Each gives the token that llama.cpp's whole chain would, by less work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from foreshore.edge.sampling.candidates import Candidates, Logits
from foreshore.edge.sampling.chain import Chain, Stage
from foreshore.edge.sampling.narrow import Narrowing
from foreshore.edge.sampling.scratch import scratch
from foreshore.edge.sampling.uniform import Uniform
from foreshore.errors import UpstreamError

__all__ = ["Draw", "Greedy", "Narrowed", "Tempered"]

_BLOCK = 128  # tokens whose weights are summed before one of them is looked for


class Draw(Protocol):
    def pick(self, row: Logits) -> int:
        """A token whose logit is not minus infinity. Raises `UpstreamError` where there is none, or no number."""

    def accept(self, token: int) -> None:
        """Remember `token` as part of the text."""

    def close(self) -> None:
        """Free what is native; nothing else may be called afterwards."""


class Greedy:
    """The best token; of equal ones the first."""

    def pick(self, row: Logits) -> int:
        token = int(row.argmax())
        if not math.isfinite(row[token]):
            raise _no_numbers()
        return token

    def accept(self, token: int) -> None: ...

    def close(self) -> None: ...


class Narrowed:
    """Runs the native samplers `stages` on what `narrowing` leaves; `ranked` says that it puts the best first."""

    def __init__(self, narrowing: Narrowing, stages: Sequence[Stage], *, ranked: bool = False) -> None:
        self._narrowing, self._ranked = narrowing, ranked
        self._chain = Chain(stages)

    def pick(self, row: Logits) -> int:
        ids = self._narrowing(row)
        logits = row if len(ids) == len(row) and not self._ranked else row[ids]
        if not len(ids) or not math.isfinite(logits[0] if self._ranked else logits.max()):
            raise _no_numbers()
        candidates = Candidates.shared()
        self._chain.apply(candidates.fill(ids, logits, ranked=self._ranked))
        return candidates.selected()

    def accept(self, token: int) -> None:
        self._chain.accept(token)

    def close(self) -> None:
        self._chain.close()


class Tempered:
    """Temperature alone: the token at a random place of the cumulated weights, found through sums of blocks."""

    def __init__(self, temperature: float, seed: int, size: int) -> None:
        self._temperature = np.float32(temperature)
        self._uniform = Uniform(seed)
        self._starts = np.arange(0, size, _BLOCK)

    def pick(self, row: Logits) -> int:
        weights = scratch("weights", len(row))
        if self._temperature != 1:
            row = np.divide(row, self._temperature, out=weights)
        peak = row.max()
        if not math.isfinite(peak):
            raise _no_numbers()
        np.exp(np.subtract(row, peak, out=weights), out=weights)
        sums = np.add.reduceat(weights, self._starts).cumsum(dtype=np.float64)
        target = max(float(sums[-1]) * self._uniform.draw(), math.ulp(0.0))  # a token of no weight is never drawn
        block = int(sums.searchsorted(target))
        first = block * _BLOCK
        inside = weights[first : first + _BLOCK].cumsum(dtype=np.float64)
        before = float(sums[block - 1]) if block else 0.0
        # Sums by block and sums token by token are rounded differently: at a block's very end they may miss each other.
        return first + int(inside.searchsorted(min(target - before, float(inside[-1]))))

    def accept(self, token: int) -> None: ...

    def close(self) -> None: ...


def _no_numbers() -> UpstreamError:
    return UpstreamError("no token can be drawn: the model's logits are not numbers")
