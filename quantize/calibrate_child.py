"""The process that calibrates: `python -P -m foreshore.quantize.calibrate_child`, driven by `calibrate`.

It tells the tokens read; the importance matrix goes to the job's `target`. Which matrix products count, and how, is
what llama-imatrix does (tools/imatrix).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from foreshore.errors import SetupError, UsageError
from foreshore.quantize.activations import Activations
from foreshore.quantize.channel import Json, Tell, serve
from foreshore.quantize.native_model import load_model

LOGITS_BYTES = 96 << 20  # of a batch, at most: every position must ask for its logits, or the last layer skips it
MOST_TOKENS, FEWEST_TOKENS = 512, 64  # of a batch


class Watch(Protocol):
    """What llama.cpp calls for each node of a graph (`ggml_backend_sched_eval_callback`), in a frame."""

    def __call__(self, address: int, ask: bool, user_data: Any) -> bool: ...

    def begin(self) -> None: ...

    def end(self) -> None:
        """Raises what ended the watch."""


class Reader:
    """A model that reads chunks of `context` tokens, and shows `watch` what it computes. At most
    `sequences` texts are read side by side."""

    def __init__(self, path: Path, watch: Watch, *, context: int, threads: int, sequences: int = 1) -> None:
        import llama_cpp.llama_cpp as native

        from foreshore.edge.batch import Batch
        from foreshore.edge.vocab import Vocab

        self._native, self._watch = native, watch
        self._model = load_model(path)
        self.vocab = Vocab(self._model)
        self.context = context
        self.first = self.vocab.first_token() if native.llama_vocab_get_add_bos(self.vocab.handle) else None
        most = min(MOST_TOKENS, max(FEWEST_TOKENS, LOGITS_BYTES // (4 * self.vocab.size)), context)
        self._step = -(-context // -(-context // most))  # steps of about the same length: none of a few tokens
        self._batch = Batch(self._step)
        self._context = self._open(path, threads, sequences)

    def close(self) -> None:
        self._native.llama_free(self._context)
        self._native.llama_model_free(self._model)

    def read(self, *chunks: list[int]) -> None:
        """Compute chunks of at most `context` tokens in all, side by side from an empty cache; the first token of each
        gives way to the one that texts begin with (BOS)."""
        native = self._native
        native.llama_memory_clear(native.llama_get_memory(self._context), True)
        self._batch.clear()
        for slot, chunk in enumerate(chunks):
            tokens = chunk if self.first is None else [self.first, *chunk[1:]]
            start = 0
            while start < len(tokens):
                piece = tokens[start : start + self._step - self._batch.size]
                self._batch.add(piece, start=start, slot=slot, wanted=len(piece))
                start += len(piece)
                if self._batch.size == self._step:
                    self._compute()
        if self._batch.size:
            self._compute()

    def _compute(self) -> None:
        self._watch.begin()
        code = self._native.llama_decode(self._context, self._batch.raw)
        self._watch.end()
        self._batch.clear()
        if code != 0:
            raise SetupError(f"the engine could not compute a batch (code {code!r})", hint="run `foreshore doctor`")

    def _open(self, path: Path, threads: int, sequences: int) -> Any:
        native, params = self._native, self._native.llama_context_default_params()
        params.n_ctx = self.context
        params.n_batch = params.n_ubatch = params.n_outputs_max = self._step
        params.n_seq_max = sequences
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        params.op_offload = params.offload_kqv = False  # what is looked at must lie in this process's memory
        params.no_perf = True
        self._callback = params.cb_eval = native.ggml_backend_sched_eval_callback(self._watch)
        context = native.llama_init_from_model(self._model, params)
        if not context:
            raise SetupError(f"no context of {params.n_ctx} tokens could be made for {path.name!r}")
        return context


def calibrate(job: Json, tell: Tell) -> Json:
    size, activations = job["context"], Activations(output=job["output"])
    reader = Reader(Path(job["model"]), activations, context=size, threads=job["threads"])
    tokens = reader.vocab.tokenize(job["text"], special=job["special"], begin=True)
    chunks = len(tokens) // size
    if not chunks:
        raise UsageError(
            f"the text has {len(tokens)} tokens, and a chunk takes {size}",
            hint="give more text (some 100 KB), or a smaller context",
        )
    tell(0, chunks * size)
    for number in range(chunks):
        reader.read(tokens[number * size : (number + 1) * size])
        tell((number + 1) * size, chunks * size)
    activations.imatrix(context=size, dataset=job["dataset"]).save(job["target"])
    return {}


if __name__ == "__main__":
    serve(calibrate)
