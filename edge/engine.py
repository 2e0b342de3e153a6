"""The native engine: one model, one context, several sequences in one decode.

Uses llama.cpp's C API as bound by `llama_cpp.llama_cpp`. Only a worker process imports this module:
a failed native assertion ends the process it happens in.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from foreshore.edge.batch import Batch
from foreshore.edge.options import DEFAULT_CONTEXT, MAX_SLOTS, EngineOptions, ModelInfo
from foreshore.edge.vocab import Vocab
from foreshore.errors import ForeshoreError, ModelError, SetupError

__all__ = ["MAX_DRAFTED", "Aborted", "Engine", "NoSlot"]

MAX_DRAFTED = 16  # tokens of all drafts in one step
KV_BYTES = 1 << 30  # the default share of memory for keys and values
_FLASH = {"auto": -1, "off": 0, "on": 1}
_GGML_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}
_POOLING_NONE = 0
_libc = ctypes.CDLL(None)
_logits_address = native._lib["llama_get_logits"]  # as a number: a typed pointer is slow to make
_logits_address.argtypes, _logits_address.restype = [ctypes.c_void_p], ctypes.c_void_p


class NoSlot(ForeshoreError):
    """The KV cache has no room for this batch; nothing was changed."""


class Aborted(ForeshoreError):
    """The decode was told to stop; some of its tokens may be in the cache."""


class Engine:
    """Owns the native model and context. One thread at a time, except `abort` and `vocab`."""

    def __init__(self, path: Path, options: EngineOptions) -> None:
        native.llama_backend_init()
        self.path, self.options = path, options
        self._rows: NDArray[np.float32] | None = None  # the engine's buffer for logits, a row for each place
        self._address = 0  # of `_rows`
        self._fresh = False  # whether the last step's logits are known to be there
        self._context: Any = None
        self._apart: Any = None  # opened by the first deterministic request
        self._adapters: dict[str, Any] = {}
        self._adapter: dict[bool, str | None] = {False: None, True: None}  # in use, by `apart`
        self.threads = options.thread_count
        self.model = _load_model(path, options)
        try:
            self.vocab = Vocab(self.model)
            self.info = _describe(self.model, path, options)
            self._abort_flag = ctypes.create_string_buffer(2)
            self.batch = Batch(options.batch_tokens)
            for name, adapter in options.adapters:  # the engine wants them before any context
                self._adapters[name] = _load_adapter(self.model, name, adapter)
            if self.info.generates:
                self._context = self._open_context(self.info.kv_tokens, self.scratch + 1)
                self._memory = native.llama_get_memory(self._context)
        except BaseException:
            self.close()
            raise

    @property
    def scratch(self) -> int:
        """The slot of a sequence that nobody reads. Slots below it can be computed: more than `slots`, for who is
        overtaken keeps its place. Slots above can hold what was computed."""
        return min(MAX_SLOTS, max(4, 2 * self.options.slots)) - 1

    @property
    def rewinds(self) -> bool:
        """Whether a sequence can be cut and shared: recurrent models keep one state for all that was read."""
        return not (native.llama_model_is_recurrent(self.model) or native.llama_model_is_hybrid(self.model))

    def decode(self, batch: Batch, *, apart: bool = False) -> None:
        """Compute `batch`, `apart` in the context for deterministic requests, which has one sequence, slot 0.

        Raises `NoSlot` (nothing changed), `Aborted`, or `SetupError` where the engine is broken.
        """
        self._fresh = False
        code = native.llama_decode(self._apart if apart else self._context, batch.raw)
        if code == 1:
            raise NoSlot(f"no room in the KV cache for {batch.size} tokens")
        if code == 2:
            raise Aborted("the step was stopped")
        if code != 0:
            raise SetupError(f"the engine could not compute a step (code {code!r})", hint="run `foreshore doctor`")

    def logits(self, row: int, *, apart: bool = False) -> NDArray[np.float32]:
        """Logits of the batch's `row`, shape (vocab_size,); a view that the next `decode` overwrites."""
        if not self._fresh:  # one call for all rows of a step
            self._fresh = True
            address = _logits_address(self._apart if apart else self._context)
            if address != self._address:
                self._address = address
                shape = ctypes.c_float * self.vocab.size * (self.scratch + 1 + MAX_DRAFTED)
                self._rows = np.ctypeslib.as_array(shape.from_address(address))
        assert self._rows is not None
        found: NDArray[np.float32] = self._rows[self.batch.places[row]]
        return found

    def begin_apart(self) -> None:
        """Make the context for deterministic requests empty: each one finds the same memory in the same order."""
        if self._apart is None:
            self._apart = self._open_context(self.info.context_tokens, 1)
        native.llama_memory_clear(native.llama_get_memory(self._apart), False)

    def use_adapter(self, name: str | None, *, apart: bool = False) -> None:
        """Apply the LoRA adapter `name`, or none, to all that is computed from now on."""
        if self._adapter[apart] == name:
            return
        context = self._apart if apart else self._context
        if name is None:
            native.llama_set_adapters_lora(context, None, 0, None)
        else:
            adapters = (type(self._adapters[name]) * 1)(self._adapters[name])
            native.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0))
        self._adapter[apart] = name

    def forget(self, slot: int, start: int = 0, *, apart: bool = False) -> None:
        """Drop what the sequence in `slot` holds from position `start` on."""
        native.llama_memory_seq_rm(native.llama_get_memory(self._apart) if apart else self._memory, slot, start, -1)

    def clear(self) -> None:
        """Nothing is held: begin at the front of the cache again, so that the same request finds the same order."""
        native.llama_memory_clear(self._memory, False)

    def share(self, source: int, target: int, tokens: int) -> None:
        """Let `target` begin with the first `tokens` of `source`, without copying them."""
        native.llama_memory_seq_cp(self._memory, source, target, 0, tokens)

    def held(self, slot: int) -> int:
        """Tokens in the cache for `slot`."""
        return int(native.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def state_bytes(self, slot: int) -> int:
        """The size of what `save` gives."""
        return int(native.llama_state_seq_get_size(self._context, slot))

    def save(self, slot: int) -> bytes:
        """The sequence's state, for `restore` into any slot of an engine with the same model and options."""
        if slot <= self.scratch:
            return self._state(slot)
        self.share(slot, self.scratch, self.held(slot))  # the engine writes states of slots that can be computed
        try:
            return self._state(self.scratch)
        finally:
            self.forget(self.scratch)

    def _state(self, slot: int) -> bytes:
        size = native.llama_state_seq_get_size(self._context, slot)
        buffer = (ctypes.c_uint8 * size)()
        written = native.llama_state_seq_get_data(self._context, buffer, size, slot)
        return ctypes.string_at(buffer, written)

    def restore(self, slot: int, state: bytes) -> None:
        """Raises `NoSlot` where the state does not fit."""
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if native.llama_state_seq_set_data(self._context, buffer, len(state), slot) == 0:
            raise NoSlot(f"no room in the KV cache for a saved sequence of {len(state)} bytes")

    def abort(self, stop: bool = True) -> None:
        """Make the running decode end early with `Aborted`; `abort(False)` re-arms. From any thread."""
        self._abort_flag[0] = b"\x01" if stop else b"\0"

    def set_threads(self, threads: int) -> None:
        # Two or more sequences in a step count as a batch, so both numbers matter while decoding.
        # The context for deterministic requests keeps its number: sums are split by it.
        self.threads = threads
        native.llama_set_n_threads(self._context, threads, threads)

    def metadata(self, key: str) -> str | None:
        return read_metadata(self.model, key)

    def template(self) -> str | None:
        raw = native.llama_model_chat_template(self.model, None)
        return None if raw is None else raw.decode("utf-8", "replace")

    def warm_up(self) -> None:
        """Compute one token, so that weights are read and a build that crashes does so before the first request."""
        if self._context is None:
            return
        self.batch.clear()
        row = self.batch.add([self.vocab.first_token()], start=0, slot=0, wanted=1)
        self.decode(self.batch)
        self.logits(row)
        self.forget(0)

    def close(self) -> None:
        for context in (self._context, self._apart):
            if context is not None:
                native.llama_free(context)
        self._context = self._apart = None
        if self.model is not None:
            native.llama_model_free(self.model)
            self.model = None

    def _open_context(self, tokens: int, slots: int) -> Any:
        options, params = self.options, native.llama_context_default_params()
        params.n_ctx = tokens
        params.n_batch = params.n_ubatch = options.batch_tokens
        # A unified cache tells 256 sequences apart whatever this says; only these can be computed.
        params.n_seq_max = slots
        # One row of logits a sequence, and for drafts; the default reserves a row for each token of a batch.
        params.n_outputs_max = slots + (0 if options.speculation == "off" else MAX_DRAFTED)
        params.n_threads = params.n_threads_batch = self.info.threads
        params.flash_attn_type = _FLASH[options.flash_attention]
        params.type_k = params.type_v = _GGML_TYPES[options.kv_type]
        params.kv_unified = True  # sequences share cells, so that prefixes can be shared without a copy
        params.pooling_type = _POOLING_NONE
        params.no_perf = True
        # The callback is asked at each node of the graph. `strlen` over a byte of ours answers
        # it (0 or 1) in C, so that no node waits for Python's lock.
        params.abort_callback = ctypes.cast(_libc.strlen, native.ggml_abort_callback)
        params.abort_callback_data = ctypes.addressof(self._abort_flag)
        context = native.llama_init_from_model(self.model, params)
        if not context:
            raise SetupError(
                f"no context of {tokens} tokens could be made for {self.info.name!r}",
                hint="choose fewer kv_tokens or slots, kv_type f16, or flash_attention auto",
            )
        return context


def read_metadata(model: Any, key: str) -> str | None:
    """A value of the GGUF header as text, or `None`."""
    room = 4096
    buffer = ctypes.create_string_buffer(room)
    length = native.llama_model_meta_val_str(model, key.encode(), buffer, room)
    if length < 0:
        return None
    if length >= room:
        buffer = ctypes.create_string_buffer(length + 1)
        native.llama_model_meta_val_str(model, key.encode(), buffer, length + 1)
    return buffer.value.decode("utf-8", "replace")


def _load_model(path: Path, options: EngineOptions) -> Any:
    params = native.llama_model_default_params()
    params.n_gpu_layers = options.gpu_layers
    params.load_mode = native.LLAMA_LOAD_MODE_MMAP if options.mmap else native.LLAMA_LOAD_MODE_NONE
    model = native.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise ModelError(f"the engine cannot load {path.name!r}", hint="its log says why: `foreshore doctor`")
    return model


def _load_adapter(model: Any, name: str, path: str) -> Any:
    adapter = native.llama_adapter_lora_init(model, str(Path(path).expanduser()).encode())
    if not adapter:
        raise ModelError(
            f"the LoRA adapter {name!r} cannot be loaded from {Path(path).name!r}",
            hint="it must be a .gguf made for this very model",
        )
    return adapter


def _describe(model: Any, path: Path, options: EngineOptions) -> ModelInfo:
    trained = int(native.llama_model_n_ctx_train(model))
    generates = bool(native.llama_model_has_decoder(model)) and not _is_encoder(model)
    context = min(options.context_tokens or min(trained, DEFAULT_CONTEXT), trained)
    kv_tokens = _kv_tokens(model, context, options) if generates else 0
    vocab = native.llama_model_get_vocab(model)
    return ModelInfo(
        name=read_metadata(model, "general.name") or path.stem,
        architecture=read_metadata(model, "general.architecture") or "unknown",
        quantization=_quantization(model),
        parameters=int(native.llama_model_n_params(model)),
        size_bytes=int(native.llama_model_size(model)),
        vocab_size=int(native.llama_vocab_n_tokens(vocab)),
        trained_context_tokens=trained,
        context_tokens=min(context, kv_tokens) if generates else context,
        kv_tokens=kv_tokens,
        embedding_tokens=context,
        embedding_size=int(native.llama_model_n_embd_out(model)),
        slots=options.slots,
        threads=options.thread_count,
        chat=generates and native.llama_model_chat_template(model, None) is not None,
        generates=generates,
        adapters=tuple(name for name, _ in options.adapters),
        system=native.llama_print_system_info().decode().strip(" |"),
    )


def _kv_tokens(model: Any, context: int, options: EngineOptions) -> int:
    if options.kv_tokens is not None:
        return options.kv_tokens
    heads = int(native.llama_model_n_head(model)) or 1
    width = int(native.llama_model_n_embd(model)) // heads
    with suppress(TypeError, ValueError):
        arch = read_metadata(model, "general.architecture")
        width = int(read_metadata(model, f"{arch}.attention.key_length") or width)
    cell = 4 * int(native.llama_model_n_layer(model)) * int(native.llama_model_n_head_kv(model)) * width
    return max(context, min(options.slots * context, KV_BYTES // max(1, cell)))


def _is_encoder(model: Any) -> bool:
    """BERT and its kin: attention that is not causal, so that there is nothing to decode."""
    arch = read_metadata(model, "general.architecture") or ""
    return read_metadata(model, f"{arch}.attention.causal") == "false"


def _quantization(model: Any) -> str:
    buffer = ctypes.create_string_buffer(128)
    native.llama_model_desc(model, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")
