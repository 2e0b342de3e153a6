"""The rotation of positions: what config.json says of it, as GGUF keys and as tensors of factors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gguf import GGUFWriter, RopeScalingType
from numpy.typing import NDArray

from foreshore.errors import ModelError
from foreshore.quantize.convert.hf_config import Config, heads, must, number

__all__ = ["llama3_factors", "longrope_factors", "longrope_header", "rope", "rope_header", "rope_kind", "rope_size"]

Factors = dict[str, NDArray[np.float32]]


def rope(config: Config) -> dict[str, Any]:
    """Rotary parameters, from today's `rope_parameters` or the older `rope_theta` and `rope_scaling`."""
    if found := config.get("rope_parameters"):
        return {"rope_theta": 10000.0, **found}
    return {"rope_theta": config.get("rope_theta", 10000.0), **(config.get("rope_scaling") or {})}


def rope_kind(config: Config) -> str:
    params = rope(config)
    return str(params.get("rope_type") or params.get("type") or "default")


def rope_size(config: Config) -> int:
    """How many values at the start of each head are rotated."""
    share = rope(config).get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1.0
    return int(heads(config)[2] * share)


def rope_header(writer: GGUFWriter, config: Config, kinds: tuple[str, ...] = ("linear", "yarn")) -> None:
    """`kinds` are the scalings that this family's code in llama.cpp follows. Raises `ModelError` for others."""
    params, kind = rope(config), rope_kind(config)
    if kind not in ("default", *kinds):
        supported = f"supported for this architecture: {', '.join(kinds) or 'none'}"
        raise ModelError(f"rope scaling of the kind {kind!r} cannot be converted", hint=supported)
    writer.add_rope_dimension_count(rope_size(config))
    writer.add_rope_freq_base(float(params["rope_theta"]))
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(params["factor"]))
    elif kind == "yarn":
        must(params, "attention_factor", (None,), None)
        must(params, "mscale", (None,), None)
        must(params, "truncate", (True, None), True)
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(params["factor"]))
        writer.add_rope_scaling_orig_ctx_len(_original_context(config))
        writer.add_rope_scaling_yarn_beta_fast(float(params.get("beta_fast") or 32.0))
        writer.add_rope_scaling_yarn_beta_slow(float(params.get("beta_slow") or 1.0))
    elif kind == "longrope":
        longrope_header(writer, config)


def llama3_factors(config: Config) -> Factors:
    """Llama 3.1's divisors of the rotary frequencies, one for each pair of a head; nothing for other kinds.

    Long wavelengths are stretched by `factor`, short ones kept, with a linear ramp between, as in
    `_compute_llama3_parameters` of transformers.
    """
    if rope_kind(config) != "llama3":
        return {}
    params, size = rope(config), rope_size(config)
    wavelength = 2 * math.pi * params["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float64) / size)
    old, factor = params["original_max_position_embeddings"], params["factor"]
    low, high = params["low_freq_factor"], params["high_freq_factor"]
    smooth = np.clip((old / wavelength - low) / (high - low), 0.0, 1.0)
    return {"rope_freqs.weight": np.asarray(1.0 / ((1.0 - smooth) / factor + smooth), dtype=np.float32)}


def longrope_header(writer: GGUFWriter, config: Config) -> None:
    """The length the short factors are for, and what scales the attention: as `_compute_longrope_parameters`."""
    params, original = rope(config), _original_context(config)
    scale = number(config, "max_position_embeddings") / original
    attention = params.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_rope_scaling_attn_factors(float(attention))


def longrope_factors(config: Config) -> Factors:
    """Phi's two sets of divisors, for contexts up to the original length and beyond it."""
    if rope_kind(config) not in ("longrope", "su"):
        return {}
    found = {}
    for kind in ("long", "short"):
        factors = np.asarray(rope(config)[f"{kind}_factor"], dtype=np.float32)
        if factors.shape != (rope_size(config) // 2,):
            raise ModelError(f"config.json has {factors.size} values of {kind}_factor, not {rope_size(config) // 2}")
        found[f"rope_factors_{kind}.weight"] = factors
    return found


def _original_context(config: Config) -> int:
    """Of the training before the context was stretched."""
    key = "original_max_position_embeddings"
    return number({key: rope(config).get(key) or config.get(key)}, key, number(config, "max_position_embeddings"))
