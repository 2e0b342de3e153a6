"""Carries beginnings of prompts between the KV cache, plain memory, and files that outlive the worker."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import llama_cpp

from foreshore.edge.engine import Engine, NoSlot
from foreshore.edge.prefix.memory import PrefixMemory
from foreshore.edge.prefix.store import MIN_TOKENS, Found, PrefixStore
from foreshore.edge.scheduler import Scheduler, key_of
from foreshore.edge.sequence import Sequence

__all__ = ["PrefixKeeper", "fingerprint"]

WORTH = 16  # tokens that bringing a state back must save
READ_SHARE = 64  # reading a token's state from disk takes less than this part of the time that computing it would
_SAMPLED = 4 << 20  # bytes of a model file's beginning and end


class PrefixKeeper:
    """`spill` what leaves the cache, `recall` before a prompt is let in, `rest` while there is nothing to do."""

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        *,
        memory: PrefixMemory,
        store: PrefixStore | None,
        settle: Callable[[], object],
    ) -> None:
        """`settle` makes the engine's cache what the scheduler says it is."""
        self._engine, self._scheduler, self._settle = engine, scheduler, settle
        self._memory, self._store = memory, store
        self._written: dict[Sequence, set[int]] = {}

    def spill(self, ended: Sequence, slot: int) -> None:
        """Keep what `slot` holds, all tokens of `ended`, in plain memory."""
        self._spill(_entry(ended, ended.tokens), slot)

    def _spill(self, entry: Sequence, slot: int) -> None:
        key = key_of(entry)
        if self._memory.find(key, entry.tokens)[0] == len(entry.tokens):
            return
        if self._memory.takes(self._engine.state_bytes(slot)):
            self._memory.put(key, entry, self._engine.save(slot))

    def held(self, sequence: Sequence) -> int:
        """How many of its first tokens `recall` could bring."""
        if sequence.deterministic:
            return 0
        length, _ = self._memory.find(key_of(sequence), sequence.tokens[:-1])
        stored = self._stored(sequence)
        return max(length, stored.ready if stored is not None else 0)

    def recall(self, sequence: Sequence) -> None:
        """Bring into the cache the longest beginning that was moved out of it, if it is longer than any there."""
        if sequence.deterministic:
            return
        here = self._scheduler.best(sequence) + WORTH
        length, entry = self._memory.find(key_of(sequence), sequence.tokens[:-1])
        stored = self._stored(sequence)
        if stored is not None and stored.ready > max(length, here) + stored.cells // READ_SHARE:
            if (read := stored.read()) is not None:
                self._restore(_entry(sequence, read[0]), stored.ready, read[1])
        elif entry is not None and length >= here:
            self._restore(entry, length, self._memory.state(entry))

    def rest(self) -> bool:
        """Write one beginning that no file has yet. Whether there was one."""
        if self._store is None:
            return False
        self._settle()
        for kept in self._scheduler.kept:
            assert kept.slot is not None
            self._spill(_entry(kept, kept.tokens[: kept.cells]), kept.slot)
        self._written = {entry: lengths for entry, lengths in self._written.items() if entry in self._memory}
        for entry in self._memory:
            written = self._written.setdefault(entry, set())
            for length in self._lengths(entry):
                if length not in written:
                    written.add(length)
                    self._write(entry, length)
                    return True
        return False

    def _stored(self, sequence: Sequence) -> Found | None:
        if self._store is None or sequence.adapter is not None:
            return None
        return self._store.match(sequence.tenant, sequence.tokens[:-1])

    def _lengths(self, entry: Sequence) -> list[int]:
        """All of it, then where other prompts went another way: a shared system prompt ends there."""
        if entry.adapter is not None:
            return []
        return [n for n in reversed(self._memory.index.branches(entry)) if n >= MIN_TOKENS]

    def _write(self, entry: Sequence, length: int) -> None:
        assert self._store is not None
        if self._store.serves(entry.tenant, entry.tokens[:length]):
            return
        engine, state = self._engine, self._memory.state(entry)
        if length < len(entry.tokens):
            try:
                engine.restore(engine.scratch, state)
                engine.forget(engine.scratch, length)
                state = engine.save(engine.scratch)
            except NoSlot:
                return
            finally:
                engine.forget(engine.scratch)
        self._store.put(entry.tenant, entry.tokens[:length], state)

    def _restore(self, entry: Sequence, length: int, state: bytes) -> None:
        """Put the first `length` tokens into the cache as those of an ended sequence."""
        engine, kept = self._engine, _entry(entry, entry.tokens)
        reserved = self._scheduler.reserve(kept)
        self._settle()
        if not reserved:
            return
        assert kept.slot is not None
        try:
            engine.restore(engine.scratch, state)
        except NoSlot:  # made by another build after all
            self._scheduler.abandon(kept)
        else:
            engine.share(engine.scratch, kept.slot, length)
            self._scheduler.shorten(kept, length)
        engine.forget(engine.scratch)


def fingerprint(engine: Engine) -> str:
    """What a saved state depends on: the model file's size, beginning and end, and how keys and values are kept."""
    digest = hashlib.sha256()
    with engine.path.open("rb") as file:
        size = file.seek(0, 2)
        for at in (0, max(0, size - _SAMPLED)):
            file.seek(at)
            digest.update(file.read(_SAMPLED))
    options = engine.options
    return f"{llama_cpp.__version__} {size} {digest.hexdigest()} {options.kv_type} {options.flash_attention}"


def _entry(of: Sequence, tokens: list[int]) -> Sequence:
    """These tokens, as all there is of a sequence."""
    entry = Sequence(
        id=f"{of.id}-prefix", tokens=tokens.copy(), max_tokens=1, arrived=of.arrived, tenant=of.tenant,
        adapter=of.adapter,
    )  # fmt: skip
    entry.cells = len(tokens)
    return entry
