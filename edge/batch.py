"""The tokens of one step, written through numpy views.

A ctypes loop over the fields costs about 2 microseconds a token, which a long prefill feels; lists written at once into
preallocated arrays cost a few microseconds a step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np

__all__ = ["Batch"]


class Batch:
    """At most `capacity` tokens of any number of sequences. `clear`, `add` per sequence, then `Engine.decode`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.clear()
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._slot = np.zeros(capacity, np.int32)
        self._one = np.ones(capacity, np.int32)  # each token belongs to one sequence
        self._logits = np.zeros(capacity, np.int8)
        self._rows = self._slot.ctypes.data + self._slot.itemsize * np.arange(capacity, dtype=np.uintp)
        self._raw = native.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._pos, ctypes.c_int32),
            n_seq_id=_pointer(self._one, ctypes.c_int32),
            seq_id=ctypes.cast(self._rows.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    @property
    def size(self) -> int:
        return len(self._tokens)

    @property
    def raw(self) -> Any:
        """The `llama_batch`, valid until the next `clear`."""
        size = self._raw.n_tokens = len(self._tokens)
        self._token[:size] = self._tokens
        self._pos[:size] = self._positions
        self._slot[:size] = self._slots
        self._logits[:size] = 0
        self._logits[list(self.places)] = 1
        return self._raw

    def clear(self) -> None:
        self._tokens: list[int] = []
        self._positions: list[int] = []
        self._slots: list[int] = []
        self.places: dict[int, int] = {}  # row with logits -> its place among them

    def add(self, tokens: Sequence[int], *, start: int, slot: int, wanted: int) -> int:
        """Append `tokens` of the sequence in `slot`, the first at position `start`.

        The last `wanted` of them have logits after the decode. Returns the row of the last one.
        """
        count = len(tokens)
        end = len(self._tokens) + count
        if end > self.capacity:
            raise ValueError(f"{end} tokens do not fit a batch of {self.capacity}")
        self._tokens += tokens
        self._positions += range(start, start + count)
        self._slots += [slot] * count
        for row in range(end - wanted, end):
            self.places[row] = len(self.places)
        return end - 1


def _pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
