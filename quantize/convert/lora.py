"""A LoRA adapter as PEFT saves it, made a GGUF adapter for llama.cpp.

PEFT adds `scale * B @ A` to a matrix, and so does llama.cpp, with the scale `alpha / rank`. Where PEFT scales
otherwise (a pattern of alphas or ranks), the difference is multiplied into B.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGUFWriter
from numpy.typing import NDArray

from foreshore.disk import disk_errors, require_space
from foreshore.edge.gguf import GgufInfo, inspect, scan
from foreshore.errors import ModelError, UsageError
from foreshore.quantize.convert.convert import TYPES, interleave_rows
from foreshore.quantize.convert.families import FAMILIES
from foreshore.quantize.convert.family import Family
from foreshore.quantize.convert.hf_config import Config, Shape
from foreshore.quantize.convert.hf_folder import read_family
from foreshore.quantize.convert.naming import gguf_name
from foreshore.quantize.convert.peft import Pair, PeftAdapter, read_adapter
from foreshore.quantize.convert.weights import unbounded

__all__ = ["convert_lora"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """The model that the adapter is for: `shapes` by GGUF name, rows first, -1 where any number will do."""

    family: Family
    config: Config
    shapes: Mapping[str, Shape]


def convert_lora(folder: Path, base: Path, target: Path) -> GgufInfo:
    """Write the adapter in `folder` to `target`, for the model `base`: a Hugging Face folder or a .gguf file.

    Of `base` only config.json, or the GGUF header, is read. A and B keep their precision. `target` appears whole
    or not at all. Raises `ModelError` for what is missing, damaged, not for this base, or not a plain LoRA;
    `SetupError` if the disk is full.
    """
    if target.is_dir():
        raise UsageError(f"{str(target)!r} is a folder, not a place for an adapter")
    adapter = read_adapter(folder)
    model = _open_base(base)
    pairs = _by_gguf_name(adapter, model)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    with disk_errors(target.parent, adapter.nbytes):
        target.parent.mkdir(parents=True, exist_ok=True)
        require_space(target.parent, adapter.nbytes)
        try:
            _write(draft, adapter.alpha, model, pairs)
            os.replace(draft, target)
        finally:
            draft.unlink(missing_ok=True)
    return scan(target)


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


def _by_gguf_name(adapter: PeftAdapter, base: _Base) -> dict[str, Pair]:
    found = {}
    for pair in adapter.pairs:
        parts = base.family.rename(f"{pair.module}.weight") or ("",)
        for plain, b in zip(parts, pair.b.parts(len(parts)), strict=True):
            name = gguf_name(plain, base.family, base.config) or ""
            found[name] = _fitting(replace(pair, b=b), base.shapes.get(name))
    return found


def _fitting(pair: Pair, shape: Shape | None) -> Pair:
    if not shape:
        hint = "is it for another base? a head that shares the embedding's weights cannot have an adapter"
        raise ModelError(f"the adapter changes {pair.module!r}, which the base does not have", hint=hint)
    if pair.a.shape[0] != pair.b.shape[1] or (shape[0] not in (-1, pair.b.shape[0])) or shape[1] != pair.a.shape[1]:
        raise ModelError(
            f"the adapter's {pair.module!r} is {pair.b.shape} times {pair.a.shape}, the base's {shape}",
            hint="is it for another base?",
        )
    return pair


def _write(target: Path, alpha: float, base: _Base, pairs: Mapping[str, Pair]) -> None:
    writer = GGUFWriter(target, MODEL_ARCH_NAMES[base.family.arch])
    try:
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for name, pair in pairs.items():
            factor = pair.scale * pair.rank / alpha
            b = pair.b.raw() if math.isclose(factor, 1.0) else pair.b.float32() * np.float32(factor)
            _add(writer, f"{name}.lora_a", pair.a.raw(), pair.a.name)
            _add(writer, f"{name}.lora_b", interleave_rows(b, name, base.family, base.config), pair.b.name)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add(writer: GGUFWriter, name: str, data: NDArray[Any], source: str) -> None:
    if unbounded(data):
        raise ModelError(f"tensor {source!r} has values that are NaN or infinite", hint="fetch the adapter again")
    kind = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}.get(data.dtype, "BF16")
    writer.add_tensor(name, np.ascontiguousarray(data).view(np.uint8), raw_dtype=TYPES[kind])
