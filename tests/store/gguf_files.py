"""GGUF files written by hand, byte for byte, so that every field can be wrong."""

from __future__ import annotations

import struct
from pathlib import Path

STRING, ARRAY, U32, BOOL, F32 = 8, 9, 4, 7, 6


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def number(name: str, value: int) -> bytes:
    return key(name, U32, struct.pack("<I", value))


def words(name: str, values: list[str]) -> bytes:
    return key(name, ARRAY, struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values)))


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


KEYS = [
    key("general.architecture", STRING, text("llama")),
    number("llama.context_length", 128),
    number("llama.embedding_length", 32),
    number("llama.block_count", 1),
    words("tokenizer.ggml.tokens", ["a", "b", "c"]),
    key("tokenizer.chat_template", STRING, text("{{ messages }}")),
    key("general.sampling.temp", F32, struct.pack("<f", 0.5)),
    number("general.file_type", 7),
    key("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ300f", F32, 300, *range(300))),
]
TENSORS = [tensor("token_embd.weight", (32, 4), 0, 0), tensor("output.weight", (32, 2), 8, 512)]
DATA = bytes(512 + 68)


def gguf(
    keys: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = DATA,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_keys: int | None = None,
) -> bytes:
    """A small valid file, but for what is given."""
    keys = KEYS if keys is None else keys
    tensors = TENSORS if tensors is None else tensors
    counts = len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
