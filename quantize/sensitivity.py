"""The process that measures what mixes of types cost: `python -P -m foreshore.quantize.sensitivity`; `meter` drives it.

It loads the parent once. A mix is measured by giving the loaded tensors their new types where they lie, so nothing is
written or loaded again, and what is computed is bit for bit what the mix's own file would give.

On stdin and stdout are JSON lines, one answer to each request. It ends itself when stdin closes.

    {"model", "imatrix", "cache", "documents", "special", "context", "threads"}
                              -> {"windows", "tokens": [of each window], "used": [tensors of the graph]}
    {"errors": [[tensor, type], ...]}                -> {"errors": [share of the tensor's squared values, ...]}
    {"mix": {tensor: type}, "windows": n}            -> {"kl": [nats, summed over each of the first n windows]}
    what cannot be done                              -> {"error", "hint"}
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native

from foreshore.errors import ForeshoreError
from foreshore.quantize.imatrix import read_imatrix
from foreshore.quantize.live import LiveModel
from foreshore.quantize.tensor_cache import TensorCache
from foreshore.quantize.topk import TopTail, divergence

Json = dict[str, Any]
TOP, SAMPLES = 256, 64  # kept of the parent's distributions, in memory


class Sensitivity:
    """A loaded parent with its distributions on the documents."""

    def __init__(self, job: Json) -> None:
        importance = read_imatrix(job["imatrix"]) if job["imatrix"] else None
        self.cache = TensorCache(Path(job["cache"]) if job["cache"] else None, importance)
        self.model = LiveModel(Path(job["model"]), self.cache, context=job["context"], threads=job["threads"])
        vocab = self.model.vocab
        documents = (vocab.tokenize(text, special=job["special"], begin=True) for text in job["documents"])
        self.windows = [w for tokens in documents for w in _cut(tokens, job["context"])]
        self.reference = [(i, TopTail.of(rows, TOP, SAMPLES)) for i, rows in self.model.logits(self.windows)]

    def answer(self, job: Json) -> Json:
        if "errors" in job:
            tensors, info = self.model.tensors, self.model.info
            return {"errors": [self.cache.error(info, tensors[name], kind) for name, kind in job["errors"]]}
        self.model.set(job["mix"])
        return {"kl": self.divergences(job["windows"])}

    def described(self) -> Json:
        return {"tokens": [len(w) for w in self.windows], "used": list(self.model.types)}

    def divergences(self, count: int) -> list[float]:
        sums = [0.0] * count
        for (i, reference), (_, rows) in zip(self.reference, self.model.logits(self.windows[:count]), strict=False):
            sums[i] += float(divergence(reference, rows).sum())
        return sums


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints, it does not get between the answers
    silent = native.llama_log_callback(lambda level, text, data: None)
    native.llama_log_set(silent, ctypes.c_void_p(0))
    requests = iter(_Requests())
    measuring: Sensitivity | None = None
    for job in requests:
        try:
            if measuring is None:
                measuring = Sensitivity(job)
                answer = measuring.described()
            else:
                answer = measuring.answer(job)
        except ForeshoreError as error:
            answer = {"error": error.message, "hint": error.hint, "setup": error.code == "setup_error"}
        out.write(json.dumps(answer) + "\n")
        out.flush()


class _Requests:
    """Read in a thread of their own, so that the process ends with its parent, even in the midst of a measurement."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._ready = threading.Semaphore(0)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self._lines.append(line)
            self._ready.release()
        os._exit(0)

    def __iter__(self) -> Any:
        while True:
            self._ready.acquire()
            yield json.loads(self._lines.pop(0))


def _cut(tokens: list[int], context: int) -> list[list[int]]:
    """Windows of at most `context` tokens; one alone has too little to go by."""
    found = [tokens[start : start + context] for start in range(0, len(tokens), context)]
    return [w for w in found if len(w) > 1]


if __name__ == "__main__":
    main()
