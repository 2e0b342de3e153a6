"""The config.json of a Hugging Face model: its numbers, read with checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from foreshore.errors import ModelError

__all__ = ["Config", "Shape", "blocks", "heads", "must", "number"]

Config = Mapping[str, Any]
Shape = tuple[int, ...]  # rows first; the vocabulary's row count is -1


def number(config: Config, key: str, default: int | None = None) -> int:
    """A positive integer of config.json. Raises `ModelError`."""
    value = config.get(key)
    value = default if value is None else value
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ModelError(f"config.json has {key} {value!r}, not a positive number")
    return value


def heads(config: Config) -> tuple[int, int, int]:
    """Query heads, key-value heads, head size."""
    n_heads = number(config, "num_attention_heads")
    n_kv = number(config, "num_key_value_heads", n_heads)
    size = number(config, "head_dim", number(config, "hidden_size") // n_heads or None)
    if n_heads % n_kv:
        raise ModelError(f"config.json has {n_heads} heads that do not divide among {n_kv} key-value heads")
    return n_heads, n_kv, size


def blocks(config: Config) -> Iterator[str]:
    """`blk.0`, `blk.1`, ...: how GGUF names the layers."""
    return (f"blk.{i}" for i in range(number(config, "num_hidden_layers")))


def must(config: Config, key: str, allowed: tuple[Any, ...], default: Any) -> None:
    """Raises `ModelError` unless `key`, or its default, is one of `allowed`."""
    value = config.get(key, default)
    if value not in allowed:
        raise ModelError(f"config.json has {key} {value!r}; supported is {allowed[0]!r}")
