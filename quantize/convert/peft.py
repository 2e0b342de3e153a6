"""A LoRA adapter as PEFT saves it, read and checked: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreshore.errors import ModelError
from foreshore.quantize.convert.hf_folder import read_object
from foreshore.quantize.convert.weights import FLOATS, Weight, read_file

__all__ = ["Pair", "PeftAdapter", "read_adapter"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PLAIN: Mapping[str, tuple[Any, ...]] = {  # what must hold for the adapter to be a sum of B @ A; the first is the usual
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
    "alora_invocation_tokens": (None,),
    "layer_replication": (None,),
    "target_parameters": (None, []),
}
_BASE_KEPT = (True, False, None, "gaussian", "orthogonal", "eva")  # beginnings that leave the base's weights alone
_PART = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """`scale * B @ A` is added to the matrix `module`; A is (rank, inputs), B is (outputs, rank)."""

    module: str
    a: Weight
    b: Weight
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftAdapter:
    """`alpha` divided by a pair's rank is its scale, but for pairs that a pattern of the config treats apart."""

    alpha: float
    pairs: tuple[Pair, ...]

    @property
    def nbytes(self) -> int:
        """Of all A and B, were each B in F32."""
        return sum(pair.a.nbytes + 2 * pair.b.nbytes for pair in self.pairs)


def read_adapter(folder: Path) -> PeftAdapter:
    """Everything but the values. Raises `ModelError` for what is missing, damaged or not a plain LoRA."""
    settings = _settings(folder)
    alpha = float(settings["lora_alpha"]) * (math.sqrt(settings["r"]) if settings.get("use_rslora") else 1.0)
    halves = sorted(_halves(folder / WEIGHTS).items())
    pairs = (Pair(module=m, a=h["A"], b=h["B"], scale=_scale(settings, m, h["A"].shape[0])) for m, h in halves)
    return PeftAdapter(alpha=alpha, pairs=tuple(pairs))


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"{str(folder)!r} has no {CONFIG}", hint="give the folder that PEFT's save_pretrained wrote")
    settings = read_object(path)
    for key, allowed in _PLAIN.items():
        if settings.get(key) not in allowed:
            raise ModelError(f"{CONFIG} has {key} {settings.get(key)!r}; supported is {allowed[0]!r}")
    if saved := settings.get("modules_to_save"):
        hint = "merge the adapter into its base with PEFT's merge_and_unload, and convert the whole model"
        raise ModelError(f"the adapter replaces whole modules: {saved!r}", hint=hint)
    if (how := settings.get("init_lora_weights")) not in _BASE_KEPT:
        hint = "save it as a plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        raise ModelError(f"the adapter began with {how!r}, which changes the weights of its base", hint=hint)
    for value in (settings.get("r"), settings.get("lora_alpha"), *_patterns(settings)):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e9:
            raise ModelError(f"{CONFIG} has the rank or alpha {value!r}, not a positive number")
    return settings


def _patterns(settings: Mapping[str, Any]) -> list[Any]:
    found = [settings.get(key) or {} for key in ("rank_pattern", "alpha_pattern")]
    if not all(isinstance(pattern, dict) for pattern in found):
        raise ModelError(f"{CONFIG} has a rank_pattern or alpha_pattern that is no mapping")
    return [value for pattern in found for value in pattern.values()]


def _halves(path: Path) -> dict[str, dict[str, Weight]]:
    """A and B of each module that the adapter changes."""
    if not path.is_file():
        hint = "save it with PEFT's save_pretrained, not as a pickle"
        raise ModelError(f"{str(path.parent)!r} has no {path.name}", hint=hint)
    found: dict[str, dict[str, Weight]] = {}
    for weight in read_file(path):
        match = _PART.fullmatch(weight.name)
        if not match:
            hint = "supported are lora_A and lora_B of matrices, not of embeddings; merge the adapter instead"
            raise ModelError(f"tensor {weight.name!r} is no part of a plain LoRA adapter", hint=hint)
        if weight.dtype not in FLOATS or len(weight.shape) != 2:
            raise ModelError(f"tensor {weight.name!r} is {weight.dtype} {weight.shape}, not a matrix of floats")
        found.setdefault(match["module"], {})[match["half"]] = weight
    if not found:
        raise ModelError(f"{str(path)!r} has no tensors")
    for module, halves in found.items():
        if set(halves) != {"A", "B"}:
            raise ModelError(f"{module!r} has lora_{next(iter(halves))} alone", hint="fetch the adapter again")
    return found


def _scale(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """A key of the pattern matches the end of a module's name, as in PEFT."""
    pattern = settings.get("alpha_pattern") or {}
    try:
        alpha = next((v for k, v in pattern.items() if re.match(rf"(.*\.)?({k})$", module)), settings["lora_alpha"])
    except re.error as error:
        raise ModelError(f"{CONFIG} has a damaged pattern: {error}") from error
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)
