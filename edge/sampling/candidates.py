"""Tokens that may be drawn, in the layout that llama.cpp's samplers read."""

from __future__ import annotations

import threading
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from foreshore.errors import UpstreamError

__all__ = ["Candidates", "Ids", "Logits"]

Logits = NDArray[np.float32]
Ids = NDArray[np.intp]

_local = threading.local()
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


class Candidates:
    """A `llama_token_data_array` over memory of its own, which is used again and again."""

    def __init__(self, room: int = 256) -> None:
        self._reserve(room)

    @staticmethod
    def shared() -> Candidates:
        """Those that all in this thread use, each from `fill` until it has read what came of it."""
        found: Candidates | None = getattr(_local, "candidates", None)
        if found is None:
            found = _local.candidates = Candidates()
        return found

    def fill(self, ids: Ids, logits: Logits, *, ranked: bool = False) -> Any:
        """The native array of `ids` with their `logits`; `ranked` says that the best comes first."""
        count = len(ids)
        if count > len(self._tokens):
            self._reserve(max(count, 2 * len(self._tokens)))
        self._ids[:count] = ids
        self._logits[:count] = logits
        array = self._array
        array.data, array.size, array.selected, array.sorted = self._data, count, -1, ranked
        return array

    def logits(self, count: int) -> Logits:
        """What the samplers made of the first `count` logits, in the order of `fill` unless one of them sorted."""
        return self._logits[:count]

    def selected(self) -> int:
        """The id that the last sampler chose."""
        array = self._array
        if array.selected < 0:
            raise UpstreamError("the sampler chose no token: the model's logits are not numbers")
        return int(array.data[array.selected].id)

    def _reserve(self, room: int) -> None:
        self._tokens = np.zeros(room, _CANDIDATE)
        self._ids, self._logits = self._tokens["id"], self._tokens["logit"]
        self._data = self._tokens.ctypes.data_as(native.llama_token_data_p)
        self._array = native.llama_token_data_array()
