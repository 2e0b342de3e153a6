"""The weights of a Hugging Face folder under their GGUF names, each of the shape that config.json makes it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from gguf import MODEL_ARCH, TensorNameMap, get_tensor_name_map

from foreshore.errors import ModelError
from foreshore.quantize.convert.family import Family
from foreshore.quantize.convert.hf_config import Config, number
from foreshore.quantize.convert.weights import FLOATS, Weight

__all__ = ["by_gguf_name", "gguf_name"]

_BESIDE = ("rotary_emb.inv_freq", "attention.masked_bias")  # no part of the model


def gguf_name(name: str, family: Family, config: Config) -> str | None:
    """What GGUF calls the tensor `name`; `None` if it has no place there."""
    names = _names(family.arch, number(config, "num_hidden_layers"))
    found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
    return found


@cache
def _names(arch: MODEL_ARCH, layers: int) -> TensorNameMap:
    return get_tensor_name_map(arch, layers)


def by_gguf_name(weights: dict[str, Weight], family: Family, config: Config) -> dict[str, Weight]:
    """What `family` makes of `config`, each part once and of its shape. Raises `ModelError` for anything else."""
    required, skipped = family.required(config), family.first_row(config)
    shapes = required | family.optional(config)
    found: dict[str, Weight] = {}
    for plain, weight in _renamed(weights, family):
        name, target = weight.name, gguf_name(plain, family, config)
        if target == "output.weight" and target not in required:
            continue  # tied: it is the embedding once more
        shape = shapes.get(target or "")
        if target is None or shape is None:
            raise ModelError(f"tensor {name!r} has no place in this architecture", hint="is config.json of this model?")
        if weight.dtype not in FLOATS or not _fits(weight.shape, shape):
            raise ModelError(f"tensor {name!r} is {weight.dtype} {weight.shape}, config.json makes it {shape}")
        if target in found:
            raise ModelError(f"tensors {found[target].name!r} and {name!r} are the same part of the model")
        found[target] = weight.rows(skipped.get(target, 0), weight.shape[0])
    missing = [name for name in required if name not in found]
    if missing:
        raise ModelError(
            f"the weights lack {len(missing)} tensors, among them {missing[0]!r}", hint=_missing_hint(missing)
        )
    return found


def _renamed(weights: dict[str, Weight], family: Family) -> Iterator[tuple[str, Weight]]:
    """Each weight under its name in the tensor maps' words, a fused one in its parts."""
    for name, weight in sorted(weights.items()):
        if not any(part in name for part in _BESIDE):
            names = family.rename(name)
            yield from zip(names, weight.parts(len(names)) if names else (), strict=True)


def _missing_hint(missing: list[str]) -> str:
    if missing == ["output.weight"]:
        return "if the model shares it with the embedding, config.json must say tie_word_embeddings: true"
    return "fetch the model again"


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, n) for n, w in zip(shape, wanted, strict=True))
