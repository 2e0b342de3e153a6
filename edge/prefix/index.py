"""Finds, for a new prompt, who has the longest beginning of it: in the cache, in memory, or on disk."""

from __future__ import annotations

from collections.abc import Hashable
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Match", "PrefixIndex"]

Array = NDArray[np.int32]


class Holder(Protocol):
    """Who has tokens: a sequence in the cache, or a file. Told apart by identity."""

    @property
    def cells(self) -> int:
        """How many it has by now."""

    def __hash__(self) -> int: ...


H = TypeVar("H", bound=Holder)


@dataclass(frozen=True, slots=True)
class Match(Generic[H]):
    """`ready` tokens can be shared from `source` now. `leader` is computing more of them, up to `coming`."""

    ready: int = 0
    source: H | None = None
    coming: int = 0
    leader: H | None = None


@dataclass(slots=True, eq=False)
class _Node(Generic[H]):
    tokens: Array
    children: dict[int, _Node[H]] = field(default_factory=dict)
    holders: set[H] = field(default_factory=set)  # whose path goes through the whole of this node


class PrefixIndex(Generic[H]):
    """A radix tree for each key: a tenant's prompts are never matched with another's, so that timing tells nothing.

    A holder's path may run ahead of its `cells`: it is what the holder will have computed.
    """

    def __init__(self) -> None:
        self._roots: dict[Hashable, _Node[H]] = {}
        self._paths: dict[H, tuple[Hashable, Array]] = {}

    def add(self, key: Hashable, tokens: Tokens[int] | Array, holder: H) -> None:
        """`holder` has, or will have, `tokens` in the cache; a former path of its own is replaced."""
        self.remove(holder)
        path = np.asarray(tokens, np.int32)
        if not len(path):
            return
        self._paths[holder] = (key, path)
        node = self._roots.setdefault(key, _Node(path[:0]))
        while len(path):
            child = node.children.get(int(path[0]))
            if child is None:
                child = node.children[int(path[0])] = _Node(path.copy())
            common = _common(child.tokens, path)
            if common < len(child.tokens):
                child = _split(node, child, common)
            child.holders.add(holder)
            node, path = child, path[common:]

    def remove(self, holder: H) -> None:
        """Harmless if it is not there."""
        key, path = self._paths.pop(holder, (None, None))
        if path is None:
            return
        node, trail = self._roots[key], []
        while len(path):
            child = node.children[int(path[0])]
            child.holders.discard(holder)
            trail.append((node, child))
            node, path = child, path[len(child.tokens) :]
        for parent, child in reversed(trail):
            if not child.holders:
                del parent.children[int(child.tokens[0])]
        if not self._roots[key].children:
            del self._roots[key]

    def same_beginning(self, holder: H) -> list[H]:
        """The others whose whole path is a beginning of `holder`'s, or equal to it."""
        key, path = self._paths[holder]
        node, depth, found = self._roots[key], 0, []
        while depth < len(path):
            node = node.children[int(path[depth])]
            depth += len(node.tokens)
            found += [h for h in node.holders if h is not holder and len(self._paths[h][1]) == depth]
        return found

    def branches(self, holder: H) -> list[int]:
        """Lengths at which others leave `holder`'s path or end on it, and its own length, ascending."""
        if holder not in self._paths:
            return []
        key, path = self._paths[holder]
        node, depth, found = self._roots[key], 0, []
        while depth < len(path):
            node = node.children[int(path[depth])]
            depth += len(node.tokens)
            found.append(depth)
        return found

    def find(self, key: Hashable, tokens: Tokens[int] | Array) -> Match[H]:
        """The best match for the beginning of `tokens`; of equals the source with the fewest cells."""
        path = np.asarray(tokens, np.int32)
        node, depth = self._roots.get(key), 0
        ready, coming = 0, 0
        source: H | None = None
        leader: H | None = None
        while node is not None and depth < len(path):
            node = node.children.get(int(path[depth]))
            if node is None:
                break
            common = _common(node.tokens, path[depth:])
            depth += common
            for holder in node.holders:
                here = min(holder.cells, depth)
                if here > ready or (source is not None and here == ready and holder.cells < source.cells):
                    ready, source = here, holder
                if holder.cells < depth and (depth, holder.cells) > (coming, leader.cells if leader else -1):
                    coming, leader = depth, holder
            if common < len(node.tokens):
                break
        return Match(ready, source, coming, leader) if coming > ready else Match(ready, source)


def _common(a: Array, b: Array) -> int:
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


def _split(parent: _Node[H], child: _Node[H], at: int) -> _Node[H]:
    """Put a node of the first `at` tokens between the two."""
    upper = _Node(child.tokens[:at], {int(child.tokens[at]): child}, set(child.holders))
    parent.children[int(child.tokens[0])] = upper
    child.tokens = child.tokens[at:]
    return upper
