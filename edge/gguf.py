"""What a GGUF file says about itself, checked in Python before any native loader sees it.

`inspect` reads the header alone, through plain reads and never a map: a file that shrinks meanwhile cannot
raise SIGBUS. Every count and length is held against the bytes that are really there before anything is
allocated, so a hostile header costs neither memory nor time. Layout: the GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from foreshore.errors import ModelError, NotFound

__all__ = ["FILE_TYPES", "TENSOR_TYPES", "Array", "GgufInfo", "Tensor", "inspect", "scan"]

MAX_HEADER = 256 << 20  # bytes; a 262k-word vocabulary with its merges takes about 20 MiB
MAX_STRING = 16 << 20  # bytes; the longest chat templates have some 100 KiB
MAX_TENSORS = 1 << 17
MAX_KEYS = 1 << 16
MAX_NAME = 63  # bytes, GGML_MAX_NAME less its terminator
MAX_DIMS = 4
MAX_STRINGS = 1 << 22  # in one array; the largest vocabularies have 262k words and 515k merges
KEPT_ITEMS = 256  # longer arrays (vocabularies) are checked and counted, not kept
READ_AHEAD = 1 << 20
MOST_CHECKED = 64  # long arrays whose bytes are known again

# ggml's type number -> name, weights in a block, bytes of a block (ggml-common.h).
TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = MappingProxyType(
    {
        0: ("f32", 1, 4),
        1: ("f16", 1, 2),
        2: ("q4_0", 32, 18),
        3: ("q4_1", 32, 20),
        6: ("q5_0", 32, 22),
        7: ("q5_1", 32, 24),
        8: ("q8_0", 32, 34),
        9: ("q8_1", 32, 36),
        10: ("q2_k", 256, 84),
        11: ("q3_k", 256, 110),
        12: ("q4_k", 256, 144),
        13: ("q5_k", 256, 176),
        14: ("q6_k", 256, 210),
        15: ("q8_k", 256, 292),
        16: ("iq2_xxs", 256, 66),
        17: ("iq2_xs", 256, 74),
        18: ("iq3_xxs", 256, 98),
        19: ("iq1_s", 256, 50),
        20: ("iq4_nl", 32, 18),
        21: ("iq3_s", 256, 110),
        22: ("iq2_s", 256, 82),
        23: ("iq4_xs", 256, 136),
        24: ("i8", 1, 1),
        25: ("i16", 1, 2),
        26: ("i32", 1, 4),
        27: ("i64", 1, 8),
        28: ("f64", 1, 8),
        29: ("iq1_m", 256, 56),
        30: ("bf16", 1, 2),
        34: ("tq1_0", 256, 54),
        35: ("tq2_0", 256, 66),
        39: ("mxfp4", 32, 17),
        40: ("nvfp4", 64, 36),
        41: ("q1_0", 128, 18),
        42: ("q2_0", 64, 18),
    }
)

# `general.file_type` -> the name people use (llama.h, enum llama_ftype).
FILE_TYPES: Mapping[int, str] = MappingProxyType(
    dict(
        zip(
            (*range(4), *range(7, 33), *range(36, 42)),
            (
                *("f32", "f16", "q4_0", "q4_1"),
                *("q8_0", "q5_0", "q5_1", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s"),
                *("q5_k_m", "q6_k", "iq2_xxs", "iq2_xs", "q2_k_s", "iq3_xs", "iq3_xxs", "iq1_s", "iq4_nl"),
                *("iq3_s", "iq3_m", "iq2_s", "iq2_m", "iq4_xs", "iq1_m", "bf16"),
                *("tq1_0", "tq2_0", "mxfp4_moe", "nvfp4", "q1_0", "q2_0"),
            ),
            strict=True,
        )
    )
)

# Key and length of a long array of strings -> its bytes, and their digest: another file of the same model has it too.
_checked: dict[tuple[str, int], tuple[int, bytes]] = {}

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9

# How other files begin, and what to call them.
_FOREIGN = (
    (b"PK\x03\x04", "a zip archive, as PyTorch writes its .bin, .pt and .ckpt files; it holds pickled code"),
    (b"\x80\x02", "a Python pickle (an old PyTorch file); loading one runs code"),
    (b"\x80\x03", "a Python pickle; loading one runs code"),
    (b"\x80\x04", "a Python pickle; loading one runs code"),
    (b"\x80\x05", "a Python pickle; loading one runs code"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"ggml", "a GGML file, the format before GGUF"),
    (b"ggjt", "a GGJT file, the format before GGUF"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for; run `git lfs pull`"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """`shape` is in ggml's order, the row length first; `offset` counts bytes from the start of the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """Stands in the metadata for an array too long to keep."""

    type: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufInfo:
    path: Path
    version: int
    size: int  # bytes of the file
    alignment: int
    metadata: Mapping[str, Any]
    tensors: tuple[Tensor, ...]

    def get(self, key: str, default: Any = None) -> Any:
        """The metadata under `key`, or under `ARCHITECTURE.` and the rest if it starts with a dot."""
        return self.metadata.get(f"{self.architecture}{key}" if key.startswith(".") else key, default)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def name(self) -> str:
        return str(self.metadata.get("general.name", ""))

    @property
    def context_length(self) -> int:
        return int(self.get(".context_length", 0))

    @property
    def embedding_length(self) -> int:
        return int(self.get(".embedding_length", 0))

    @property
    def block_count(self) -> int:
        return int(self.get(".block_count", 0))

    @property
    def vocab_size(self) -> int:
        return _length(self.metadata.get("tokenizer.ggml.tokens"))

    @property
    def chat_template(self) -> str | None:
        template = self.metadata.get("tokenizer.chat_template")
        return template if isinstance(template, str) else None

    @property
    def sampling(self) -> dict[str, Any]:
        """What the model's makers advise: the `general.sampling.*` keys without their prefix."""
        prefix = "general.sampling."
        return {k.removeprefix(prefix): v for k, v in self.metadata.items() if k.startswith(prefix)}

    @property
    def file_type(self) -> str:
        """The name of the quantization mix, such as `q4_k_m`; `unknown` if the file does not say."""
        number = self.metadata.get("general.file_type")
        return FILE_TYPES.get(number, "unknown") if isinstance(number, int) else "unknown"

    @property
    def n_params(self) -> int:
        return sum(prod(t.shape) for t in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(t.nbytes for t in self.tensors) / max(self.n_params, 1)


def inspect(path: str | Path) -> GgufInfo:
    """The checked header of a model. Raises `NotFound` (no such file) or `ModelError` with the exact reason."""
    info = scan(path)
    _check_model(info)
    return info


def scan(path: str | Path) -> GgufInfo:
    """As `inspect`, for any GGUF: an importance matrix or an adapter passes too."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{str(path)!r} is not a regular file")
            return _Reader(file, path, status.st_size).info()
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {str(path)!r}") from error
    except IsADirectoryError as error:
        raise ModelError(f"{str(path)!r} is a folder, not a GGUF file") from error
    except OSError as error:
        raise ModelError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error


class _Reader:
    """A cursor over the header. `buffer` holds what was read so far, from the file's first byte."""

    def __init__(self, file: BinaryIO, path: Path, size: int) -> None:
        self.file, self.path, self.size = file, path, size
        self.buffer = bytearray()
        self.at = 0

    def fail(self, reason: str) -> ModelError:
        return _unusable(self.path, reason)

    def need(self, count: int, what: str) -> None:
        """Have `count` bytes from the cursor on in the buffer."""
        self.reach(self.at + count, what)

    def reach(self, end: int, what: str) -> int:
        """Have the file's first `end` bytes in the buffer; how many there are then."""
        if end > self.size:
            raise self.fail(f"it ends at byte {self.size}, inside {what} (truncated?)")
        if end > MAX_HEADER:
            raise self.fail(f"its header is longer than {MAX_HEADER} bytes")
        while len(self.buffer) < end:
            piece = self.file.read(max(READ_AHEAD, end - len(self.buffer)))
            if not piece:
                raise self.fail(f"it shrank to {len(self.buffer)} bytes while it was read")
            self.buffer += piece
        return len(self.buffer)

    def number(self, layout: str, what: str) -> Any:
        count = struct.calcsize(layout)
        self.need(count, what)
        (value,) = struct.unpack_from(layout, self.buffer, self.at)
        self.at += count
        return value

    def text(self, what: str, limit: int = MAX_STRING) -> str:
        length = self.number("<Q", what)
        if length > limit:
            raise self.fail(f"{what} claims {length} bytes, more than the {limit} allowed")
        self.need(length, what)
        raw = bytes(self.buffer[self.at : self.at + length])
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8: {raw[:32]!r}") from error

    def info(self) -> GgufInfo:
        version = self.version()
        n_tensors = self.count("tensors", MAX_TENSORS, 24)
        n_keys = self.count("metadata keys", MAX_KEYS, 13)
        metadata = self.metadata(n_keys)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise self.fail(f"general.alignment is {alignment!r}, not a power of two")
        tensors = self.tensors(n_tensors, alignment)
        return GgufInfo(
            path=self.path,
            version=version,
            size=self.size,
            alignment=alignment,
            metadata=MappingProxyType(metadata),
            tensors=tensors,
        )

    def version(self) -> int:
        start = self.file.read(READ_AHEAD)
        self.buffer += start
        if start[:4] != b"GGUF":
            raise ModelError(f"{str(self.path)!r} is not a GGUF file: it is {_kind(start)}", hint=_kind_hint(start))
        self.at = 4
        version = int(self.number("<I", "the version"))
        if version and not version & 0xFFFF:
            raise self.fail(f"it is big-endian (version {version:#010x})")
        if version not in (2, 3):
            raise self.fail(f"its version is {version}, and only 2 and 3 are known")
        return version

    def count(self, what: str, limit: int, smallest: int) -> int:
        """A count that the rest of the file could hold, each item having at least `smallest` bytes."""
        count = int(self.number("<Q", f"the number of {what}"))
        if count > limit or count * smallest > self.size - self.at:
            raise self.fail(f"it claims {count} {what}, more than a file of {self.size} bytes can hold")
        return count

    def metadata(self, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i in range(count):
            key = self.text(f"metadata key {i}", limit=65535)
            if not key:
                raise self.fail(f"metadata key {i} is empty")
            if key in found:
                raise self.fail(f"metadata key {key!r} appears twice")
            found[key] = self.value(key, self.number("<I", f"the type of {key!r}"))
        return found

    def value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self.text(f"the value of {key!r}")
        if kind == _ARRAY:
            return self.array(key)
        if kind not in _SCALARS:
            raise self.fail(f"the value of {key!r} has the unknown type {kind}")
        return self.number(_SCALARS[kind], f"the value of {key!r}")

    def array(self, key: str) -> Any:
        kind = self.number("<I", f"the type of {key!r}")
        length = self.number("<Q", f"the length of {key!r}")
        if kind == _ARRAY:
            raise self.fail(f"{key!r} is an array of arrays")
        if kind != _STRING and kind not in _SCALARS:
            raise self.fail(f"the items of {key!r} have the unknown type {kind}")
        size = 8 if kind == _STRING else struct.calcsize(_SCALARS[kind])
        if length * size > self.size - self.at or (kind == _STRING and length > MAX_STRINGS):
            raise self.fail(f"{key!r} claims {length} items, more than a file of {self.size} bytes holds")
        return self.strings(key, length) if kind == _STRING else self.numbers(key, kind, length, size)

    def numbers(self, key: str, kind: int, length: int, size: int) -> Any:
        self.need(length * size, f"the value of {key!r}")
        start, self.at = self.at, self.at + length * size
        if length > KEPT_ITEMS:
            return Array(type=kind, length=length)
        return struct.unpack_from(f"<{length}{_SCALARS[kind][1]}", self.buffer, start)

    def strings(self, key: str, length: int) -> Any:
        """The words, or of very many only how many they are."""
        if length <= KEPT_ITEMS:
            return self.words(key, length)
        size, digest = _checked.get((key, length), (0, b""))
        if not size or self.digest(size) != digest:
            start = self.at
            self.words(key, length)
            size, self.at = self.at - start, start
            if len(_checked) >= MOST_CHECKED:
                _checked.clear()
            _checked[key, length] = size, self.digest(size)
        self.at += size
        return Array(type=_STRING, length=length)

    def digest(self, count: int) -> bytes:
        """Of the next so many bytes; of none where there are fewer."""
        end = self.at + count
        if end > min(self.size, MAX_HEADER):
            return b""
        self.reach(end, "an array of strings")
        return hashlib.blake2b(memoryview(self.buffer)[self.at : end]).digest()

    def words(self, key: str, length: int) -> tuple[str, ...]:
        words: list[bytes] = []
        what, kept = f"the value of {key!r}", length <= KEPT_ITEMS or key == "tokenizer.ggml.tokens"
        unpack, buffer = struct.Struct("<Q").unpack_from, self.buffer
        at, have = self.at, len(buffer)
        for _ in range(length):  # the one loop that runs a million times: no call per item unless the buffer is short
            if at + 8 > have:
                have = self.reach(at + 8, what)
            end = at + 8 + unpack(buffer, at)[0]
            if end > have:
                have = self.reach(end, what)
            if kept:
                words.append(bytes(buffer[at + 8 : end]))
            at = end
        self.at = at
        if key == "tokenizer.ggml.tokens":
            self.check_words(words)
        return tuple(word.decode(errors="replace") for word in words) if length <= KEPT_ITEMS else ()

    def check_words(self, words: list[bytes]) -> None:
        """llama.cpp asserts that no two tokens are alike: such a file would kill the process that loads it."""
        if len(set(words)) == len(words):
            return
        seen: set[bytes] = set()
        for i, word in enumerate(words):
            if word in seen:
                raise self.fail(f"token {i} of its vocabulary, {word[:64]!r}, appears twice")
            if word:
                seen.add(word)

    def tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        heads = [self.tensor_head(i) for i in range(count)]
        names: set[str] = set()
        start = expected = _pad(self.at, alignment)
        found = []
        for name, kind, shape, relative in heads:
            if name in names:
                raise self.fail(f"tensor {name!r} appears twice")
            names.add(name)
            tensor = self.tensor(name, kind, shape, start + relative)
            self.check_place(tensor, relative, expected, alignment)
            expected = _pad(tensor.offset - start + tensor.nbytes, alignment) + start
            found.append(tensor)
        return tuple(found)

    def tensor_head(self, i: int) -> tuple[str, int, tuple[int, ...], int]:
        name = self.text(f"the name of tensor {i}", limit=MAX_NAME)
        n_dims = self.number("<I", f"the shape of {name!r}")
        if not 1 <= n_dims <= MAX_DIMS:
            raise self.fail(f"tensor {name!r} has {n_dims} dimensions, not 1 to {MAX_DIMS}")
        shape = tuple(self.number("<Q", f"the shape of {name!r}") for _ in range(n_dims))
        kind = self.number("<I", f"the type of {name!r}")
        return name, kind, shape, self.number("<Q", f"the offset of {name!r}")

    def tensor(self, name: str, kind: int, shape: tuple[int, ...], offset: int) -> Tensor:
        if kind not in TENSOR_TYPES:
            raise self.fail(f"tensor {name!r} has the unknown type {kind}")
        type_name, block, block_bytes = TENSOR_TYPES[kind]
        if min(shape) < 1:
            raise self.fail(f"tensor {name!r} has the empty shape {shape}")
        if shape[0] % block:
            raise self.fail(f"tensor {name!r} has rows of {shape[0]}, not divisible by {type_name}'s block of {block}")
        nbytes = prod(shape) // block * block_bytes
        if nbytes > self.size:  # Python's integers do not overflow, C's would
            raise self.fail(f"tensor {name!r} of shape {shape} needs {nbytes} bytes, the file has {self.size}")
        return Tensor(name=name, type=type_name, shape=shape, offset=offset, nbytes=nbytes)

    def check_place(self, tensor: Tensor, relative: int, expected: int, alignment: int) -> None:
        """Tensors lie one behind the other, each padded to the alignment; llama.cpp refuses anything else."""
        if relative % alignment:
            raise self.fail(f"tensor {tensor.name!r} starts at {relative}, not a multiple of {alignment}")
        if tensor.offset < expected:
            raise self.fail(f"tensor {tensor.name!r} overlaps the one before it")
        if tensor.offset + tensor.nbytes > self.size:
            end = tensor.offset + tensor.nbytes
            raise self.fail(f"tensor {tensor.name!r} ends at byte {end}, the file at {self.size} (truncated?)")
        if tensor.offset > expected:
            raise self.fail(f"there is a gap before tensor {tensor.name!r}")


def _check_model(info: GgufInfo) -> None:
    reason = _missing(info)
    if reason:
        raise _unusable(info.path, reason)


def _missing(info: GgufInfo) -> str | None:
    kind = info.metadata.get("general.type", "model")
    if kind != "model":
        return f"it holds {kind!r}, not a model"
    if not info.architecture:
        return "general.architecture is missing"
    for key in ("context_length", "embedding_length", "block_count"):
        value = info.get(f".{key}")
        if type(value) is not int or not 0 < value < 1 << 31:
            return f"{info.architecture}.{key} is {value!r}, not a positive number"
    if not info.tensors:
        return "it has no tensors"
    if not info.vocab_size:
        return "it has no vocabulary (tokenizer.ggml.tokens)"
    if info.get("split.count", 1) not in (0, 1):
        return f"it is one of {info.get('split.count')} parts; join them with llama-gguf-split --merge"
    return None


def _unusable(path: Path, reason: str) -> ModelError:
    return ModelError(f"{str(path)!r} is not a usable GGUF file: {reason}", hint="fetch or build it again")


def _length(value: Any) -> int:
    if isinstance(value, Array):
        return value.length
    return len(value) if isinstance(value, tuple) else 0


def _pad(value: int, alignment: int) -> int:
    return (value + alignment - 1) // alignment * alignment


def _kind(start: bytes) -> str:
    if not start:
        return "empty"
    for magic, kind in _FOREIGN:
        if start.startswith(magic):
            return kind
    if len(start) > 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100 << 20:
        return "a safetensors file"
    return f"something that starts with {start[:4]!r}"


def _kind_hint(start: bytes) -> str:
    kind = _kind(start)
    if kind == "a safetensors file":
        return "give the folder it lies in to `foreshore quantize`"
    return "use safetensors or GGUF files" if "pickle" in kind else "check where the file came from"
