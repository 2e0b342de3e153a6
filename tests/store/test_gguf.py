"""`inspect` either describes a file or says exactly why not; no bytes make it crash, hang or grow."""

from __future__ import annotations

import ctypes
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.edge.gguf import FILE_TYPES, TENSOR_TYPES, Array, inspect, scan
from foreshore.errors import ModelError, NotFound
from foreshore.quantize import ftypes
from tests.store.gguf_files import ARRAY, KEYS, STRING, TENSORS, U32, gguf, key, number, tensor, text, words, write


def test_a_good_file_is_described(tmp_path: Path) -> None:
    info = inspect(write(tmp_path / "m.gguf", gguf()))
    assert (info.architecture, info.context_length, info.embedding_length, info.block_count) == ("llama", 128, 32, 1)
    assert (info.vocab_size, info.n_params, info.version, info.file_type) == (3, 192, 3, "q8_0")
    assert info.chat_template == "{{ messages }}"
    assert info.sampling == {"temp": 0.5}
    assert info.get("tokenizer.ggml.scores") == Array(type=6, length=300)
    assert [(t.name, t.type, t.shape, t.nbytes) for t in info.tensors] == [
        ("token_embd.weight", "f32", (32, 4), 512),
        ("output.weight", "q8_0", (32, 2), 68),
    ]
    assert info.tensors[1].offset + 68 == info.size
    assert info.bits_per_weight == pytest.approx(8 * 580 / 192)


HUGE = 1 << 62
GOOD = gguf()
BAD = {
    "GGUF": gguf(magic=b"GGUG"),
    "version is 1": gguf(version=1),
    "version is 4": gguf(version=4),
    "big-endian": gguf(version=3 << 24),
    f"claims {HUGE} tensors": gguf(n_tensors=HUGE),
    f"claims {HUGE} metadata keys": gguf(n_keys=HUGE),
    "shape of 'output.weight'": gguf(n_tensors=2, n_keys=len(KEYS))[: GOOD.index(b"output.weight") + 14],
    "appears twice": gguf([*KEYS, KEYS[1]]),
    "is empty": gguf([*KEYS, key("", U32, b"\0\0\0\0")]),
    "not UTF-8": gguf([*KEYS, key("x", STRING, text(b"\xff\xfe"))]),
    "unknown type 13": gguf([*KEYS, key("x", 13, b"")]),
    "array of arrays": gguf([*KEYS, key("x", ARRAY, struct.pack("<IQ", ARRAY, 1))]),
    "items of 'x' have the unknown type 99": gguf([*KEYS, key("x", ARRAY, struct.pack("<IQ", 99, 1))]),
    f"claims {HUGE} items": gguf([*KEYS, key("x", ARRAY, struct.pack("<IQ", U32, HUGE))]),
    f"claims {HUGE} bytes": gguf([*KEYS, key("x", STRING, struct.pack("<Q", HUGE))]),
    "not a power of two": gguf([*KEYS, number("general.alignment", 24)]),
    "'b', appears twice": gguf([*KEYS[:4], words("tokenizer.ggml.tokens", ["a", "b", "b"])]),
    "has 0 dimensions": gguf(tensors=[tensor("t", (), 0, 0)]),
    "has 5 dimensions": gguf(tensors=[tensor("t", (1,) * 5, 0, 0)]),
    "empty shape": gguf(tensors=[tensor("t", (32, 0), 0, 0)]),
    "unknown type 200": gguf(tensors=[tensor("t", (32,), 200, 0)]),
    "removed": gguf(tensors=[tensor("removed", (32,), 4, 0)]),
    "not divisible by q8_0's block of 32": gguf(tensors=[tensor("t", (33,), 8, 0)]),
    f"shape \\({HUGE}, {HUGE}\\)": gguf(tensors=[tensor("t", (HUGE, HUGE), 0, 0)]),
    "not a multiple of 32": gguf(tensors=[tensor("t", (32,), 0, 8)]),
    "overlaps": gguf(tensors=[TENSORS[0], tensor("t", (32,), 0, 64)]),
    "gap": gguf(tensors=[tensor("t", (32,), 0, 64)]),
    "tensor 'token_embd.weight' appears twice": gguf(tensors=[TENSORS[0], tensor("token_embd.weight", (32,), 0, 512)]),
    "more than the 63 allowed": gguf(tensors=[tensor("t" * 64, (32,), 0, 0)]),
    "ends at byte": gguf()[:-1],
    "truncated": GOOD[: GOOD.index(b"token_embd") + 20],
    "architecture is missing": gguf(KEYS[1:]),
    "llama.context_length is None": gguf([KEYS[0], *KEYS[2:]]),
    "llama.block_count is 0": gguf([*KEYS[:3], number("llama.block_count", 0), *KEYS[4:]]),
    "no vocabulary": gguf(KEYS[:4]),
    "no tensors": gguf(tensors=[], data=b""),
    "holds 'imatrix'": gguf([*KEYS, key("general.type", STRING, text("imatrix"))]),
    "one of 3 parts": gguf([*KEYS, number("split.count", 3)]),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_file_is_refused_with_the_reason(reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=reason):
        inspect(write(tmp_path / "m.gguf", BAD[reason]))


def test_a_long_vocabulary_that_is_known_is_still_checked_where_it_differs(tmp_path: Path) -> None:
    def vocabulary(*last: str) -> bytes:
        return gguf([*KEYS[:4], words("tokenizer.ggml.tokens", [f"w{i}" for i in range(300)] + list(last))])

    for name in ("one", "another"):
        assert inspect(write(tmp_path / f"{name}.gguf", vocabulary("x1", "x2"))).vocab_size == 302
    with pytest.raises(ModelError, match="'w1', appears twice"):
        inspect(write(tmp_path / "twice.gguf", vocabulary("x1", "w1")))
    with pytest.raises(ModelError, match="claims 302 items"):
        inspect(write(tmp_path / "short.gguf", vocabulary("x1", "x2")[:2000]))
    assert inspect(write(tmp_path / "longer.gguf", vocabulary("x1", "x" * 5000))).vocab_size == 302


def test_files_of_other_kinds_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", "x")
    files = {
        "zip archive": tmp_path / "pytorch_model.bin",
        "pickle": write(tmp_path / "model.pt", pickle.dumps({"a": 1})),
        "safetensors": write(tmp_path / "model.safetensors", struct.pack("<Q", 10) + b'{"a": {}} '),
        "Git LFS": write(tmp_path / "lfs.gguf", b"version https://git-lfs.github.com/spec/v1\n"),
        "HTML": write(tmp_path / "page.gguf", b"<!DOCTYPE html>"),
        "empty": write(tmp_path / "empty.gguf", b""),
        "folder": tmp_path,
    }
    for kind, path in files.items():
        with pytest.raises(ModelError, match=kind):
            inspect(path)
    with pytest.raises(NotFound, match="absent"):
        inspect(tmp_path / "absent.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    writer = os.open(tmp_path / "pipe.gguf", os.O_RDWR)  # so that opening it does not wait
    try:
        with pytest.raises(ModelError, match="not a regular file"):
            inspect(tmp_path / "pipe.gguf")
    finally:
        os.close(writer)


def test_a_hostile_header_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf([*KEYS, key("x", ARRAY, struct.pack("<IQ", STRING, 1 << 30))], [], b""))
    os.truncate(path, 64 << 30)  # a sparse file that holds all it claims
    tracemalloc.start()
    try:
        with pytest.raises(ModelError):
            inspect(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=400, deadline=None)
@given(end=st.integers(0, len(GOOD)))
def test_no_truncation_crashes(end: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.getbasetemp() / "cut.gguf", GOOD[:end])
    if end == len(GOOD):
        assert inspect(path).n_params == 192
    else:
        with pytest.raises(ModelError):
            inspect(path)


@settings(max_examples=800, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(1, 255)), min_size=1, max_size=8))
def test_no_flipped_bytes_crash(flips: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    content = bytearray(GOOD)
    for at, mask in flips:
        content[at] ^= mask
    path = write(tmp_path_factory.getbasetemp() / "flipped.gguf", bytes(content))
    try:
        info = inspect(path)
    except ModelError:
        return
    assert all(t.offset + t.nbytes <= info.size for t in info.tensors)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=400))
def test_no_bytes_behind_the_magic_crash(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.getbasetemp() / "noise.gguf", b"GGUF\x03\0\0\0" + content)
    with pytest.raises(ModelError):
        inspect(path)


def test_tables_agree_with_the_native_library() -> None:
    from llama_cpp._ggml import libggml as ggml

    ggml.ggml_type_size.restype = ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_name.restype = ctypes.c_char_p
    for kind, (name, block, size) in TENSOR_TYPES.items():
        assert ggml.ggml_type_name(kind).decode().lower() == name
        assert (ggml.ggml_blck_size(kind), ggml.ggml_type_size(kind)) == (block, size), name
    assert ftypes().items() <= {name: kind for kind, name in FILE_TYPES.items()}.items()


def test_scan_takes_what_is_no_model(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", gguf([key("general.type", STRING, text("imatrix"))]))
    assert [t.name for t in scan(path).tensors] == ["token_embd.weight", "output.weight"]
