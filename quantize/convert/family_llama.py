"""Llama and the families that differ from it in a line: Mistral, SmolLM, Qwen2, Qwen3, Granite, SmolLM3."""

from __future__ import annotations

from dataclasses import replace

from gguf import MODEL_ARCH, GGUFWriter

from foreshore.errors import ModelError
from foreshore.quantize.convert.family import Family
from foreshore.quantize.convert.hf_config import Config, Shape, blocks, heads, must, number
from foreshore.quantize.convert.rotary import llama3_factors, rope_header, rope_size

__all__ = [
    "GRANITE",
    "GRANITE4",
    "LLAMA",
    "QWEN2",
    "QWEN3",
    "SMOLLM3",
    "decoder_header",
    "decoder_required",
    "head_norms",
    "sizes_header",
]


def decoder_header(writer: GGUFWriter, config: Config, ropes: tuple[str, ...] = ("linear", "yarn")) -> tuple[str, ...]:
    must(config, "hidden_act", ("silu",), "silu")
    size = heads(config)[2]
    if rope_size(config) != size and "longrope" not in ropes:  # only Phi rotates a part of each head
        raise ModelError(f"config.json has a partial_rotary_factor: {rope_size(config)} of {size} values are rotated")
    notes = _context_header(writer, config)
    sizes_header(writer, config)
    rope_header(writer, config, ropes)
    return notes


def sizes_header(writer: GGUFWriter, config: Config) -> None:
    """What every decoder has."""
    n_heads, n_kv, size = heads(config)
    writer.add_embedding_length(number(config, "hidden_size"))
    writer.add_block_count(number(config, "num_hidden_layers"))
    writer.add_feed_forward_length(number(config, "intermediate_size"))
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))


def _context_header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    """llama.cpp attends to the whole context in these families, so a sliding window is its limit."""
    context, window = number(config, "max_position_embeddings"), config.get("sliding_window")
    if window and config.get("use_sliding_window", True) and window < context:
        writer.add_context_length(int(window))
        return (f"the context is {window} tokens, the model's sliding window, instead of {context}",)
    writer.add_context_length(context)
    return ()


def decoder_required(config: Config) -> dict[str, Shape]:
    hidden, ff = number(config, "hidden_size"), number(config, "intermediate_size")
    n_heads, n_kv, size = heads(config)
    shapes: dict[str, Shape] = {"token_embd.weight": (-1, hidden), "output_norm.weight": (hidden,)}
    if not config.get("tie_word_embeddings", False):
        shapes["output.weight"] = (-1, hidden)
    for block in blocks(config):
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


def _llama_header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    return decoder_header(writer, config, ("linear", "yarn", "llama3"))


def head_norms(config: Config) -> dict[str, Shape]:
    """The norms of each query's and key's head."""
    size = heads(config)[2]
    return {f"{block}.attn_{qk}_norm.weight": (size,) for block in blocks(config) for qk in "qk"}


def _qwen3_required(config: Config) -> dict[str, Shape]:
    return decoder_required(config) | head_norms(config)


def _qkv_biases(config: Config) -> dict[str, Shape]:
    n_heads, n_kv, size = heads(config)
    rows = {"q": n_heads * size, "k": n_kv * size, "v": n_kv * size}
    return {f"{block}.attn_{x}.bias": (n,) for block in blocks(config) for x, n in rows.items()}


def _llama_biases(config: Config) -> dict[str, Shape]:
    hidden, ff = number(config, "hidden_size"), number(config, "intermediate_size")
    rows = {"attn_output": hidden, "ffn_gate": ff, "ffn_up": ff, "ffn_down": hidden}
    return _qkv_biases(config) | {f"{b}.{x}.bias": (n,) for b in blocks(config) for x, n in rows.items()}


def _granite_header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    for key in ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"):
        if not isinstance(value := config.get(key, 1.0), (int, float)) or not 0 < value < 1e9:
            raise ModelError(f"config.json has {key} {value!r}, not a positive number")
    notes = decoder_header(writer, config, ("linear", "yarn", "llama3"))
    writer.add_attention_scale(float(config.get("attention_multiplier", 1.0)))
    writer.add_embedding_scale(float(config.get("embedding_multiplier", 1.0)))
    writer.add_residual_scale(float(config.get("residual_multiplier", 1.0)))
    writer.add_logit_scale(float(config.get("logits_scaling", 1.0)))
    return notes


def _granite4_settings(config: Config) -> Config:
    """Granite 4 without the layers and experts that gave the architecture its name: 350M, 1B and micro."""
    kinds = sorted(set(config.get("layer_types") or config.get("layers_block_type") or ("mamba",)))
    if kinds != ["attention"] or config.get("num_local_experts", 8):
        raise ModelError(
            f"config.json has layers of {' and '.join(kinds)} with {config.get('num_local_experts', 8)} experts",
            hint="of Granite 4, the models of attention alone and without experts can be converted",
        )
    must(config, "position_embedding_type", ("rope",), None)
    return {**config, "intermediate_size": config["shared_intermediate_size"]}


def _granite_rename(name: str) -> tuple[str, ...]:
    """Granite 4 names its feed-forward after the experts that it stands beside in larger models."""
    if ".shared_mlp.input_linear." in name:  # the gate, then what it gates
        return tuple(name.replace("shared_mlp.input_linear", f"mlp.{part}_proj") for part in ("gate", "up"))
    return (name.replace("shared_mlp.output_linear", "mlp.down_proj"),)


def _smollm3_settings(config: Config) -> Config:
    return {"tie_word_embeddings": True, "use_sliding_window": False, "rope_theta": 2000000.0, **config}


def _smollm3_header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    """llama.cpp leaves every fourth layer unrotated, whatever the file says."""
    layers = number(config, "num_hidden_layers")
    fourth = [int((i + 1) % 4 != 0) for i in range(layers)]
    if config.get("no_rope_layers") is None:
        must(config, "no_rope_layer_interval", (4,), 4)
    elif list(config["no_rope_layers"]) != fourth:
        raise ModelError("config.json has no_rope_layers other than every fourth, which llama.cpp cannot follow")
    return decoder_header(writer, config)


LLAMA = Family(
    arch=MODEL_ARCH.LLAMA,
    header=_llama_header,
    required=decoder_required,
    optional=_llama_biases,
    computed=llama3_factors,
    permute_qk=True,
)
QWEN2 = Family(arch=MODEL_ARCH.QWEN2, header=decoder_header, required=decoder_required, optional=_qkv_biases)
QWEN3 = Family(arch=MODEL_ARCH.QWEN3, header=decoder_header, required=_qwen3_required, optional=_qkv_biases)
GRANITE = Family(
    arch=MODEL_ARCH.GRANITE,
    header=_granite_header,
    required=decoder_required,
    optional=_llama_biases,
    rename=_granite_rename,
    computed=llama3_factors,
    permute_qk=True,
)
GRANITE4 = replace(GRANITE, settings=_granite4_settings)
SMOLLM3 = Family(
    arch=MODEL_ARCH.SMOLLM3,
    header=_smollm3_header,
    required=decoder_required,
    settings=_smollm3_settings,
    permute_qk=True,
)
