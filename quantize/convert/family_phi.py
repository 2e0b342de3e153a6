"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini: queries, keys and values in one matrix, gate and up in another."""

from __future__ import annotations

from gguf import MODEL_ARCH, GGUFWriter

from foreshore.errors import ModelError
from foreshore.quantize.convert.family import Family
from foreshore.quantize.convert.family_llama import decoder_header, decoder_required
from foreshore.quantize.convert.hf_config import Config, Shape, blocks, heads, number
from foreshore.quantize.convert.rotary import longrope_factors, rope, rope_kind

__all__ = ["PHI3"]


def _settings(config: Config) -> Config:
    """The first Phi-3 called their scaling `su`, and `yarn` what was longrope too (transformers reads it so)."""
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type") in ("su", "yarn"):
        scaling = {**scaling, "type": "longrope", "rope_type": "longrope"}
    return {**config, "rope_scaling": scaling or None}


def _header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    n_heads, _, size = heads(config)
    if n_heads * size != number(config, "hidden_size"):
        raise ModelError(
            f"config.json has {n_heads} heads of {size}, which is not the hidden size; llama.cpp needs it so"
        )
    notes = decoder_header(writer, config, ("longrope",))
    if rope_kind(config) != "longrope":
        return notes
    original = rope(config).get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    wide = f"a context of more than {original} tokens is rotated for long texts from the first token on"
    return (*notes, f"{wide}, where transformers waits until the text is that long")


def _required(config: Config) -> dict[str, Shape]:
    shapes = decoder_required(config)
    for block in blocks(config):
        for fused, parts in (("attn_qkv", ("attn_q", "attn_k", "attn_v")), ("ffn_up", ("ffn_gate", "ffn_up"))):
            apart = [shapes.pop(f"{block}.{part}.weight") for part in parts]
            shapes[f"{block}.{fused}.weight"] = (sum(rows for rows, _ in apart), number(config, "hidden_size"))
    return shapes


PHI3 = Family(
    arch=MODEL_ARCH.PHI3,
    header=_header,
    required=_required,
    settings=_settings,
    computed=longrope_factors,
)
