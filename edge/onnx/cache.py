"""Keys and values of all sequences of an ONNX decoder.

An exported graph takes them whole, (rows, heads, tokens, width) a layer, and gives them back one step longer. What it
gave back is its next input as it is, so a batch whose members stay costs no copy here; one that changes is put together
once. Rows of one batch end at the same place: the shorter are padded in front, which the attention mask hides.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.onnx.session import Tensor

__all__ = ["Block", "KvCache", "KvShape"]

Key = Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class KvShape:
    """`names` are the graph's inputs, a key and a value for each layer."""

    names: tuple[str, ...]
    heads: int
    widths: tuple[int, ...]  # of one head, by name
    dtype: type[np.generic]

    @property
    def token_bytes(self) -> int:
        return self.heads * sum(self.widths) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Block:
    """Tensors of some sequences, in the order of `keys`; of row i the last `lengths[i]` tokens count."""

    keys: tuple[Key, ...]
    lengths: tuple[int, ...]
    tensors: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        """The length of its rows, padding included."""
        return max(self.lengths)


class KvCache:
    """Each sequence, by its key, is a row of one block. One thread at a time."""

    def __init__(self, shape: KvShape) -> None:
        self.shape = shape
        self._blocks: dict[Key, Block] = {}

    def length(self, key: Key) -> int:
        """Tokens that it holds for `key`."""
        block = self._blocks.get(key)
        return 0 if block is None else block.lengths[block.keys.index(key)]

    def block(self, keys: Sequence[Key]) -> Block:
        """What the graph reads to go on with `keys`, a row for each."""
        wanted = tuple(keys)
        found = self._blocks.get(wanted[0])
        if found is None or found.keys != wanted:
            found = self._gather(wanted)
            self.store(found)
        return found

    def store(self, block: Block) -> None:
        """`block` has all that its sequences hold from now on."""
        for key in block.keys:
            self._leave(key, staying=block.keys)
            self._blocks[key] = block

    def cut(self, key: Key, tokens: int) -> None:
        """Keep only the first `tokens` of what `key` holds."""
        if tokens <= 0:
            self._leave(key)
        elif tokens < self.length(key):
            self.store(self._own(key, [a[:, :, :tokens] for a in self._arrays(key)], tokens))

    def copy(self, source: Key, target: Key, tokens: int) -> None:
        """Let `target` begin with the first `tokens` of `source`."""
        self.store(self._own(target, [a[:, :, :tokens] for a in self._arrays(source)], tokens))

    def dump(self, key: Key) -> bytes:
        return b"".join(a.tobytes() for a in self._arrays(key))

    def load(self, key: Key, state: bytes) -> None:
        """The inverse of `dump`."""
        shape = self.shape
        tokens, at = len(state) // shape.token_bytes, 0
        arrays = []
        for width in shape.widths:
            count = shape.heads * tokens * width
            flat = np.frombuffer(state, shape.dtype, count, at)
            arrays.append(flat.reshape(1, shape.heads, tokens, width))
            at += flat.nbytes
        self.store(self._own(key, arrays, tokens))

    def _arrays(self, key: Key) -> list[NDArray[np.generic]]:
        """Views of what `key` holds, without padding: (1, heads, tokens, width)."""
        block = self._blocks[key]
        row = block.keys.index(key)
        begin = block.tokens - block.lengths[row]
        return [t.array[row : row + 1, :, begin:] for t in block.tensors]

    def _own(self, key: Key, arrays: Sequence[NDArray[np.generic]], tokens: int) -> Block:
        """A block with copies of `arrays`, for their memory may belong to another one."""
        return Block((key,), (tokens,), tuple(Tensor.of(a.copy()) for a in arrays))

    def _gather(self, keys: tuple[Key, ...]) -> Block:
        shape = self.shape
        lengths = tuple(self.length(key) for key in keys)
        longest = max(lengths)
        joined = [np.zeros((len(keys), shape.heads, longest, width), shape.dtype) for width in shape.widths]
        for row, (key, length) in enumerate(zip(keys, lengths, strict=True)):
            if length:
                for target, source in zip(joined, self._arrays(key), strict=True):
                    target[row, :, longest - length :] = source[0]
        return Block(keys, lengths, tuple(Tensor.of(a) for a in joined))

    def _leave(self, key: Key, staying: Sequence[Key] = ()) -> None:
        """Take `key` out of its block. Who remains there gets memory of its own, or the whole block would stay."""
        block = self._blocks.pop(key, None)
        if block is None or len(block.keys) == 1:
            return
        for other in block.keys:
            if other not in staying and self._blocks.get(other) is block:
                row = block.keys.index(other)
                self._blocks[other] = self._own(other, self._arrays(other), block.lengths[row])
