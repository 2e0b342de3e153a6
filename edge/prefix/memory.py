"""Beginnings of prompts that were moved out of the KV cache into plain memory.

The engine's attention looks at every token in the cache, also at those of sequences that have ended: a kept token costs
each step more than bringing it back costs once. benchmarks/LOG.md has the measurement.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator

from foreshore.edge.prefix.index import PrefixIndex
from foreshore.edge.sequence import Sequence

__all__ = ["PrefixMemory"]


class PrefixMemory:
    """States of at most `max_bytes`; the least lately used ones make room."""

    def __init__(self, max_bytes: int) -> None:
        self.index = PrefixIndex[Sequence]()
        self._max_bytes = max_bytes
        self._states: OrderedDict[Sequence, bytes] = OrderedDict()
        self._bytes = 0

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._states)

    def __contains__(self, entry: Sequence) -> bool:
        return entry in self._states

    def takes(self, size: int) -> bool:
        """Whether a state of `size` bytes could be kept at all."""
        return 0 < size <= self._max_bytes

    def put(self, key: Hashable, entry: Sequence, state: bytes) -> None:
        """Keep the `state` after all tokens of `entry`; what it begins with need not be kept apart."""
        if not self.takes(len(state)):
            return
        self.index.add(key, entry.tokens, entry)
        for covered in self.index.same_beginning(entry):
            self._drop(covered)
        self._states[entry] = state
        self._bytes += len(state)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._states)))

    def find(self, key: Hashable, tokens: list[int]) -> tuple[int, Sequence | None]:
        """How many of the first `tokens` the best entry has, and the entry; (0, None) where there is none."""
        match = self.index.find(key, tokens)
        return match.ready, match.source

    def state(self, entry: Sequence) -> bytes:
        """The state after all of the entry's tokens; it counts as used now."""
        self._states.move_to_end(entry)
        return self._states[entry]

    def _drop(self, entry: Sequence) -> None:
        self.index.remove(entry)
        self._bytes -= len(self._states.pop(entry))
