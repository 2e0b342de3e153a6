"""Files of mixed types: every tensor as llama.cpp's own quantizer makes it, the size known beforehand."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.errors import ModelError, UsageError
from foreshore.quantize.assemble import assemble, file_bytes
from foreshore.quantize.native import plan, quantize
from tests.tiny_model import write_decoder

MIX = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0", "q4_0", "q5_1", "iq4_nl", "iq4_xs", "iq3_s", "f16")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> GgufInfo:
    return inspect(write_decoder(tmp_path_factory.mktemp("base") / "base.gguf", layers=1, width=256))


def write_imatrix(path: Path, base: GgufInfo, *, wrong: bool = False) -> Path:
    rng = np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    for tensor in base.tensors:
        if tensor.name.startswith("blk") and len(tensor.shape) == 2:
            columns = tensor.shape[0] + (32 if wrong else 0)
            writer.add_tensor(f"{tensor.name}.in_sum2", rng.gamma(1.0, 4.0, (1, columns)).astype(np.float32))
            writer.add_tensor(f"{tensor.name}.counts", np.full((1, 1), 8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def contents(info: GgufInfo) -> dict[str, bytes]:
    raw = info.path.read_bytes()
    return {t.name: raw[t.offset : t.offset + t.nbytes] for t in info.tensors}


def matrices(base: GgufInfo) -> list[str]:
    return [t.name for t in base.tensors if len(t.shape) == 2]


def test_the_tensors_are_those_of_the_native_quantizer(base: GgufInfo, tmp_path: Path) -> None:
    imatrix = write_imatrix(tmp_path / "imatrix.gguf", base)
    planned = plan(base, "q4_k_m")
    theirs = quantize(base, tmp_path / "theirs.gguf", "q4_k_m", planned, imatrix=imatrix)
    ours = assemble(base, planned.types, tmp_path / "ours.gguf", imatrix=imatrix, cache=tmp_path / "cache")
    again = assemble(base, planned.types, tmp_path / "again.gguf", imatrix=imatrix, cache=tmp_path / "cache")
    assert contents(ours) == contents(theirs) == contents(again)
    about_the_matrix = {key for key in theirs.metadata if key.startswith("quantize.imatrix.")}
    assert dict(ours.metadata) == {k: v for k, v in theirs.metadata.items() if k not in about_the_matrix}
    assert ours.size <= theirs.size


def test_the_size_is_known_beforehand_and_each_tensor_has_its_type(base: GgufInfo, tmp_path: Path) -> None:
    types = dict(zip(matrices(base), MIX, strict=False))
    done: list[int] = []
    made = assemble(base, types, tmp_path / "mix.gguf", progress=done.append)
    assert {t.name: t.type for t in made.tensors} == {t.name: t.type for t in base.tensors} | types
    assert file_bytes(base, types) - made.alignment <= made.size <= file_bytes(base, types)
    assert file_bytes(made, {}) == made.size
    assert done == sorted(done)
    assert done[-1] == sum(t.nbytes for t in base.tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["mix.gguf"]


@pytest.mark.parametrize(
    ("types", "reason"),
    [
        ({"no.weight": "q4_0"}, "no tensor 'no.weight'"),
        ({"output.weight": "q4_k_m"}, "not a tensor type"),
        ({"blk.0.attn_q.bias": "q4_k"}, None),
        ({"blk.0.ffn_down.weight": "q9_9"}, "not a tensor type"),
    ],
)
def test_types_that_make_no_sense_are_refused(
    base: GgufInfo, tmp_path: Path, types: dict[str, str], reason: str | None
) -> None:
    if reason is None:  # a vector of 256 divides: it may be asked for
        assert assemble(base, types, tmp_path / "x.gguf").size
        return
    with pytest.raises(UsageError, match=reason):
        assemble(base, types, tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())


def test_rows_that_do_not_divide_are_named(tmp_path: Path) -> None:
    base = inspect(write_decoder(tmp_path / "base.gguf", layers=1, width=64))
    with pytest.raises(UsageError, match=r"'output.weight' cannot be q4_k: its rows of 64"):
        assemble(base, {"output.weight": "q4_k"}, tmp_path / "x.gguf")


def test_a_matrix_of_another_model_is_refused(base: GgufInfo, tmp_path: Path) -> None:
    imatrix = write_imatrix(tmp_path / "imatrix.gguf", base, wrong=True)
    with pytest.raises(ModelError, match="of another model"):
        assemble(base, {"blk.0.attn_q.weight": "q4_k"}, tmp_path / "x.gguf", imatrix=imatrix)
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(base: GgufInfo, tmp_path: Path, value: float) -> None:
    damaged = tmp_path / "damaged.gguf"
    raw = bytearray(base.path.read_bytes())
    tensor = next(t for t in base.tensors if t.name == "blk.0.ffn_up.weight")
    raw[tensor.offset : tensor.offset + 4] = np.float32(value).tobytes()
    damaged.write_bytes(raw)
    with pytest.raises(ModelError, match=r"'blk.0.ffn_up.weight' has 1 weights that are not finite"):
        assemble(inspect(damaged), {"blk.0.ffn_up.weight": "iq3_s"}, tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_what_is_quantized_already_is_not_quantized_again(base: GgufInfo, tmp_path: Path) -> None:
    made = assemble(base, {"output.weight": "q8_0"}, tmp_path / "q8_0.gguf")
    with pytest.raises(ModelError, match=r"'output.weight' is q8_0 already"):
        assemble(made, {"output.weight": "q4_0"}, tmp_path / "x.gguf")
