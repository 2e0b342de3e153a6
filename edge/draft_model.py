"""Guesses the next tokens with a small model of the same vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from foreshore.edge.batch import Batch
from foreshore.edge.engine import Engine, NoSlot
from foreshore.edge.gguf import inspect
from foreshore.edge.sequence import Sequence
from foreshore.errors import ModelError

__all__ = ["DraftModel"]

CATCH_UP = 128  # tokens of prompts that one step may read for the draft model: streams wait meanwhile


@dataclass(slots=True)
class _Cache:
    slot: int
    held: list[int] = field(default_factory=list)  # tokens, the guessed ones too
    sure: int = 0  # of them, from the front, are the answer's own


class DraftModel:
    """Keeps its own cache of every answer it guesses for, in the slots of the large model's."""

    def __init__(self, large: Engine) -> None:
        path = Path(large.options.draft_model or "").expanduser()
        inspect(path)
        options = replace(
            large.options, speculation="off", draft_model=None, adapters=(), kv_tokens=large.info.kv_tokens
        )
        options = replace(options, context_tokens=large.info.context_tokens)
        self._engine = Engine(path, options)
        self._caches: dict[Sequence, _Cache] = {}
        if self._engine.vocab.size != large.vocab.size or not self._same_words(large):
            self._engine.close()
            raise ModelError(
                f"the draft model {path.name!r} has another vocabulary than {large.info.name!r}",
                hint="choose a smaller model of the same family",
            )

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, tuple[int, ...]]:
        ready = self._catch_up(wanted)
        guesses: dict[Sequence, list[int]] = {s: [] for s in ready}
        for n in range(max((wanted[s] for s in ready), default=0)):
            going = [s for s in ready if len(guesses[s]) == n < wanted[s]]
            for sequence, token in self._next(going, guesses).items():
                guesses[sequence].append(token)
        return {s: tuple(guess) for s, guess in guesses.items() if guess}

    def drop(self, sequence: Sequence) -> None:
        cache = self._caches.pop(sequence, None)
        if cache is not None:
            self._engine.forget(cache.slot)

    def close(self) -> None:
        self._engine.close()

    def _catch_up(self, wanted: Mapping[Sequence, int]) -> list[Sequence]:
        """Read what was drawn since, all but the last token. Returns those with nothing left to read."""
        room, batch = CATCH_UP, self._engine.batch
        batch.clear()
        parts: list[tuple[Sequence, list[int]]] = []
        ready = []
        for sequence in wanted:
            missing = self._missing(sequence)
            part = missing[:room]
            room -= len(part)
            if part:
                cache = self._caches[sequence]
                batch.add(part, start=len(cache.held), slot=cache.slot, wanted=0)
                parts.append((sequence, part))
            if len(part) == len(missing):
                ready.append(sequence)
        if parts and not self._decode(batch):
            return []
        for sequence, part in parts:
            self._caches[sequence].held += part
        return ready

    def _missing(self, sequence: Sequence) -> list[int]:
        """What the draft model has not read, all but the last token; guesses that were wrong are forgotten."""
        assert sequence.slot is not None
        cache, tokens = self._caches.get(sequence), sequence.tokens
        if cache is not None and cache.slot != sequence.slot:  # it was parked, and came back elsewhere
            self.drop(sequence)
            cache = None
        if cache is None:
            cache = self._caches[sequence] = _Cache(sequence.slot)
        keep, end = cache.sure, min(len(cache.held), len(tokens) - 1)
        while keep < end and cache.held[keep] == tokens[keep]:
            keep += 1
        self._engine.forget(cache.slot, keep)
        del cache.held[keep:]
        cache.sure = keep
        return tokens[keep:-1]

    def _next(self, sequences: list[Sequence], guesses: Mapping[Sequence, list[int]]) -> dict[Sequence, int]:
        """One more token for each, after its last guess."""
        batch = self._engine.batch
        batch.clear()
        rows = []
        for sequence in sequences:
            cache = self._caches[sequence]
            token = (guesses[sequence] or sequence.tokens)[-1]
            rows.append(batch.add([token], start=len(cache.held), slot=cache.slot, wanted=1))
            cache.held.append(token)
        if not self._decode(batch):
            return {}
        return {s: int(self._engine.logits(row).argmax()) for s, row in zip(sequences, rows, strict=True)}

    def _decode(self, batch: Batch) -> bool:
        try:
            self._engine.decode(batch)
        except NoSlot:  # its cache is as large as the other's, but knows nothing of shared beginnings
            for sequence in list(self._caches):
                self.drop(sequence)
            return False
        return True

    def _same_words(self, large: Engine) -> bool:
        size = large.vocab.size
        sample = {*range(0, size, max(1, size // 512)), size - 1}
        return all(self._engine.vocab.text(t) == large.vocab.text(t) for t in sample)
