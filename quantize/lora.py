"""A LoRA adapter as PEFT saves it (adapter_config.json, adapter_model.safetensors) as a GGUF adapter for llama.cpp.

PEFT adds `scale * B @ A` to a matrix, and so does llama.cpp, with the scale `alpha / rank`. Where PEFT scales
otherwise (rsLoRA, a pattern of alphas), the difference is multiplied into B.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGUFWriter
from numpy.typing import NDArray

from foreshore.disk import disk_errors, require_space
from foreshore.edge.gguf import GgufInfo, inspect, scan
from foreshore.errors import ModelError
from foreshore.quantize.convert import TYPES, interleave_rows
from foreshore.quantize.families import FAMILIES
from foreshore.quantize.family import Family
from foreshore.quantize.hf_config import Config, Shape
from foreshore.quantize.hf_folder import gguf_name, read_family, read_object
from foreshore.quantize.weights import Weight, read_file, unbounded

__all__ = ["convert_lora"]

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
_PART = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """The model that the adapter is for: `shapes` by GGUF name, rows first, -1 where any number will do."""

    family: Family
    config: Config
    shapes: Mapping[str, Shape]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """What is added to one matrix: A is (rank, inputs), B is (outputs, rank)."""

    module: str
    a: Weight
    b: Weight

    @property
    def rank(self) -> int:
        return self.a.shape[0]


def convert_lora(folder: Path, base: Path, target: Path) -> GgufInfo:
    """Write the adapter in `folder` to `target`, for the model `base`: a Hugging Face folder or a .gguf file.

    Of `base` only config.json, or the GGUF header, is read. A and B keep their precision. Raises `ModelError`
    for what is missing, damaged, not for this base, or not a plain LoRA; `SetupError` if the disk is full.
    """
    settings = _settings(folder)
    model = _open_base(base)
    pairs = _by_gguf_name(_pairs(folder), model)
    size = sum(pair.a.nbytes + 2 * pair.b.nbytes for pair in pairs.values())
    require_space(target.parent, size)
    with disk_errors(target.parent, size):
        writer = GGUFWriter(target, MODEL_ARCH_NAMES[model.family.arch])
        try:
            _write(writer, settings, model, pairs)
        finally:
            writer.close()
    return scan(target)


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
    for value in (settings.get("r"), settings.get("lora_alpha"), *_patterns(settings)):
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e9:
            raise ModelError(f"{CONFIG} has the rank or alpha {value!r}, not a positive number")
    return settings


def _patterns(settings: Mapping[str, Any]) -> list[Any]:
    found = [settings.get(key) or {} for key in ("rank_pattern", "alpha_pattern")]
    if not all(isinstance(pattern, dict) for pattern in found):
        raise ModelError(f"{CONFIG} has a rank_pattern or alpha_pattern that is no mapping")
    return [value for pattern in found for value in pattern.values()]


def _open_base(base: Path) -> _Base:
    if base.is_dir():
        family, config, _ = read_family(base)
        return _Base(family=family, config=config, shapes=family.required(config) | family.optional(config))
    info = inspect(base)
    families = [f for f in FAMILIES.values() if MODEL_ARCH_NAMES[f.arch] == info.architecture]
    if not families:
        known = ", ".join(sorted({MODEL_ARCH_NAMES[f.arch] for f in FAMILIES.values()}))
        hint = f"supported are {known}"
        raise ModelError(f"adapters for the architecture {info.architecture!r} cannot be converted", hint=hint)
    config = {
        "num_hidden_layers": info.block_count,
        "num_attention_heads": info.get(".attention.head_count"),
        "num_key_value_heads": info.get(".attention.head_count_kv"),
        "hidden_size": info.get(".embedding_length"),
    }
    return _Base(family=families[0], config=config, shapes={t.name: t.shape[::-1] for t in info.tensors})


def _pairs(folder: Path) -> list[_Pair]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(
            f"{str(folder)!r} has no {WEIGHTS}", hint="save it with PEFT's save_pretrained, not as a pickle"
        )
    halves: dict[str, dict[str, Weight]] = {}
    for weight in read_file(path):
        match = _PART.fullmatch(weight.name)
        if not match:
            hint = "supported are lora_A and lora_B of matrices, not of embeddings; merge the adapter instead"
            raise ModelError(f"tensor {weight.name!r} is no part of a plain LoRA adapter", hint=hint)
        if weight.dtype not in TYPES or len(weight.shape) != 2:
            raise ModelError(f"tensor {weight.name!r} is {weight.dtype} {weight.shape}, not a matrix of floats")
        halves.setdefault(match["module"], {})[match["half"]] = weight
    if not halves:
        raise ModelError(f"{str(path)!r} has no tensors")
    for module, found in halves.items():
        if set(found) != {"A", "B"}:
            raise ModelError(f"{module!r} has lora_{next(iter(found))} alone", hint="fetch the adapter again")
    return [_Pair(module=module, a=found["A"], b=found["B"]) for module, found in sorted(halves.items())]


def _by_gguf_name(pairs: list[_Pair], base: _Base) -> dict[str, _Pair]:
    found = {}
    for pair in pairs:
        plain = base.family.rename(f"{pair.module}.weight")
        name = plain and gguf_name(plain, base.family, base.config)
        shape = base.shapes.get(name or "")
        if not name or not shape:
            hint = "is it for another base? a head that shares the embedding's weights cannot have an adapter"
            raise ModelError(f"the adapter changes {pair.module!r}, which the base does not have", hint=hint)
        if pair.a.shape[0] != pair.b.shape[1] or (shape[0] not in (-1, pair.b.shape[0])) or shape[1] != pair.a.shape[1]:
            raise ModelError(
                f"the adapter's {pair.module!r} is {pair.b.shape} times {pair.a.shape}, the base's {shape}",
                hint="is it for another base?",
            )
        found[name] = pair
    return found


def _write(writer: GGUFWriter, settings: Mapping[str, Any], base: _Base, pairs: Mapping[str, _Pair]) -> None:
    alpha = float(settings["lora_alpha"]) * (math.sqrt(settings["r"]) if settings.get("use_rslora") else 1.0)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    for name, pair in pairs.items():
        factor = _scale(settings, pair) * pair.rank / alpha
        b = pair.b.raw() if math.isclose(factor, 1.0) else pair.b.float32() * np.float32(factor)
        _add(writer, f"{name}.lora_a", pair.a.raw(), pair.a.name)
        _add(writer, f"{name}.lora_b", interleave_rows(b, name, base.family, base.config), pair.b.name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()


def _add(writer: GGUFWriter, name: str, data: NDArray[Any], source: str) -> None:
    if unbounded(data):
        raise ModelError(f"tensor {source!r} has values that are NaN or infinite", hint="fetch the adapter again")
    kind = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}.get(data.dtype, "BF16")
    writer.add_tensor(name, np.ascontiguousarray(data).view(np.uint8), raw_dtype=TYPES[kind])


def _scale(settings: Mapping[str, Any], pair: _Pair) -> float:
    """What PEFT multiplies B @ A by."""
    alpha = float(_matching(settings.get("alpha_pattern") or {}, pair.module, settings["lora_alpha"]))
    return alpha / (math.sqrt(pair.rank) if settings.get("use_rslora") else pair.rank)


def _matching(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """A pattern's key matches the end of a module's name, as in PEFT."""
    try:
        return next((v for key, v in pattern.items() if re.match(rf"(.*\.)?({key})$", module)), default)
    except re.error as error:
        raise ModelError(f"{CONFIG} has a damaged pattern: {error}") from error
