"""How much memory a model will take, from its file's header alone.

Formulas follow llama.cpp: `llama_kv_cache` for the cache's tensors, `ggml_repack_get_optimal_repack_type` for the
weights it copies into another order, and for the buffers of a step what `llama_context` reserved for models of several
shapes (benchmarks/LOG.md has them beside the measured sizes).
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from foreshore.edge.gguf import TENSOR_TYPES, GgufInfo, Tensor, inspect
from foreshore.edge.onnx.folder import OnnxFolder, open_folder
from foreshore.edge.onnx.info import context_tokens, kv_tokens, piece_tokens
from foreshore.edge.options import DEFAULT_CONTEXT, EngineOptions

__all__ = ["Estimate", "estimate", "estimate_gguf", "gib"]

PROCESS = 60_000_000  # a worker before it has a model: the interpreter, numpy and the engine's libraries
WORD = 200  # a token of the vocabulary: the engine's tables and ours
KV_BYTES = 1 << 30  # what the cache may take by default; edge/engine.py plans with the same number
KV_PAD = 256  # llama_context pads n_ctx to this
DRAFTED = 16  # rows of logits for drafts, edge/engine.py's MAX_DRAFTED
ONNX_PROCESS = 110_000_000  # the same with ONNX Runtime and its tokenizer
ONNX_ARENA = 1.3  # ONNX Runtime keeps some prepacked weights beside the file's bytes
ONNX_SCORES = 6  # tensors of attention scores that its arena comes to hold (measured: 5 to 8)
_BYTES = {name: size / block for name, block, size in TENSOR_TYPES.values()}
_REPACKED = {  # by machine, what the CPU backend copies into its own order
    "x86": ("q4_0", "q4_k", "q2_k", "iq4_nl", "mxfp4"),
    "arm": ("q4_0", "q4_k", "q5_k", "q6_k", "q8_0", "iq4_nl", "mxfp4"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Bytes. `mapped` is the part of `weights` that are the file's own pages, which the kernel shares and may drop."""

    weights: int
    cache: int
    buffers: int  # of one step, and the process around it
    mapped: int = 0
    kv_tokens: int = 0
    cell: int = 0  # bytes of `cache` for one token
    mask_cell: int = 0  # bytes of `buffers` for one token of the cache
    smaller_cache: int = 0  # what `cache` would be with kv_type q8_0; 0 if that is not less

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.buffers

    def __str__(self) -> str:
        parts = {"weights": self.weights, "cache": self.cache, "buffers": self.buffers}
        return f"{gib(self.total)} ({', '.join(f'{name} {gib(size)}' for name, size in parts.items())})"


def estimate(path: Path, options: EngineOptions) -> Estimate:
    """What a worker with the model at `path` will hold. Raises `NotFound` or `ModelError` as `inspect` does.

    Not in it, for they come only on demand: `park_bytes`, `prefix_cache_bytes`, the context of deterministic requests.
    """
    if path.suffix.lower() != ".gguf":
        return _onnx(path, options)
    made = estimate_gguf(inspect(path), options)
    if options.draft_model is None:
        return made
    draft = estimate_gguf(inspect(Path(options.draft_model).expanduser()), options, kv_tokens=made.kv_tokens)
    return Estimate(
        weights=made.weights + draft.weights,
        cache=made.cache + draft.cache,
        buffers=made.buffers + draft.buffers - PROCESS,
        mapped=made.mapped + draft.mapped,
        kv_tokens=made.kv_tokens,
        cell=made.cell + draft.cell,
        mask_cell=made.mask_cell + draft.mask_cell,
        smaller_cache=made.smaller_cache + draft.smaller_cache,
    )


def gib(size: int) -> str:
    """`size` bytes for people: in GiB from half of one on, else in MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.0f} MiB"


def estimate_gguf(info: GgufInfo, options: EngineOptions, *, kv_tokens: int | None = None) -> Estimate:
    """Of the model in a GGUF file; `kv_tokens` of its cache, where another model's says how many."""
    decoder = info.get(".attention.causal", True) is not False
    cell, smaller = _cell(info, options.kv_type), _cell(info, "q8_0")
    tokens = (kv_tokens or _kv_tokens(info, options)) if decoder else 0
    on_host = _host_share(info, options)
    file = sum(t.nbytes for t in info.tensors)
    copied = sum(_copied(info, options)) if options.gpu_layers == 0 else 0
    adapters = sum(Path(path).expanduser().stat().st_size for _, path in options.adapters)
    return Estimate(
        weights=int(on_host * (file + copied)) + adapters,
        cache=int(on_host * _padded(tokens) * cell) + (_states(info, options) if decoder else 0),
        buffers=PROCESS + WORD * info.vocab_size + _buffers(info, options, tokens),
        mapped=int(on_host * file) if options.mmap else 0,
        kv_tokens=tokens,
        cell=int(on_host * cell),
        mask_cell=_mask_cell(options),
        smaller_cache=int(on_host * _padded(tokens) * smaller) if smaller < cell else 0,
    )


def _onnx(path: Path, options: EngineOptions) -> Estimate:
    """Keys and values come and go with the requests; while a step runs they are there twice (edge/onnx/info.py)."""
    folder = open_folder(path)
    size, cell = folder.file.size_bytes, folder.file.token_bytes
    context = context_tokens(folder, options) if cell else 0
    tokens = kv_tokens(options, context, cell) if cell else 0
    return Estimate(
        weights=size,
        cache=2 * tokens * cell,
        buffers=ONNX_PROCESS + int((ONNX_ARENA - 1) * size) + _onnx_step(folder, options, min(context, tokens)),
        kv_tokens=tokens,
        cell=2 * cell,
    )


def _onnx_step(folder: OnnxFolder, options: EngineOptions, context: int) -> int:
    """A piece of a prompt at the end of the context: its logits, and each head's scores over all before it."""
    heads, vocab = (_count(folder.config, *names) for names in (("num_attention_heads", "n_head"), ("vocab_size",)))
    piece = min(options.batch_tokens, piece_tokens(vocab))
    return 4 * piece * (vocab + ONNX_SCORES * heads * context) if context else 0


def _count(config: Mapping[str, object], *names: str) -> int:
    return next((v for n in names if type(v := config.get(n)) is int and v > 0), 1)


def _cell(info: GgufInfo, kv_type: str) -> int:
    """Bytes of the cache for one token: a key and a value in each layer that attends."""
    layers, heads = info.block_count, _per_layer(info, ".attention.head_count")
    width = info.embedding_length // max(1, heads[0])
    key, value = _whole(info, ".attention.key_length", width), _whole(info, ".attention.value_length", width)
    kv_heads = _per_layer(info, ".attention.head_count_kv", heads)
    # Latent attention keeps one compressed row, from which both are made (`is_mla` in llama.cpp).
    latent = info.get(".attention.kv_lora_rank") is not None and info.get(".attention.key_length_mla") is not None
    shared = _whole(info, ".attention.shared_kv_layers", 0)
    attending = kv_heads[: max(1, layers - shared)]
    return int(sum(n * (key if latent else key + value) for n in attending) * _BYTES[kv_type])


def _kv_tokens(info: GgufInfo, options: EngineOptions) -> int:
    """As the engine chooses them: what was asked for, else a context for each slot within `KV_BYTES`."""
    if options.kv_tokens is not None:
        return options.kv_tokens
    context = min(options.context_tokens or min(info.context_length, DEFAULT_CONTEXT), info.context_length)
    return max(context, min(options.slots * context, KV_BYTES // max(1, _engines_cell(info))))


def _engines_cell(info: GgufInfo) -> int:
    """The engine's own, coarser measure of a token: f16, and as many heads in each layer as in the first."""
    heads = _per_layer(info, ".attention.head_count")
    width = _whole(info, ".attention.key_length", info.embedding_length // max(1, heads[0]))
    return 4 * info.block_count * _per_layer(info, ".attention.head_count_kv", heads)[0] * width


def _states(info: GgufInfo, options: EngineOptions) -> int:
    """Recurrent layers keep one state a sequence, in f32, whatever its length (`n_embd_r` and `n_embd_s`)."""
    inner, state = _whole(info, ".ssm.inner_size", 0), _whole(info, ".ssm.state_size", 0)
    if not inner:
        return 0
    convolution = (_whole(info, ".ssm.conv_kernel", 1) - 1) * (inner + 2 * _whole(info, ".ssm.group_count", 0) * state)
    kv_heads = _per_layer(info, ".attention.head_count_kv", (0,) * info.block_count)
    recurrent = sum(n == 0 for n in kv_heads) or info.block_count
    return 4 * recurrent * 2 * options.slots * (convolution + state * inner)


def _buffers(info: GgufInfo, options: EngineOptions, kv_tokens: int) -> int:
    """Activations of a full batch, the mask or the scores over the cache, and the rows of logits."""
    inner = max(_per_layer(info, ".feed_forward_length", (4 * info.embedding_length,)))
    batch, rows = options.batch_tokens, 2 * options.slots + (0 if options.speculation == "off" else DRAFTED)
    activations = 4 * batch * (2 * inner + 9 * info.embedding_length)
    if options.flash_attention == "off":
        mask = _mask_cell(options) * _padded(kv_tokens)
        scores = mask * max(_per_layer(info, ".attention.head_count"))
    else:
        mask, scores = _mask_cell(options) * _padded(kv_tokens), 0
    logits = 2 * 4 * rows * info.vocab_size if kv_tokens else 0  # where they are computed, and where they are read
    return mask + max(activations, scores) + logits


def _mask_cell(options: EngineOptions) -> int:
    """For each token of a batch the mask says which tokens of the cache it sees: f16, without flash attention f32."""
    return (4 if options.flash_attention == "off" else 2) * options.batch_tokens


def _copied(info: GgufInfo, options: EngineOptions) -> Iterable[int]:
    """Bytes of what the CPU backend holds in another order beside what the file has: all that it can where the file is
    mapped, and embeddings that serve as the output too."""
    machine = "arm" if platform.machine().lower() in ("arm64", "aarch64") else "x86"
    tied = all(t.name != "output.weight" for t in info.tensors)
    for tensor in info.tensors:
        embedding = tensor.name == "token_embd.weight"
        if _repacked(tensor, machine) and (tied if embedding else options.mmap):
            yield tensor.nbytes


def _repacked(tensor: Tensor, machine: str) -> bool:
    return len(tensor.shape) >= 2 and tensor.type in _REPACKED[machine] and tensor.shape[1] % 8 == 0


def _host_share(info: GgufInfo, options: EngineOptions) -> float:
    """The part of weights and cache that lies in this machine's memory; Apple's accelerators share it."""
    if options.gpu_layers == 0 or sys.platform == "darwin":
        return 1.0
    return 0.0 if options.gpu_layers < 0 else max(0.0, 1 - options.gpu_layers / max(1, info.block_count))


def _whole(info: GgufInfo, key: str, default: int) -> int:
    """A count of the header; what is none counts as missing, for the engine itself will say so."""
    value = info.get(key)
    return value if type(value) is int and value >= 0 else default


def _per_layer(info: GgufInfo, key: str, default: tuple[int, ...] = (1,)) -> tuple[int, ...]:
    """A number for each layer: the header has one for all, or an array."""
    value = info.get(key)
    found = value if isinstance(value, tuple) else (value,)
    counts = tuple(v for v in found if type(v) is int and v >= 0)
    counts = counts if counts and len(counts) == len(found) else default
    return counts * info.block_count if len(counts) == 1 else counts


def _padded(tokens: int) -> int:
    return (tokens + KV_PAD - 1) // KV_PAD * KV_PAD
