"""Gemma 2 and 3: norms around every block, layers that see only a window, and logits bent by tanh."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gguf import MODEL_ARCH, GGUFWriter

from foreshore.errors import ModelError
from foreshore.quantize.convert.family import Family
from foreshore.quantize.convert.family_llama import decoder_required, head_norms, sizes_header
from foreshore.quantize.convert.hf_config import Config, Shape, blocks, heads, must, number
from foreshore.quantize.convert.rotary import rope_header

__all__ = ["GEMMA2", "GEMMA3", "GEMMA3_VISION"]

# What transformers takes where config.json is silent; the larger Gemma 3 models leave most of it out.
_GEMMA2: Config = {
    "head_dim": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}
_GEMMA3: Config = {
    **_GEMMA2,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
}
_LARGEST = {MODEL_ARCH.GEMMA2: 46, MODEL_ARCH.GEMMA3: 62}  # layers of the 27B models, which scale otherwise
_VISION_NOTE = "only the text part was converted: the model takes no images"


def _gemma2_settings(config: Config) -> Config:
    return {**_GEMMA2, **config}


def _gemma3_settings(config: Config) -> Config:
    """Gemma 3's rotation differs by kind of layer; transformers 5 says so in one nested entry."""
    found: dict[str, Any] = {**_GEMMA3, **config}
    both = found.pop("rope_parameters", None)
    if both:
        wide, near = dict(both["full_attention"]), both["sliding_attention"]
        found |= {"rope_theta": wide.pop("rope_theta"), "rope_scaling": wide}
        found |= {"rope_local_base_freq": near["rope_theta"]}
    return found


def _vision_settings(config: Config) -> Config:
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise ModelError("config.json has no text_config", hint="is config.json of this model?")
    return {**_gemma3_settings(text), "eos_token_id": config.get("eos_token_id")}


def _text_only(name: str) -> tuple[str, ...]:
    if "vision_tower." in name or "multi_modal_projector." in name:
        return ()
    return (name.replace("language_model.model.", "model.").replace("language_model.", ""),)


def _header(writer: GGUFWriter, config: Config, arch: MODEL_ARCH) -> None:
    must(config, "hidden_activation", ("gelu_pytorch_tanh", None), config.get("hidden_act"))
    must(config, "use_bidirectional_attention", (False, None), None)
    must(config, "attention_bias", (False,), False)
    n_heads, _, size = heads(config)
    largest = number(config, "num_hidden_layers") == _LARGEST[arch]
    divisor = number(config, "hidden_size") // n_heads if largest else size
    must(config, "query_pre_attn_scalar", (divisor,), divisor)  # llama.cpp takes it from the sizes
    writer.add_context_length(number(config, "max_position_embeddings"))
    sizes_header(writer, config)
    writer.add_sliding_window(number(config, "sliding_window"))
    rope_header(writer, config, ("linear",))


def _windowed(config: Config, every: int) -> list[bool]:
    """Of each layer, whether it sees only the window: all but each `every`-th, unless config.json lists them."""
    layers = number(config, "num_hidden_layers")
    kinds = config.get("layer_types")
    if kinds is None:
        return [(i + 1) % every != 0 for i in range(layers)]
    if len(kinds) != layers or not set(kinds) <= {"sliding_attention", "full_attention"}:
        raise ModelError(f"config.json has layer_types {kinds!r} for {layers} layers")
    return [kind == "sliding_attention" for kind in kinds]


def _gemma2_header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    must(config, "tie_word_embeddings", (True,), True)
    _header(writer, config, MODEL_ARCH.GEMMA2)
    writer.add_sliding_window_pattern(_windowed(config, 2))
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if not isinstance(value := config[key], (int, float)) or not value > 0:
            raise ModelError(f"config.json has {key} {value!r}; llama.cpp bends the logits of every Gemma 2")
    writer.add_attn_logit_softcapping(float(config["attn_logit_softcapping"]))
    writer.add_final_logit_softcapping(float(config["final_logit_softcapping"]))
    return ()


def _gemma3_header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    must(config, "attn_logit_softcapping", (None,), None)
    _header(writer, config, MODEL_ARCH.GEMMA3)
    every = config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6
    writer.add_sliding_window_pattern(_windowed(config, number({"pattern": every}, "pattern")))
    writer.add_rope_freq_base_swa(float(config["rope_local_base_freq"]))
    if config["final_logit_softcapping"]:
        writer.add_final_logit_softcapping(float(config["final_logit_softcapping"]))
    return ()


def _vision_header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    return (*_gemma3_header(writer, config), _VISION_NOTE)


def _gemma2_required(config: Config) -> dict[str, Shape]:
    hidden = number(config, "hidden_size")
    kinds = ("post_attention_norm", "post_ffw_norm")
    return decoder_required(config) | {f"{b}.{kind}.weight": (hidden,) for b in blocks(config) for kind in kinds}


def _gemma3_required(config: Config) -> dict[str, Shape]:
    return _gemma2_required(config) | head_norms(config)


GEMMA2 = Family(
    arch=MODEL_ARCH.GEMMA2,
    header=_gemma2_header,
    required=_gemma2_required,
    settings=_gemma2_settings,
    norm_shift=1.0,
)
GEMMA3 = Family(
    arch=MODEL_ARCH.GEMMA3,
    header=_gemma3_header,
    required=_gemma3_required,
    settings=_gemma3_settings,
    rename=_text_only,
    norm_shift=1.0,
)
GEMMA3_VISION = replace(GEMMA3, header=_vision_header, settings=_vision_settings)
