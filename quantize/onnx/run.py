"""ONNX models computed by the edge runtime's own engines, to measure them. Runs in the child of `job`."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.onnx.encoder import OnnxEncoder
from foreshore.edge.onnx.engine import OnnxEngine
from foreshore.edge.onnx.folder import OnnxFolder, open_folder
from foreshore.edge.onnx.info import piece_tokens
from foreshore.edge.onnx.session import Session, numpy_type
from foreshore.edge.options import EngineOptions
from foreshore.errors import ModelError, UsageError
from foreshore.quantize.channel import Json, Tell
from foreshore.quantize.forward import COMPARED
from foreshore.quantize.topk import SAMPLES, TOP, TopTail, divergence, log_probability, same_top

__all__ = ["clock", "compare", "feeds", "probe"]

Logits = NDArray[np.float32]
PIECE = 64  # tokens whose logits are held at once, fewer where the vocabulary is large
PROMPT, DECODED = 512, 48  # tokens that a decoder reads, and then writes one by one, to time it


def probe(path: Path) -> None:
    """Load the model as the worker does, and compute a token. Raises `ModelError` where that fails."""
    _open(path, None).close()


def compare(job: Json, tell: Tell) -> Json:
    """Write to the .npz file `out`, for each token that `parent` and `model` predict in `texts`, in order: its
    `documents` (N,), and `values` (N,) of type `COMPARED`."""
    parent, model = (_decoder(_open(Path(job[name]), job["threads"])) for name in ("parent", "model"))
    if parent.vocab.size != model.vocab.size:
        raise UsageError(f"the vocabularies differ: {parent.vocab.size} and {model.vocab.size}")
    context = min(job["context"], parent.info.context_tokens, model.info.context_tokens)
    documents, values = [], []
    for number, text in enumerate(job["texts"]):
        tokens = _tokens(parent, text, special=job["special"])
        for start in range(0, len(tokens) - 1, context):
            window = tokens[start : start + context + 1]
            for came, ours, theirs in zip(
                _pieces(window[1:], parent), _logits(parent, window[:-1]), _logits(model, window[:-1]), strict=True
            ):
                documents.append(np.full(len(came), number))
                values.append(_compared(np.array(came), ours, theirs))
        tell(number + 1, len(job["texts"]))
    if not values:
        raise UsageError("the texts have no two tokens to predict one from the other", hint="give longer texts")
    np.savez(job["out"], allow_pickle=False, documents=np.concatenate(documents), values=np.concatenate(values))
    return {}


def clock(job: Json, tell: Tell) -> Json:
    """Seconds to load `model`, tokens/s of it reading `texts` one by one (`prefill`), of a decoder also of it writing
    (`decode`), and the most bytes that this process held."""
    began = time.perf_counter()
    engine = _open(Path(job["model"]), job["threads"])
    loaded = time.perf_counter() - began
    texts = [_tokens(engine, text) for text in job["texts"]]
    found = _clock_encoder(engine, texts) if isinstance(engine, OnnxEncoder) else _clock_decoder(engine, texts)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"load_s": loaded, "peak_bytes": peak, "threads": engine.threads, **found}


def feeds(folder: OnnxFolder, texts: Sequence[str], most: int, *, special: bool) -> Iterator[dict[str, NDArray[Any]]]:
    """What the graph reads for each text, at most `most` tokens of it, with an empty cache: input name -> values."""
    engine = _open(folder.path, None)
    session = Session(folder.path, engine.threads)
    for text in texts:
        ids = np.array([_tokens(engine, text, special=special)[:most]], np.int64)
        values = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.arange(ids.shape[1])[None],
        }
        yield {name: values[name] if name in values else _empty(value) for name, value in session.inputs.items()}


def _open(path: Path, threads: int | None) -> OnnxEncoder | OnnxEngine:
    options = EngineOptions(threads=threads, slots=1)
    folder = open_folder(path)
    session = Session(path, options.thread_count)
    engine = (OnnxEngine if "logits" in session.outputs else OnnxEncoder)(folder, session, options)
    engine.warm_up()
    return engine


def _decoder(engine: OnnxEncoder | OnnxEngine) -> OnnxEngine:
    if not isinstance(engine, OnnxEngine):
        raise UsageError(f"{engine.info.name!r} gives vectors, it predicts no tokens", hint="measure its similarity")
    return engine


def _tokens(engine: OnnxEncoder | OnnxEngine, text: str, *, special: bool = False) -> list[int]:
    """At most as many as an encoder reads."""
    found = engine.vocab.tokenize(text, special=special, begin=True)
    return found[: engine.info.context_tokens] if isinstance(engine, OnnxEncoder) else found


def _compared(came: NDArray[np.int64], parent: Logits, logits: Logits) -> NDArray[Any]:
    reference, found = TopTail.of(parent, TOP, SAMPLES), np.empty(len(came), COMPARED)
    found["kl"], found["same"] = divergence(reference, logits), same_top(reference, logits)
    found["log_p"], found["parent_log_p"] = log_probability(logits, came), log_probability(parent, came)
    return found


def _piece(engine: OnnxEngine) -> int:
    return min(PIECE, piece_tokens(engine.vocab.size))


def _pieces(tokens: Sequence[int], engine: OnnxEngine) -> Iterator[Sequence[int]]:
    step = _piece(engine)
    for start in range(0, len(tokens), step):
        yield tokens[start : start + step]


def _logits(engine: OnnxEngine, tokens: Sequence[int]) -> Iterator[Logits]:
    """After each of `tokens`, piece by piece: (PIECE or fewer, vocabulary)."""
    start = 0
    for piece in _pieces(tokens, engine):
        yield _step(engine, piece, start)
        start += len(piece)
    engine.forget(0)


def _step(engine: OnnxEngine, tokens: Sequence[int], start: int) -> Logits:
    engine.batch.clear()
    last = engine.batch.add(tokens, start=start, slot=0, wanted=len(tokens))
    engine.decode(engine.batch)
    return np.stack([engine.logits(row) for row in range(last + 1 - len(tokens), last + 1)])


def _clock_encoder(engine: OnnxEncoder, texts: list[list[int]]) -> dict[str, Any]:
    began = time.perf_counter()
    for tokens in texts:
        engine.embed([tokens])
    return {"prefill": sum(map(len, texts)) / (time.perf_counter() - began), "decode": None}


def _clock_decoder(engine: OnnxEngine, texts: list[list[int]]) -> dict[str, Any]:
    tokens = [token for text in texts for token in text]
    tokens = tokens[: max(1, min(PROMPT, engine.info.context_tokens - DECODED))]
    if not tokens:
        raise UsageError("the texts have no tokens", hint="give longer texts")
    began = time.perf_counter()
    for start in range(0, len(tokens), engine.options.batch_tokens):
        part = tokens[start : start + engine.options.batch_tokens]
        engine.batch.clear()
        row = engine.batch.add(part, start=start, slot=0, wanted=1)
        engine.decode(engine.batch)
    read = time.perf_counter()
    for at in range(DECODED):
        token = int(engine.logits(row).argmax())
        engine.batch.clear()
        row = engine.batch.add([token], start=len(tokens) + at, slot=0, wanted=1)
        engine.decode(engine.batch)
    return {"prefill": len(tokens) / (read - began), "decode": DECODED / (time.perf_counter() - read)}


def _empty(value: Any) -> NDArray[Any]:
    """A cache of no tokens for the graph's input `value`, (rows, heads, tokens, width)."""
    if len(value.shape) != 4:
        raise ModelError(f"the graph reads {value.name!r} of shape {value.shape}, which is no cache")
    return np.zeros((1, value.shape[1], 0, value.shape[3]), numpy_type(value.type))
