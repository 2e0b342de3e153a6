"""The process that reads texts with a model: `python -P -m foreshore.quantize.forward_child`, driven by `forward`.

Documents are cut into windows, and short windows share a batch as sequences of their own. A batch has at most as many
tokens as their logits fit into `LOGITS_BYTES`, which bounds the memory whatever the vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.disk import disk_errors
from foreshore.errors import ModelError, SetupError, UsageError
from foreshore.quantize.channel import Json, Tell, serve
from foreshore.quantize.forward import COMPARED, record_type
from foreshore.quantize.native_model import load_model
from foreshore.quantize.topk import TopTail, divergence, log_probability, same_top, sizes

LOGITS_BYTES = 48 << 20  # the engine holds them twice: where they are computed, and where they are read
MOST_TOKENS, FEWEST_TOKENS = 512, 16  # of a batch
SEQUENCES = 64  # in a batch, at most

Window = tuple[int, list[int]]  # the number of the document, and token ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of one window in a batch."""

    tokens: list[int]
    start: int  # in the window
    came: list[int]  # after each scored position, of which the last ones of `tokens` are


class Forward:
    """A model that reads windows of at most `context` tokens."""

    def __init__(self, path: Path, *, context: int, threads: int) -> None:
        import llama_cpp.llama_cpp as native

        from foreshore.edge.batch import Batch
        from foreshore.edge.vocab import Vocab

        self._native = native
        self._model = load_model(path)
        self.vocab = Vocab(self._model)
        self.context = min(context, int(native.llama_model_n_ctx_train(self._model)) or context)
        self._step = min(MOST_TOKENS, max(FEWEST_TOKENS, LOGITS_BYTES // (4 * self.vocab.size)))
        self._batch = Batch(self._step)
        self._context = self._open(path, threads)

    def vocab_sha256(self) -> str:
        """Of all tokens' texts: equal for models that share a vocabulary."""
        texts = (self._native.llama_vocab_get_text(self.vocab.handle, t) or b"" for t in range(self.vocab.size))
        return hashlib.sha256(b"\0".join(texts)).hexdigest()

    def windows(self, documents: Sequence[str], *, special: bool) -> list[Window]:
        """The documents' tokens, cut; each window begins as the model wants a text to begin (BOS)."""
        begin = bool(self._native.llama_vocab_get_add_bos(self.vocab.handle))
        first = [self.vocab.first_token()] if begin else []
        size = self.context - len(first)
        found = []
        for number, text in enumerate(documents):
            tokens = self.vocab.tokenize(text, special=special)
            found += [(number, first + tokens[i : i + size]) for i in range(0, len(tokens), size)]
        return [window for window in found if len(window[1]) > 1]

    def logits(self, windows: Sequence[Window], skip: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Batch by batch, in order: the scored positions' logits (N, V), a view that the next batch overwrites, and
        the tokens that came (N,). Scored are a window's positions from `skip` on that have a token after them."""
        for pieces in self._batches(windows, skip):
            if pieces[0].start == 0:
                self._native.llama_memory_clear(self._native.llama_get_memory(self._context), False)
            self._batch.clear()
            for slot, piece in enumerate(pieces):
                self._batch.add(piece.tokens, start=piece.start, slot=slot, wanted=len(piece.came))
            code = self._native.llama_decode(self._context, self._batch.raw)
            if code != 0:
                raise SetupError(f"the engine could not compute a batch (code {code!r})", hint="run `foreshore doctor`")
            came = np.array([token for piece in pieces for token in piece.came], np.int64)
            if len(came):
                yield self._rows(len(came)), came

    def _batches(self, windows: Sequence[Window], skip: int) -> Iterator[list[Piece]]:
        """Whole windows as many as fit; a longer one alone, a piece at a time."""
        pack: list[Piece] = []
        used = 0
        for _, tokens in windows:
            pieces = _pieces(tokens, self._step, skip)
            if pack and (used + len(tokens) > self._step or len(pack) == SEQUENCES):
                yield pack
                pack, used = [], 0
            if len(pieces) > 1:
                yield from ([piece] for piece in pieces)
            else:
                pack.append(pieces[0])
                used += len(tokens)
        if pack:
            yield pack

    def _rows(self, count: int) -> NDArray[np.float32]:
        address = self._native.llama_get_logits(self._context)
        rows: NDArray[np.float32] = np.ctypeslib.as_array(address, shape=(count, self.vocab.size))
        if not np.isfinite(rows.max(axis=1)).all() or np.isnan(rows.min()):
            raise ModelError("the model gives logits that are not finite", hint="its weights may be damaged")
        return rows

    def _open(self, path: Path, threads: int) -> Any:
        native, params = self._native, self._native.llama_context_default_params()
        params.n_ctx = max(self.context, self._step)
        params.n_batch = params.n_ubatch = self._step
        params.n_outputs_max = max(self._step, SEQUENCES)  # of fewer than sequences the engine would abort
        params.n_seq_max = SEQUENCES
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True  # sequences of any lengths share the cells
        params.no_perf = True
        context = native.llama_init_from_model(self._model, params)
        if not context:
            raise SetupError(f"no context of {params.n_ctx} tokens could be made for {path.name!r}")
        return context


def _pieces(tokens: list[int], step: int, skip: int) -> list[Piece]:
    """The last token of a window is not among them: nothing comes after it."""
    found = []
    for start in range(0, len(tokens) - 1, step):
        end = min(start + step, len(tokens) - 1)
        found.append(Piece(tokens=tokens[start:end], start=start, came=tokens[max(start, skip) + 1 : end + 1]))
    return found


def _scored(windows: Sequence[Window], skip: int) -> int:
    return sum(max(0, len(tokens) - 1 - skip) for _, tokens in windows)


def record(job: Json, tell: Tell) -> Json:
    """Write `records.bin` and `tokens.bin` into the job's folder; returns what the reference's head needs."""
    folder = Path(job["folder"])
    model = Forward(Path(job["model"]), context=job["context"], threads=job["threads"])
    windows = model.windows(json.loads((folder / "documents.json").read_bytes()), special=job["special"])
    total, size = _scored(windows, job["skip"]), model.vocab.size
    if not total:
        raise UsageError("the text has no token to predict", hint="give longer documents, or skip fewer tokens")
    k, samples = sizes(size)
    columns = k + samples
    rng = np.random.default_rng(0)
    done = 0
    with disk_errors(folder), (folder / "records.bin").open("wb") as file:
        for logits, came in model.logits(windows, job["skip"]):
            kept = TopTail.of(logits, k, samples, rng=rng)
            rows = np.empty(len(kept), dtype=record_type(size, columns))
            rows["ids"], rows["log_p"], rows["log_tail"] = kept.ids, kept.log_p, kept.log_tail
            rows["came"] = log_probability(logits, came)
            file.write(rows.tobytes())
            tell(done := done + len(rows), total)
        tokens = np.array([token for _, window in windows for token in window], "<i4")
        (folder / "tokens.bin").write_bytes(tokens.tobytes())
    return {
        "vocab": size,
        "vocab_sha256": model.vocab_sha256(),
        "k": k,
        "columns": columns,
        "context": model.context,
        "tokens": total,
        "windows": [[number, len(tokens)] for number, tokens in windows],
    }


def compare(job: Json, tell: Tell) -> Json:
    """Write one `COMPARED` a scored token into the job's file `to`."""
    folder, head = Path(job["folder"]), job["head"]
    model = Forward(Path(job["model"]), context=head["context"], threads=job["threads"])
    if (model.vocab.size, model.vocab_sha256()) != (head["vocab"], head["vocab_sha256"]):
        raise ModelError(
            f"{Path(job['model']).name!r} has another vocabulary than the reference's parent",
            hint="compare it with the model that it was made of",
        )
    kind = np.dtype(record_type(head["vocab"], head["columns"]))
    windows = _read_windows(folder, head)
    done = 0
    to = Path(job["to"])
    with disk_errors(to.parent), (folder / "records.bin").open("rb") as records, to.open("wb") as file:
        for logits, came in model.logits(windows, head["skip"]):
            kept = np.fromfile(records, kind, len(came))
            file.write(_compared(kept, head, logits, came).tobytes())
            tell(done := done + len(came), head["tokens"])
    return {"tokens": done}


def _compared(
    kept: NDArray[Any], head: dict[str, Any], logits: NDArray[np.float32], came: NDArray[np.int64]
) -> NDArray[Any]:
    reference = TopTail(
        ids=kept["ids"], log_p=kept["log_p"], log_tail=kept["log_tail"], k=head["k"], vocab=head["vocab"]
    )
    found = np.empty(len(came), dtype=COMPARED)
    found["kl"], found["same"] = divergence(reference, logits), same_top(reference, logits)
    found["log_p"], found["parent_log_p"] = log_probability(logits, came), kept["came"]
    return found


def _read_windows(folder: Path, head: dict[str, Any]) -> list[Window]:
    tokens = np.fromfile(folder / "tokens.bin", "<i4").tolist()
    windows, start = [], 0
    for number, length in head["windows"]:
        windows.append((number, tokens[start : start + length]))
        start += length
    return windows


def read(job: Json, tell: Tell) -> Json:
    return {"record": record, "compare": compare}[job["task"]](job, tell)


if __name__ == "__main__":
    serve(read)
