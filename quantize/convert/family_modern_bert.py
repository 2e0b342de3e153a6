"""ModernBERT: rotated positions, layers that see only a window, gated feed-forward, no biases."""

from __future__ import annotations

from gguf import MODEL_ARCH, GGUFWriter

from foreshore.quantize.convert.family import Family
from foreshore.quantize.convert.family_bert import encoder_header
from foreshore.quantize.convert.hf_config import Config, Shape, blocks, must, number

__all__ = ["MODERN_BERT"]

# What transformers takes where config.json is silent.
_DEFAULTS: Config = {
    "max_position_embeddings": 8192,
    "global_attn_every_n_layers": 3,
    "local_attention": 128,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
}


def _settings(config: Config) -> Config:
    """transformers 5 nests both rotations in one entry."""
    found = {**_DEFAULTS, **config}
    if both := config.get("rope_parameters"):
        found |= {"global_rope_theta": both["full_attention"]["rope_theta"]}
        found |= {"local_rope_theta": both["sliding_attention"]["rope_theta"]}
    return found


def _header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    must(config, "hidden_activation", ("gelu",), "gelu")
    for key in ("norm_bias", "attention_bias", "mlp_bias"):
        must(config, key, (False,), False)
    encoder_header(writer, config, float(config.get("norm_eps", 1e-5)))
    writer.add_context_length(number(config, "max_position_embeddings"))
    writer.add_sliding_window(number(config, "local_attention"))
    writer.add_sliding_window_pattern(number(config, "global_attn_every_n_layers"))
    writer.add_rope_freq_base(float(config["global_rope_theta"]))
    writer.add_rope_freq_base_swa(float(config["local_rope_theta"] or config["global_rope_theta"]))
    return ()


def _required(config: Config) -> dict[str, Shape]:
    hidden, ff = number(config, "hidden_size"), number(config, "intermediate_size")
    shapes: dict[str, Shape] = {
        "token_embd.weight": (-1, hidden),
        "token_embd_norm.weight": (hidden,),
        "output_norm.weight": (hidden,),
    }
    for block in blocks(config):
        shapes |= {
            f"{block}.attn_norm.weight": (hidden,),
            f"{block}.attn_qkv.weight": (3 * hidden, hidden),
            f"{block}.attn_output.weight": (hidden, hidden),
            f"{block}.ffn_norm.weight": (hidden,),
            f"{block}.ffn_up.weight": (2 * ff, hidden),
            f"{block}.ffn_down.weight": (hidden, ff),
        }
    del shapes["blk.0.attn_norm.weight"]  # the embedding was normed just before
    return shapes


def _rename(name: str) -> tuple[str, ...]:
    name = name.removeprefix("model.")
    return () if name.startswith(("head.", "decoder.")) else (name,)


MODERN_BERT = Family(
    arch=MODEL_ARCH.MODERN_BERT, header=_header, required=_required, settings=_settings, rename=_rename
)
