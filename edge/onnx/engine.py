"""A decoder in ONNX Runtime, with the surface of `Engine`, so that the same stepper and scheduler drive it.

One `decode` is several runs of the graph: each prompt's part alone, then the sequences that add one token together,
those of like length in one batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.onnx.cache import Block, KvCache, KvShape
from foreshore.edge.onnx.file import PAST
from foreshore.edge.onnx.folder import OnnxFolder
from foreshore.edge.onnx.info import describe, piece_tokens
from foreshore.edge.onnx.session import Session, Tensor, numpy_type
from foreshore.edge.onnx.vocab import OnnxVocab
from foreshore.edge.options import MAX_SLOTS, EngineOptions
from foreshore.errors import ForeshoreError, ModelError

__all__ = ["OnnxBatch", "OnnxEngine"]

PADDING = 128  # tokens that the shorter rows of a batch may be padded by, or else by their own length
_TEXT_INPUTS = ("input_ids", "attention_mask", "position_ids")


@dataclass(frozen=True, slots=True)
class _Part:
    """`tokens` of the sequence in `slot` from position `start`; the last is the batch's `row`, `wanted` have logits."""

    slot: int
    start: int
    tokens: Sequence[int]
    wanted: int
    row: int


class OnnxBatch:
    """At most `capacity` tokens of any number of sequences. `clear`, `add` per sequence, then `OnnxEngine.decode`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.clear()

    def clear(self) -> None:
        self.size = 0
        self.parts: list[_Part] = []

    def add(self, tokens: Sequence[int], *, start: int, slot: int, wanted: int) -> int:
        """As `Batch.add`."""
        if self.size + len(tokens) > self.capacity:
            raise ValueError(f"{self.size + len(tokens)} tokens do not fit a batch of {self.capacity}")
        self.size += len(tokens)
        self.parts.append(_Part(slot, start, tuple(tokens), wanted, self.size - 1))
        return self.size - 1


class OnnxEngine:
    """Owns the session and the cache. One thread at a time, except `abort` and `vocab`."""

    rewinds = True  # a sequence can be cut and shared

    def __init__(self, folder: OnnxFolder, session: Session, options: EngineOptions) -> None:
        """Raises `ModelError` for a graph that is no decoder with a cache as optimum exports it."""
        self.options = options
        self._session = session
        shape = _kv_shape(session)
        self._cache = KvCache(shape)
        self._texts = [name for name in _TEXT_INPUTS if name in session.inputs]
        self._presents = [_present(name, session) for name in shape.names]
        self._batches = len(self._texts) == len(_TEXT_INPUTS)  # without them, a padded row reads wrong positions
        self._logits: dict[int, NDArray[np.float32]] = {}
        self._held: list[Tensor] = []  # whose memory the rows of logits are
        self.batch = OnnxBatch(options.batch_tokens)
        self.vocab = OnnxVocab(folder, self._vocab_size(folder))
        self._chunk = piece_tokens(self.vocab.size)
        self.info = describe(folder, session, options, vocab_size=self.vocab.size, token_bytes=shape.token_bytes)

    @property
    def scratch(self) -> int:
        """As `Engine.scratch`. What is added there fills up llama.cpp's batches; here it is left out."""
        return min(MAX_SLOTS, max(4, 2 * self.options.slots)) - 1

    @property
    def threads(self) -> int:
        return self._session.threads

    def decode(self, batch: OnnxBatch, *, apart: bool = False) -> None:
        """Compute `batch`, `apart` among the deterministic requests: alone and with no padding, so always alike.

        Raises `Aborted` (some of its tokens may be in the cache), `NoSlot` for want of memory, or `SetupError`.
        """
        self._logits.clear()
        self._held.clear()
        parts = [p for p in batch.parts if apart or p.slot != self.scratch]
        for part in parts:
            self._cache.cut((apart, part.slot), part.start)
        together = [p for p in parts if len(p.tokens) == 1 and self._batches and not apart]
        for part in parts:
            if part not in together:
                self._read(part, apart)
        for group in self._groups(together):
            self._add_one(group)

    def logits(self, row: int, *, apart: bool = False) -> NDArray[np.float32]:
        """Logits of the batch's `row`, shape (vocab_size,), valid until the next `decode`."""
        return self._logits[row]

    def begin_apart(self) -> None:
        self._cache.cut((True, 0), 0)

    def use_adapter(self, name: str | None, *, apart: bool = False) -> None:
        """There are none: the loader refuses them."""

    def forget(self, slot: int, start: int = 0, *, apart: bool = False) -> None:
        """Drop what the sequence in `slot` holds from position `start` on."""
        self._cache.cut((apart, slot), start)

    def clear(self) -> None:
        """As `Engine.clear`; here each sequence has memory of its own, so there is no order to mend."""

    def share(self, source: int, target: int, tokens: int) -> None:
        """Let `target` begin with the first `tokens` of `source`: a copy, for a graph wants each row whole."""
        self._cache.copy((False, source), (False, target), tokens)

    def held(self, slot: int) -> int:
        return self._cache.length((False, slot))

    def state_bytes(self, slot: int) -> int:
        return self.held(slot) * self._cache.shape.token_bytes

    def save(self, slot: int) -> bytes:
        return self._cache.dump((False, slot))

    def restore(self, slot: int, state: bytes) -> None:
        self._cache.load((False, slot), state)

    def abort(self, stop: bool = True) -> None:
        self._session.abort(stop)

    def set_threads(self, threads: int) -> None:
        self._session.set_threads(threads)

    def metadata(self, key: str) -> str | None:
        """An ONNX file has no header like GGUF's."""

    def warm_up(self) -> None:
        """Compute a token, and one after it, so that a graph that does not fit its folder fails before any request."""
        token = self.vocab.first_token()
        try:
            for start in range(2):
                self.batch.clear()
                row = self.batch.add([token], start=start, slot=0, wanted=1)
                self.decode(self.batch)
                if self.logits(row).shape != (self.vocab.size,):
                    raise ModelError(f"the graph gives logits of shape {self.logits(row).shape}")
            self.forget(0)
        except ForeshoreError as error:
            raise ModelError(f"{self.info.name!r} cannot be computed: {error.message}", hint=error.hint) from error

    def close(self) -> None:
        self._logits.clear()
        self._held.clear()

    def _vocab_size(self, folder: OnnxFolder) -> int:
        size = self._session.outputs["logits"].shape[-1]
        if not isinstance(size, int):
            size = folder.config.get("vocab_size")
        if not isinstance(size, int) or size < 1:
            raise ModelError("neither the graph nor config.json says how large the vocabulary is")
        return size

    def _read(self, part: _Part, apart: bool) -> None:
        """A prompt's part, in pieces whose logits fit."""
        key, end = (apart, part.slot), len(part.tokens)
        for begin in range(0, end, self._chunk):
            piece = part.tokens[begin : begin + self._chunk]
            rows = self._run([key], np.array([piece], np.int64))
            for back in range(1, part.wanted + 1):  # the last token is back 1
                at = end - back - begin
                if 0 <= at < len(piece):  # a copy, or the whole piece's would stay for one row
                    self._logits[part.row + 1 - back] = rows.array[0, at].astype(np.float32)

    def _add_one(self, parts: Sequence[_Part]) -> None:
        rows = self._run([(False, p.slot) for p in parts], np.array([p.tokens for p in parts], np.int64))
        self._held.append(rows)
        for part, row in zip(parts, rows.array.astype(np.float32, copy=False), strict=True):
            self._logits[part.row] = row[0]

    def _run(self, keys: Sequence[Hashable], tokens: NDArray[np.int64]) -> Tensor:
        """Logits for `tokens` (sequences, tokens), which follow what the cache holds of `keys`."""
        block = self._cache.block(keys)
        count = tokens.shape[1]
        lengths = np.array(block.lengths)[:, None]
        columns = np.arange(block.tokens + count)[None]
        values = {
            "input_ids": tokens,
            "attention_mask": (columns >= block.tokens - lengths).astype(np.int64),
            "position_ids": lengths + np.arange(count)[None],
        }
        inputs = {name: Tensor.of(values[name]) for name in self._texts}
        inputs.update(zip(self._cache.shape.names, block.tensors, strict=True))
        logits, *presents = self._session.run(inputs, ["logits", *self._presents])
        self._cache.store(Block(block.keys, tuple(n + count for n in block.lengths), tuple(presents)))
        return logits

    def _groups(self, parts: Sequence[_Part]) -> Iterator[list[_Part]]:
        """Batches whose rows are of like length; the order is by length, so that members stay together."""
        group: list[_Part] = []
        for part in sorted(parts, key=lambda p: (p.start, p.slot)):
            if group and part.start > max(2 * group[0].start, group[0].start + PADDING):
                yield group
                group = []
            group.append(part)
        if group:
            yield group


def _kv_shape(session: Session) -> KvShape:
    found = {name: value for name, value in session.inputs.items() if PAST.fullmatch(name)}
    unknown = sorted(set(session.inputs) - set(found) - set(_TEXT_INPUTS))
    if unknown or not found or "input_ids" not in session.inputs or "logits" not in session.outputs:
        raise ModelError(
            f"the graph reads {[*session.inputs][:8]} and gives {[*session.outputs][:3]}: no decoder with a cache",
            hint="export it with --task text-generation-with-past",
        )
    for name, value in found.items():
        if len(value.shape) != 4 or not all(isinstance(value.shape[i], int) for i in (1, 3)):
            raise ModelError(f"the graph's {name!r} has the shape {value.shape}, not (rows, heads, tokens, width)")
    heads, kinds = {v.shape[1] for v in found.values()}, {v.type for v in found.values()}
    if len(heads) > 1 or len(kinds) > 1:
        raise ModelError(f"the graph's layers differ: {sorted(heads)} heads, {sorted(kinds)}", hint="not supported")
    widths = tuple(int(v.shape[3]) for v in found.values())
    return KvShape(names=tuple(found), heads=heads.pop(), widths=widths, dtype=numpy_type(kinds.pop()))


def _present(past: str, session: Session) -> str:
    present = past.replace("past_key_values", "present", 1)
    if present not in session.outputs:
        raise ModelError(f"the graph reads {past!r}, but does not give {present!r}", hint="export it again")
    return present
