"""Vectors and scores for texts, with a context of its own: pooling needs a whole text in one native batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np

from foreshore.edge.batch import Batch
from foreshore.edge.engine import Engine
from foreshore.errors import SetupError

__all__ = ["MAX_BATCH", "MAX_TEXTS", "Embedder", "ranks"]

MEAN = 1
RANK = "4"  # LLAMA_POOLING_TYPE_RANK, as the file says it
MAX_BATCH = 2048  # tokens computed at once, unless one text is longer
MAX_TEXTS = 32  # texts computed at once


def ranks(engine: Engine) -> bool:
    """Whether the model has a head that scores a text instead of describing it by a vector."""
    return _pooling(engine) == RANK


class Embedder:
    """Unit-length vectors of `engine.info.embedding_size`, by the model's own pooling, else the mean of all tokens.

    Of a model that `ranks`, vectors of length one: the score, the head's first output as it is.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._contexts: dict[int, Any] = {}
        self._ranks = ranks(engine)

    def embed(self, inputs: Sequence[list[int]]) -> list[tuple[float, ...]]:
        """One vector for each of at most `MAX_TEXTS` inputs, in order. Raises `SetupError` where the engine fails."""
        size = sum(map(len, inputs))
        context = self._context(max(size, min(MAX_BATCH, self._engine.info.embedding_tokens)))
        batch = Batch(size)
        for slot, tokens in enumerate(inputs):
            batch.add(tokens, start=0, slot=slot, wanted=len(tokens))
        memory = native.llama_get_memory(context)
        if memory:
            native.llama_memory_clear(memory, False)
        code = native.llama_decode(context, batch.raw) if memory else native.llama_encode(context, batch.raw)
        if code != 0:
            raise SetupError(f"the engine could not embed (code {code!r})", hint="run `foreshore doctor`")
        return [self._vector(context, slot) for slot in range(len(inputs))]

    def close(self) -> None:
        for context in self._contexts.values():
            native.llama_free(context)
        self._contexts.clear()

    def _context(self, capacity: int) -> Any:
        """The context that holds `capacity` tokens; made larger, never smaller, when one is needed."""
        room = next(iter(self._contexts), 0)
        if room < capacity:
            self.close()
            self._contexts[capacity] = self._open(capacity)
            room = capacity
        return self._contexts[room]

    def _open(self, capacity: int) -> Any:
        engine, params = self._engine, native.llama_context_default_params()
        capacity += -capacity % MAX_TEXTS  # the engine asserts that its batch divides evenly by its sequences
        params.n_ctx = params.n_batch = params.n_ubatch = capacity
        params.n_seq_max = MAX_TEXTS
        params.n_threads = params.n_threads_batch = engine.info.threads
        params.embeddings = True
        params.kv_unified = True
        params.no_perf = True
        if _pooling(engine) in (None, "0"):
            params.pooling_type = MEAN
        context = native.llama_init_from_model(engine.model, params)
        if not context:
            raise SetupError(f"no embedding context of {capacity} tokens could be made", hint="shorter inputs")
        return context

    def _vector(self, context: Any, slot: int) -> tuple[float, ...]:
        pointer = native.llama_get_embeddings_seq(context, slot)
        if self._ranks:
            return (float(pointer[0]),)
        vector = np.ctypeslib.as_array(pointer, (self._engine.info.embedding_size,)).astype(np.float64)
        return tuple((vector / max(float(np.linalg.norm(vector)), 1e-12)).tolist())


def _pooling(engine: Engine) -> str | None:
    return engine.metadata(f"{engine.info.architecture}.pooling_type")
