"""Measures what mixes of types cost, in a process: `python -P -m foreshore.quantize.search.sensitivity`, driven by
`meter`.

It loads the parent once. A mix is measured by giving the loaded tensors their new types where they lie, so nothing is
written or loaded again, and what is computed is bit for bit what the mix's own file would give.

Requests, and their results:

    {"model", "imatrix", "moments", "cache", "documents", "special", "context", "threads"}, once
                                        {"tokens": [of each window], "used": [tensors of the graph]}
    {"paces": [[tensor, type], ...]}    {"paces": [seconds for each weight that is quantized, ...]}
    {"errors": [[tensor, type], ...]}   {"errors": [share of the tensor's squared values, ...]}
    {"mix": {tensor: type}, "windows"}  {"kl": [nats, summed over each of the first so many windows]}
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import llama_cpp.llama_cpp as native

from foreshore.errors import UsageError
from foreshore.quantize.channel import Json, Tell, serve
from foreshore.quantize.imatrix import read_imatrix
from foreshore.quantize.search.live import LiveModel
from foreshore.quantize.search.moments import Moments
from foreshore.quantize.tensor_cache import TensorCache
from foreshore.quantize.topk import TopTail, divergence

TOP, SAMPLES = 256, 64  # kept of the parent's distributions, in memory


class Sensitivity:
    """A loaded parent, with its distributions on as many of the windows as were asked for."""

    def __init__(self, job: Json) -> None:
        importance = read_imatrix(job["imatrix"]) if job["imatrix"] else None
        moments = Moments(Path(job["moments"])) if job["moments"] else None
        self.cache = TensorCache(Path(job["cache"]) if job["cache"] else None, importance, moments)
        self.model = LiveModel(Path(job["model"]), self.cache, context=job["context"], threads=job["threads"])
        vocab = self.model.vocab
        documents = (vocab.tokenize(text, special=job["special"], begin=True) for text in job["documents"])
        self.windows = [w for tokens in documents for w in _cut(tokens, job["context"])]
        if not self.windows:
            raise UsageError("the text to search on has no two tokens in a row", hint="give some 100 KB of text")
        self.reference: list[tuple[int, TopTail]] = []  # of each piece of the first `known` windows
        self.known = 0

    def answer(self, job: Json) -> Json:
        tensors, info = self.model.tensors, self.model.info
        if "paces" in job:
            paces = [self.cache.pace(info, tensors[name], kind) for name, kind in job["paces"]]
            return {"paces": [pace / self.model.threads for pace in paces]}
        if "errors" in job:
            return {"errors": [self.cache.error(info, tensors[name], kind) for name, kind in job["errors"]]}
        return {"kl": self.divergences(job["mix"], job["windows"])}

    def described(self) -> Json:
        return {"tokens": [len(w) for w in self.windows], "used": list(self.model.types)}

    def divergences(self, mix: Mapping[str, str], count: int) -> list[float]:
        self._know(count)
        self.model.set(mix)
        sums = [0.0] * count
        for (i, reference), (_, rows) in zip(self.reference, self.model.logits(self.windows[:count]), strict=False):
            sums[i] += float(divergence(reference, rows).sum())
        return sums

    def _know(self, count: int) -> None:
        """Have the parent's distributions on the first `count` windows."""
        if count > self.known:
            self.model.set({})
            rows = self.model.logits(self.windows[self.known : count])
            self.reference += [(self.known + i, TopTail.of(logits, TOP, SAMPLES)) for i, logits in rows]
            self.known = count


class _Process:
    """The first request opens the model, all others ask about it."""

    def __init__(self) -> None:
        self._measuring: Sensitivity | None = None

    def __call__(self, job: Json, tell: Tell) -> Json:
        if self._measuring is None:
            self._measuring = Sensitivity(job)
            return self._measuring.described()
        return self._measuring.answer(job)


def _cut(tokens: list[int], context: int) -> list[list[int]]:
    """Windows of at most `context` tokens; one alone has too little to go by."""
    found = [tokens[start : start + context] for start in range(0, len(tokens), context)]
    return [w for w in found if len(w) > 1]


if __name__ == "__main__":
    silent = native.llama_log_callback(lambda level, text, data: None)
    native.llama_log_set(silent, ctypes.c_void_p(0))
    serve(_Process())
