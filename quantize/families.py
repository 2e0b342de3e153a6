"""The model families that can be converted: what each writes into a GGUF header, and the tensors it must have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType
from numpy.typing import NDArray

from foreshore.errors import ModelError

__all__ = ["FAMILIES", "Family", "family_of"]

Config = Mapping[str, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`required` and `optional` map GGUF tensor names to shapes, rows first; the vocabulary's row count is -1."""

    arch: MODEL_ARCH
    header: Callable[[GGUFWriter, Config], tuple[str, ...]]  # writes the keys, returns notes
    required: Callable[[Config], dict[str, Shape]]
    optional: Callable[[Config], dict[str, Shape]]
    permute_qk: bool = False  # llama.cpp rotates neighbouring pairs of a Llama head, Hugging Face its two halves


def family_of(config: Config) -> Family:
    """Raises `ModelError` that lists what is supported."""
    name = str(next(iter(config.get("architectures") or ()), "unknown"))
    if name not in FAMILIES:
        raise ModelError(
            f"models of the architecture {name!r} cannot be converted",
            hint=f"supported are {', '.join(FAMILIES)}; any architecture that llama.cpp runs can be given as .gguf",
        )
    family = FAMILIES[name]
    if rope_kind(config) == "llama3" and family.arch != MODEL_ARCH.LLAMA:
        raise ModelError(f"{name} with the rope scaling 'llama3' cannot be converted", hint="only Llama has it")
    return family


def number(config: Config, key: str, default: int | None = None) -> int:
    """A positive integer of config.json. Raises `ModelError`."""
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ModelError(f"config.json has {key} {value!r}, not a positive number")
    return value


def heads(config: Config) -> tuple[int, int, int]:
    """Query heads, key-value heads, head size."""
    n_heads = number(config, "num_attention_heads")
    n_kv = number(config, "num_key_value_heads", n_heads)
    size = number(config, "head_dim", number(config, "hidden_size") // n_heads or None)
    if n_heads % n_kv:
        raise ModelError(f"config.json has {n_heads} heads that do not divide among {n_kv} key-value heads")
    return n_heads, n_kv, size


def rope(config: Config) -> dict[str, Any]:
    """Rotary parameters, from today's `rope_parameters` or the older `rope_theta` and `rope_scaling`."""
    if found := config.get("rope_parameters"):
        return {"rope_theta": 10000.0, **found}
    return {"rope_theta": config.get("rope_theta", 10000.0), **(config.get("rope_scaling") or {})}


def rope_kind(config: Config) -> str:
    params = rope(config)
    return str(params.get("rope_type") or params.get("type") or "default")


def rope_factors(config: Config) -> NDArray[np.float32] | None:
    """Llama 3.1's divisors of the rotary frequencies, one for each pair of a head; `None` for other kinds.

    Long wavelengths are stretched by `factor`, short ones kept, with a linear ramp between, as in
    `_compute_llama3_parameters` of transformers.
    """
    if rope_kind(config) != "llama3":
        return None
    params = rope(config)
    size = heads(config)[2]
    wavelength = 2 * math.pi * params["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float64) / size)
    old, factor = params["original_max_position_embeddings"], params["factor"]
    low, high = params["low_freq_factor"], params["high_freq_factor"]
    smooth = np.clip((old / wavelength - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - smooth) / factor + smooth), dtype=np.float32)


def _decoder_header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    _must(config, "hidden_act", ("silu",), "silu")
    n_heads, n_kv, size = heads(config)
    context, notes = _context(config)
    writer.add_context_length(context)
    writer.add_embedding_length(number(config, "hidden_size"))
    writer.add_block_count(number(config, "num_hidden_layers"))
    writer.add_feed_forward_length(number(config, "intermediate_size"))
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    writer.add_rope_dimension_count(size)
    _rope_header(writer, config)
    return notes


def _rope_header(writer: GGUFWriter, config: Config) -> None:
    params, kind = rope(config), rope_kind(config)
    if params.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelError(
            f"config.json has partial_rotary_factor {params['partial_rotary_factor']!r}; only 1 is supported"
        )
    writer.add_rope_freq_base(float(params["rope_theta"]))
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(params["factor"]))
    elif kind == "yarn":
        _must(params, "attention_factor", (None,), None)
        _must(params, "mscale", (None,), None)
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(params["factor"]))
        original = params.get("original_max_position_embeddings") or number(config, "max_position_embeddings")
        writer.add_rope_scaling_orig_ctx_len(int(original))
        writer.add_rope_scaling_yarn_beta_fast(float(params.get("beta_fast") or 32.0))
        writer.add_rope_scaling_yarn_beta_slow(float(params.get("beta_slow") or 1.0))
    elif kind not in ("default", "llama3"):
        raise ModelError(
            f"rope scaling of the kind {kind!r} cannot be converted", hint="supported: linear, yarn, llama3"
        )


def _context(config: Config) -> tuple[int, tuple[str, ...]]:
    """The context length; llama.cpp attends to all of it, so a sliding window is its limit."""
    context, window = number(config, "max_position_embeddings"), config.get("sliding_window")
    if window and config.get("use_sliding_window", True) and window < context:
        return int(window), (f"the context is {window} tokens, the model's sliding window, instead of {context}",)
    return context, ()


def _decoder_required(config: Config) -> dict[str, Shape]:
    hidden, ff = number(config, "hidden_size"), number(config, "intermediate_size")
    n_heads, n_kv, size = heads(config)
    shapes: dict[str, Shape] = {"token_embd.weight": (-1, hidden), "output_norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings", False):
        shapes["output.weight"] = (-1, hidden)
    for block in _blocks(config):
        shapes |= {
            f"{block}.attn_norm.weight": (hidden,),
            f"{block}.attn_q.weight": (n_heads * size, hidden),
            f"{block}.attn_k.weight": (n_kv * size, hidden),
            f"{block}.attn_v.weight": (n_kv * size, hidden),
            f"{block}.attn_output.weight": (hidden, n_heads * size),
            f"{block}.ffn_norm.weight": (hidden,),
            f"{block}.ffn_gate.weight": (ff, hidden),
            f"{block}.ffn_up.weight": (ff, hidden),
            f"{block}.ffn_down.weight": (hidden, ff),
        }
    return shapes


def _qwen3_required(config: Config) -> dict[str, Shape]:
    size = heads(config)[2]
    norms = {f"{block}.attn_{qk}_norm.weight": (size,) for block in _blocks(config) for qk in "qk"}
    return _decoder_required(config) | norms


def _qkv_biases(config: Config) -> dict[str, Shape]:
    n_heads, n_kv, size = heads(config)
    rows = {"q": n_heads * size, "k": n_kv * size, "v": n_kv * size}
    return {f"{block}.attn_{x}.bias": (n,) for block in _blocks(config) for x, n in rows.items()}


def _llama_biases(config: Config) -> dict[str, Shape]:
    hidden, ff = number(config, "hidden_size"), number(config, "intermediate_size")
    rows = {"attn_output": hidden, "ffn_gate": ff, "ffn_up": ff, "ffn_down": hidden}
    return _qkv_biases(config) | {f"{b}.{x}.bias": (n,) for b in _blocks(config) for x, n in rows.items()}


def _bert_header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    _must(config, "hidden_act", ("gelu",), "gelu")
    _must(config, "position_embedding_type", ("absolute",), "absolute")
    writer.add_context_length(number(config, "max_position_embeddings"))
    writer.add_embedding_length(number(config, "hidden_size"))
    writer.add_block_count(number(config, "num_hidden_layers"))
    writer.add_feed_forward_length(number(config, "intermediate_size"))
    writer.add_head_count(number(config, "num_attention_heads"))
    writer.add_layer_norm_eps(float(config.get("layer_norm_eps", 1e-12)))
    writer.add_causal_attention(False)
    writer.add_token_type_count(number(config, "type_vocab_size", 2))
    return ()


def _bert_required(config: Config) -> dict[str, Shape]:
    hidden, ff = number(config, "hidden_size"), number(config, "intermediate_size")
    shapes: dict[str, Shape] = {
        "token_embd.weight": (-1, hidden),
        "position_embd.weight": (number(config, "max_position_embeddings"), hidden),
        "token_types.weight": (number(config, "type_vocab_size", 2), hidden),
        **_with_bias("token_embd_norm", (hidden,)),
    }
    for block in _blocks(config):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= _with_bias(f"{block}.{name}", (hidden, hidden))
        shapes |= _with_bias(f"{block}.attn_output_norm", (hidden,)) | _with_bias(
            f"{block}.layer_output_norm", (hidden,)
        )
        shapes |= _with_bias(f"{block}.ffn_up", (ff, hidden)) | _with_bias(f"{block}.ffn_down", (hidden, ff))
    return shapes


def _with_bias(name: str, shape: Shape) -> dict[str, Shape]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _blocks(config: Config) -> Iterator[str]:
    return (f"blk.{i}" for i in range(number(config, "num_hidden_layers")))


def _must(config: Config, key: str, allowed: tuple[Any, ...], default: Any) -> None:
    value = config.get(key, default)
    if value not in allowed:
        raise ModelError(f"config.json has {key} {value!r}; supported is {allowed[0]!r}")


def _nothing(config: Config) -> dict[str, Shape]:
    return {}


_LLAMA = Family(
    arch=MODEL_ARCH.LLAMA,
    header=_decoder_header,
    required=_decoder_required,
    optional=_llama_biases,
    permute_qk=True,
)
_QWEN2 = Family(arch=MODEL_ARCH.QWEN2, header=_decoder_header, required=_decoder_required, optional=_qkv_biases)
_QWEN3 = Family(arch=MODEL_ARCH.QWEN3, header=_decoder_header, required=_qwen3_required, optional=_qkv_biases)
_BERT = Family(arch=MODEL_ARCH.BERT, header=_bert_header, required=_bert_required, optional=_nothing)

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": _QWEN2,
    "Qwen3ForCausalLM": _QWEN3,
    "BertModel": _BERT,
    "BertForMaskedLM": _BERT,
}
