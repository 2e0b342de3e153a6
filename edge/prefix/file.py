"""One kept beginning of a prompt as a file: a header, the token ids, the state.

It is named by SHA-256 over the fingerprint, the tenant's keyed hash and the tokens: a file that does not fit its name
is damaged, and one that has no such name is somebody else's.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import struct
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRAFT", "ENDING", "OURS", "Header", "Tokens", "create", "read_state", "read_tokens", "remove", "write"]

ENDING = ".kv"
OURS = re.compile(rf"[0-9a-f]{{64}}{re.escape(ENDING)}")  # names that this module gives
DRAFT = ".draft"  # of a file that is still being written
Tokens = NDArray[np.int32]
_LAYOUT = struct.Struct("<8s32s32s32sQI")  # magic, then the header's fields in their order
_MAGIC = b"FSPREFX1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """`fingerprint`, `owner` (the tenant) and `digest` (of the state) are 32 bytes each."""

    fingerprint: bytes
    owner: bytes
    digest: bytes
    state_bytes: int
    tokens: int

    @property
    def file_bytes(self) -> int:
        return _LAYOUT.size + 4 * self.tokens + self.state_bytes

    def pack(self) -> bytes:
        return _LAYOUT.pack(_MAGIC, self.fingerprint, self.owner, self.digest, self.state_bytes, self.tokens)

    @classmethod
    def read(cls, file: BufferedReader) -> Self | None:
        """None for what is no header, or does not fit the file's length."""
        raw = file.read(_LAYOUT.size)
        if len(raw) < _LAYOUT.size or not raw.startswith(_MAGIC):
            return None
        _, fingerprint, owner, digest, size, tokens = _LAYOUT.unpack(raw)
        header = cls(fingerprint=fingerprint, owner=owner, digest=digest, state_bytes=size, tokens=tokens)
        return header if header.file_bytes == os.fstat(file.fileno()).st_size else None


def read_tokens(path: Path) -> tuple[Header, Tokens] | None:
    """None for a file that is damaged or not named as its content says. Raises `FileNotFoundError`."""
    with _open(path) as file:
        return _checked(file, path)


def read_state(path: Path) -> tuple[Tokens, bytes] | None:
    """The tokens and the state after them, or None if that is not what was written. Raises `FileNotFoundError`."""
    with _open(path) as file:
        found = _checked(file, path)
        if found is None:
            return None
        header, tokens = found
        state = file.read(header.state_bytes)
        return (tokens, state) if hashlib.sha256(state).digest() == header.digest else None


def write(path: Path, *parts: bytes) -> None:
    """All or nothing, for readers and for a process that is killed meanwhile."""
    draft = path.with_name(f"{secrets.token_hex(8)}{DRAFT}")
    try:
        create(draft, *parts)
        os.replace(draft, path)
    except BaseException:
        remove(draft)
        raise


def create(path: Path, *parts: bytes) -> None:
    """A new file for its owner's eyes alone."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        for part in parts:
            file.write(part)


def remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _checked(file: BufferedReader, path: Path) -> tuple[Header, Tokens] | None:
    """What stands before the state; the file then stands at the state's first byte."""
    header = Header.read(file)
    if header is None:
        return None
    tokens = file.read(4 * header.tokens)
    name = hashlib.sha256(header.fingerprint + header.owner + tokens).hexdigest()
    return (header, np.frombuffer(tokens, "<i4").astype(np.int32)) if path.name == name + ENDING else None


def _open(path: Path) -> BufferedReader:
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
