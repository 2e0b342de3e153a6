"""A model in memory whose tensors can be changed from one type to another while it stays loaded.

Native code that may assert: only a process that may die opens one (`foreshore.quantize.search.sensitivity`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from foreshore.edge.batch import Batch
from foreshore.edge.gguf import GgufInfo, Tensor, inspect
from foreshore.edge.vocab import Vocab
from foreshore.errors import ModelError, SetupError
from foreshore.quantize.blocks import TYPE_NUMBERS, TensorStruct, check_layout, overwrite, sources
from foreshore.quantize.tensor_cache import TensorCache

__all__ = ["LiveModel", "Window"]

LOGITS_BYTES = 80 << 20  # of the logits computed at once: 128 tokens' of a large vocabulary
MOST_TOKENS = 512  # computed at once
SEQUENCES = 64  # that one pass keeps apart, at most

Window = Sequence[int]  # token ids of one document, or of a part of it
Logits = NDArray[np.float32]


class LiveModel:
    """`types` says what each tensor that the graph uses is now. Raises `ModelError` for what cannot be measured."""

    def __init__(self, path: Path, cache: TensorCache, *, context: int, threads: int) -> None:
        self.info: GgufInfo = inspect(path)
        self.cache, self.context, self.threads = cache, context, threads
        check_layout()
        if self.info.get(".attention.causal") is False:
            raise ModelError(f"{path.name!r} predicts no next token: there is no divergence to search by")
        native.llama_backend_init()
        self._model = _load(path)
        self.vocab = Vocab(self._model)
        self._places = self._find()
        self.types = {t.name: t.type for t in self.info.tensors if t.name in self._places}
        self.tensors: dict[str, Tensor] = {t.name: t for t in self.info.tensors if t.name in self._places}
        self._step = max(16, min(MOST_TOKENS, LOGITS_BYTES // (4 * self.vocab.size)))
        self._batch = Batch(self._step)
        self._run = self._open(tokens=max(context, self._step), outputs=self._step)

    def set(self, types: Mapping[str, str]) -> None:
        """Have each tensor of `types` in that type, and every other one in its parent's."""
        for name, now in self.types.items():
            kind = types.get(name, self.tensors[name].type)
            if kind != now:
                blocks = self.cache.blocks(self.info, self.tensors[name], kind, threads=self.threads)
                for place in self._places[name]:
                    overwrite(TensorStruct.from_address(place), blocks, kind)
                self.types[name] = kind

    def logits(self, windows: Sequence[Window]) -> Iterator[tuple[int, Logits]]:
        """For each piece of each window, in order: the window's number and its logits (tokens, V), a view that the
        next step overwrites."""
        for pack in _packs(windows, max(self.context, self._step)):
            native.llama_memory_clear(native.llama_get_memory(self._run), False)
            pieces = [
                (i, slot, start, windows[i][start : start + self._step])
                for slot, i in enumerate(pack)
                for start in range(0, len(windows[i]), self._step)
            ]
            for group in _groups([len(tokens) for *_, tokens in pieces], self._step):
                yield from self._compute([pieces[i] for i in group])

    def _compute(self, pieces: list[tuple[int, int, int, Window]]) -> Iterator[tuple[int, Logits]]:
        self._batch.clear()
        for _, slot, start, tokens in pieces:
            self._batch.add(list(tokens), start=start, slot=slot, wanted=len(tokens))
        self._decode(self._run)
        rows = _rows(self._run, self._batch.size, self.vocab.size)
        at = 0
        for i, _, _, tokens in pieces:
            yield i, rows[at : at + len(tokens)]
            at += len(tokens)

    def _decode(self, context: Any) -> None:
        code = native.llama_decode(context, self._batch.raw)
        if code != 0:
            raise SetupError(f"the engine could not compute a step (code {code!r})", hint="run `foreshore doctor`")

    def _find(self) -> dict[str, list[int]]:
        """Where the graph has the weights, by name: seen by a callback at each node of one small step."""
        weights = {t.name: t for t in self.info.tensors}
        found: dict[str, list[int]] = {}

        def look(node: Any, ask: bool, user_data: Any) -> bool:
            for source in sources(node):
                name = source.name.decode(errors="replace")
                tensor = weights.get(name)
                if tensor and not source.view_src and source.type == TYPE_NUMBERS[tensor.type]:
                    shape = tuple(source.ne)[: len(tensor.shape)]
                    places = found.setdefault(name, [])
                    if shape == tensor.shape and ctypes.addressof(source) not in places:
                        places.append(ctypes.addressof(source))
            return False

        callback = native.ggml_backend_sched_eval_callback(look)
        context = self._open(tokens=32, outputs=1, callback=callback)
        self._batch = Batch(1)
        self._batch.add([self.vocab.first_token()], start=0, slot=0, wanted=1)
        self._decode(context)
        native.llama_free(context)
        return {name: places for name, places in found.items() if places}

    def _open(self, *, tokens: int, outputs: int, callback: Any = None) -> Any:
        params = native.llama_context_default_params()
        params.n_ctx = tokens
        params.n_batch = params.n_ubatch = params.n_outputs_max = max(outputs, SEQUENCES if outputs > 1 else 1)
        params.n_seq_max = SEQUENCES if outputs > 1 else 1
        params.n_threads = params.n_threads_batch = self.threads
        params.kv_unified = True
        params.op_offload = params.offload_kqv = False
        params.no_perf = True
        if callback is not None:
            params.cb_eval = callback
        context = native.llama_init_from_model(self._model, params)
        if not context:
            raise SetupError(f"no context of {tokens} tokens could be made for {self.info.path.name!r}")
        return context


def _load(path: Path) -> Any:
    """The model in memory of its own, in ggml's plain layout, on the CPU alone: what `overwrite` can change."""
    params = native.llama_model_default_params()
    no_devices = (ctypes.c_void_p * 1)(None)
    params.devices = ctypes.addressof(no_devices)
    params.n_gpu_layers = 0
    params.load_mode = native.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts = False
    model = native.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ModelError(f"the engine cannot load {path.name!r}", hint="its log says why: `foreshore doctor`")
    if native.llama_model_has_encoder(model):
        raise ModelError(f"{path.name!r} predicts no next token: there is no divergence to search by")
    return model


def _packs(windows: Sequence[Window], room: int) -> Iterator[list[int]]:
    """Windows that are computed side by side: at most `room` tokens and `SEQUENCES` of them."""
    return _groups([len(w) for w in windows], room, SEQUENCES)


def _groups(lengths: Sequence[int], room: int, most: int = 1 << 30) -> Iterator[list[int]]:
    """Neighbours whose lengths add up to at most `room`."""
    group: list[int] = []
    total = 0
    for i, length in enumerate(lengths):
        if group and (total + length > room or len(group) == most):
            yield group
            group, total = [], 0
        group.append(i)
        total += length
    if group:
        yield group


def _rows(context: Any, count: int, vocab: int) -> Logits:
    pointer = ctypes.cast(native.llama_get_logits(context), ctypes.c_void_p).value
    if not pointer:
        raise SetupError("the engine gave no logits", hint="run `foreshore doctor`")
    return np.ctypeslib.as_array((ctypes.c_float * (count * vocab)).from_address(pointer)).reshape(count, vocab)
