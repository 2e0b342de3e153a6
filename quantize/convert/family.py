"""What a family of models writes into a GGUF header, and the tensors it must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter
from numpy.typing import NDArray

from foreshore.quantize.convert.hf_config import Config, Shape

__all__ = ["Family"]


def _no_shapes(config: Config) -> dict[str, Shape]:
    return {}


def _no_tensors(config: Config) -> dict[str, NDArray[np.float32]]:
    return {}


def _no_rows(config: Config) -> Mapping[str, int]:
    return {}


def _as_it_is(config: Config) -> dict[str, Any]:
    return dict(config)


def _same_name(name: str) -> tuple[str, ...]:
    return (name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Tensors are named as in GGUF, unless said otherwise; shapes are rows first."""

    arch: MODEL_ARCH
    header: Callable[[GGUFWriter, Config], tuple[str, ...]]  # writes the keys, returns notes
    required: Callable[[Config], dict[str, Shape]]
    optional: Callable[[Config], dict[str, Shape]] = _no_shapes
    settings: Callable[[Config], Config] = _as_it_is  # config.json in the words the other functions know
    # A Hugging Face name in the tensor maps' words; none: left out; several: equal parts of its rows.
    rename: Callable[[str], tuple[str, ...]] = _same_name
    computed: Callable[[Config], dict[str, NDArray[np.float32]]] = _no_tensors  # tensors that follow from the config
    first_row: Callable[[Config], Mapping[str, int]] = _no_rows  # of tables whose rows before it are never looked up
    permute_qk: bool = False  # llama.cpp rotates neighbouring pairs of a Llama head, Hugging Face its two halves
    norm_shift: float = 0.0  # added to the weights of all norms
    ranks: bool = False  # a cross-encoder: its head scores a pair of texts
