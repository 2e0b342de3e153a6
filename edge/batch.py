"""The tokens of one step, written through numpy views.

A ctypes loop over the fields costs about 2 microseconds a token, which a long prefill feels;
slices into preallocated arrays cost a few microseconds a step.
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
        self.size = 0
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._slot = np.zeros(capacity, np.int32)
        self._one = np.ones(capacity, np.int32)  # each token belongs to one sequence
        self._wanted = np.zeros(capacity, np.int8)
        self._rows = self._slot.ctypes.data + self._slot.itemsize * np.arange(capacity, dtype=np.uintp)
        self._raw = native.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._pos, ctypes.c_int32),
            n_seq_id=_pointer(self._one, ctypes.c_int32),
            seq_id=ctypes.cast(self._rows.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=_pointer(self._wanted, ctypes.c_int8),
        )

    @property
    def raw(self) -> Any:
        """The `llama_batch`, valid as long as this object."""
        self._raw.n_tokens = self.size
        return self._raw

    def clear(self) -> None:
        self.size = 0

    def add(self, tokens: Sequence[int], *, start: int, slot: int, wanted: bool, all_rows: bool = False) -> int:
        """Append `tokens` of the sequence in `slot`, the first at position `start`.

        Returns the row of the last one, whose logits exist after the decode if `wanted`.
        """
        begin, end = self.size, self.size + len(tokens)
        if end > self.capacity:
            raise ValueError(f"{end} tokens do not fit a batch of {self.capacity}")
        self._token[begin:end] = tokens
        self._pos[begin:end] = np.arange(start, start + len(tokens), dtype=np.int32)
        self._slot[begin:end] = slot
        self._wanted[begin:end] = all_rows
        if wanted:
            self._wanted[end - 1] = 1
        self.size = end
        return end - 1


def _pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))
