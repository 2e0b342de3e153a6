"""An encoder in ONNX Runtime, which only embeds: several texts in one run, padded at their ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.onnx.folder import OnnxFolder
from foreshore.edge.onnx.info import describe
from foreshore.edge.onnx.session import Session, Tensor
from foreshore.edge.onnx.vocab import OnnxVocab
from foreshore.edge.options import EngineOptions
from foreshore.errors import ForeshoreError, ModelError

__all__ = ["OnnxEncoder"]

Floats = NDArray[np.float32]
Pool = Callable[[Floats, Floats], Floats]  # (texts, tokens, width) and the mask (texts, tokens) -> (texts, width)
POOLED = "sentence_embedding"  # optimum's export of a sentence-transformers model pools in the graph
_TOKENS = ("last_hidden_state", "token_embeddings")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


class OnnxEncoder:
    """What a stepper needs of an engine that only embeds, and of its embedder. One thread at a time, save `abort`."""

    rewinds = False
    scratch = 1  # it has no sequences

    def __init__(self, folder: OnnxFolder, session: Session, options: EngineOptions) -> None:
        """Raises `ModelError` for a graph that gives no vectors for its tokens, or a pooling that is not known."""
        self.options = options
        self._session = session
        self._output = next((name for name in (POOLED, *_TOKENS) if name in session.outputs), "")
        unknown = sorted(set(session.inputs) - set(_INPUTS))
        if not self._output or unknown or "input_ids" not in session.inputs:
            raise ModelError(
                f"the graph reads {[*session.inputs][:8]} and gives {[*session.outputs][:3]}: no encoder",
                hint="export it with --task feature-extraction",
            )
        self._pool = pooling(folder)
        pad = folder.config.get("pad_token_id")
        self._pad = pad if isinstance(pad, int) else 0
        size = folder.config.get("vocab_size")
        if not isinstance(size, int):
            raise ModelError("config.json does not say how large the vocabulary is", hint="export the model again")
        self.vocab = OnnxVocab(folder, size)
        self.info = describe(folder, session, options, vocab_size=size)

    @property
    def threads(self) -> int:
        return self._session.threads

    def embed(self, inputs: Sequence[list[int]]) -> list[tuple[float, ...]]:
        """Unit-length vectors, one for each input, in order. Raises `SetupError` where the runtime fails."""
        lengths = [len(tokens) for tokens in inputs]
        mask = (np.arange(max(lengths))[None] < np.array(lengths)[:, None]).astype(np.int64)
        ids = np.full(mask.shape, self._pad, np.int64)
        ids[mask.astype(bool)] = [token for tokens in inputs for token in tokens]
        values = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.broadcast_to(np.arange(max(lengths)), mask.shape),
        }
        feeds = {name: Tensor.of(values[name]) for name in _INPUTS if name in self._session.inputs}
        (given,) = self._session.run(feeds, [self._output])
        found = given.array.astype(np.float32)
        vectors = found if self._output == POOLED else self._pool(found, mask.astype(np.float32))
        return [tuple(row) for row in _unit(vectors.astype(np.float64)).tolist()]

    def abort(self, stop: bool = True) -> None:
        """Texts are computed to their end, as llama.cpp's embedder does it."""

    def set_threads(self, threads: int) -> None:
        self._session.set_threads(threads)

    def warm_up(self) -> None:
        """Embed one token, so that a graph that does not fit its folder fails before any request."""
        try:
            (vector,) = self.embed([[0]])
        except ForeshoreError as error:
            raise ModelError(f"{self.info.name!r} cannot be computed: {error.message}", hint=error.hint) from error
        if len(vector) != self.info.embedding_size:
            raise ModelError(f"the graph gives vectors of {len(vector)}, config.json says {self.info.embedding_size}")

    def close(self) -> None: ...


def pooling(folder: OnnxFolder) -> Pool:
    """As sentence-transformers' `1_Pooling/config.json` says, else the mean. Raises `ModelError` for an unknown one."""
    chosen = [name for name, value in folder.pooling.items() if name.startswith("pooling_mode_") and value is True]
    if not chosen:
        return _mean
    if len(chosen) > 1 or chosen[0] not in _POOLS:
        raise ModelError(f"1_Pooling/config.json asks for {chosen}", hint=f"known: one of {[*_POOLS]}")
    return _POOLS[chosen[0]]


def _mean(tokens: Floats, mask: Floats) -> Floats:
    weights = mask[..., None]
    mean: Floats = (tokens * weights).sum(1) / weights.sum(1)
    return mean


def _first(tokens: Floats, mask: Floats) -> Floats:
    first: Floats = tokens[:, 0]
    return first


def _last(tokens: Floats, mask: Floats) -> Floats:
    last: Floats = tokens[np.arange(len(tokens)), mask.sum(1).astype(np.intp) - 1]
    return last


def _largest(tokens: Floats, mask: Floats) -> Floats:
    largest: Floats = np.where(mask[..., None] > 0, tokens, -np.inf).max(1)
    return largest


_POOLS: dict[str, Pool] = {
    "pooling_mode_mean_tokens": _mean,
    "pooling_mode_cls_token": _first,
    "pooling_mode_lasttoken": _last,
    "pooling_mode_max_tokens": _largest,
}


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """As PyTorch's `normalize`: a vector of zeros stays one."""
    unit: NDArray[np.float64] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
