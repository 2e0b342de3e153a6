"""Rounding by second moments: the outputs' error falls, no row gets worse, and the moments are the text's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from foreshore.edge.gguf import inspect
from foreshore.quantize.blocks import dequantize, quantize
from foreshore.quantize.calibrate import collect
from foreshore.quantize.codes import codes_of
from foreshore.quantize.search import refine as refining
from foreshore.quantize.search.moments import Moments, collect_moments, kept_moments
from foreshore.quantize.search.moments_child import rounding
from foreshore.quantize.search.refine import refine
from foreshore.quantize.tensor_cache import TensorCache
from foreshore.quantize.texts import Corpus
from tests.tiny_model import write_decoder

TEXT = Corpus.of(["hello world in the hello, the world " * 1000])
CHATS = Corpus.of(f"hello {'world ' * n}in the hello" for n in range(1, 6))


def problem(columns: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights, and the moments of inputs that go together, as those of a trained model do."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(2000, 24)) @ rng.normal(size=(24, columns)) + rng.normal(size=(2000, columns))
    return rng.normal(size=(48, columns)).astype(np.float32), (inputs.T @ inputs).astype(np.float32)


def errors(values: NDArray[np.float32], blocks: NDArray[np.uint8], kind: str, moments: NDArray[np.float32]) -> object:
    off = dequantize(blocks, kind, values.shape[1]) - values
    return ((off @ moments) * off).sum(axis=1)


@pytest.mark.parametrize("kind", ["q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs", "q4_0"])
def test_the_error_of_the_outputs_falls(kind: str) -> None:
    values, moments = problem(512)
    plain = quantize(values, kind, np.ascontiguousarray(np.diag(moments)))
    refined = refine(values, plain, kind, moments)
    assert refined.shape == plain.shape
    before, after = (np.asarray(errors(values, blocks, kind, moments)) for blocks in (plain, refined))
    assert after.sum() < 0.6 * before.sum()
    assert (after <= 1.05 * before).all()


def test_inputs_that_do_not_go_together_leave_little_to_gain() -> None:
    values, _ = problem(256)
    moments = np.eye(256, dtype=np.float32)
    plain = quantize(values, "q4_k", np.ones(256, np.float32))
    refined = refine(values, plain, "q4_k", moments)
    before, after = (np.asarray(errors(values, blocks, "q4_k", moments)) for blocks in (plain, refined))
    assert 0.8 * before.sum() < after.sum() <= before.sum()


def test_the_moments_are_those_of_the_text(tmp_path: Path) -> None:
    base = write_decoder(tmp_path / "base.gguf", layers=1, width=256)
    moments = Moments(collect_moments(base, TEXT, tmp_path / "moments.npz", threads=1))
    means = collect(base, TEXT, threads=1, output=True).means()  # without what is left over after the last chunk
    for name in ("blk.0.attn_q.weight", "blk.0.ffn_down.weight", "output.weight"):
        found = moments.get(name)
        assert found is not None
        assert found == pytest.approx(found.T, rel=1e-4)
        diagonal = np.diag(found)
        assert diagonal / diagonal.sum() == pytest.approx(means[name] / means[name].sum(), rel=0.1)
    shared = [moments.get(f"blk.0.attn_{part}.weight") for part in "qkv"]
    assert all(np.array_equal(shared[0], one) for one in shared)  # type: ignore[arg-type]
    assert moments.get("no.weight") is None
    assert [p.name for p in tmp_path.iterdir() if "moments" in p.name] == ["moments.npz"]


@pytest.mark.parametrize("block", [32, 256])
def test_what_rounding_inputs_loses_is_foretold(block: int) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(500, 512)).astype(np.float32)
    inputs[:, 40] *= 50  # takes the fine steps from those around it
    blocks = inputs.reshape(500, -1, block)
    steps = np.abs(blocks).max(axis=2, keepdims=True) / 127
    off = ((np.rint(blocks / steps) * steps - blocks) ** 2).reshape(500, 512).sum(axis=0)
    found = rounding(inputs)[block]
    others = np.delete(np.arange(512), 40)  # which itself has the largest code, and no error
    assert found[others].sum() == pytest.approx(off[others].sum(), rel=0.02)
    assert found[41] > 100 * found[300], "beside the outlier, and far from it"


def test_blocks_of_32_lose_less_to_inputs_that_have_outliers(tmp_path: Path) -> None:
    base = inspect(write_decoder(tmp_path / "base.gguf", layers=1, width=256))
    moments = Moments(collect_moments(base.path, TEXT, tmp_path / "moments.npz", threads=1))
    tensor = next(t for t in base.tensors if t.name == "blk.0.ffn_down.weight")
    fine, coarse = (moments.rounding(tensor.name, block) for block in (32, 256))
    assert fine is not None
    assert coarse is not None
    assert fine.shape == coarse.shape == (tensor.shape[0],)
    assert (fine <= coarse).all()
    assert moments.rounding("no.weight", 32) is None
    with_inputs, alone = TensorCache(None, moments=moments), TensorCache(None, moments=Blind(tmp_path / "moments.npz"))
    for kind in ("q6_k", "q8_0"):
        assert with_inputs.error(base, tensor, kind) > alone.error(base, tensor, kind)
    assert with_inputs.error(base, tensor, "f16") == alone.error(base, tensor, "f16"), "floats meet inputs as they are"


class Blind(Moments):
    def rounding(self, name: str, block: int) -> None:
        return None


def test_each_document_is_read_by_itself(tmp_path: Path) -> None:
    base = write_decoder(tmp_path / "base.gguf", layers=1, width=256)
    name = "blk.0.ffn_down.weight"

    def moments(corpus: Corpus) -> NDArray[np.float32]:
        found = Moments(collect_moments(base, corpus, tmp_path / "moments.npz", threads=1)).get(name)
        assert found is not None
        return found

    alone = sum(moments(Corpus.of([document])) for document in CHATS.documents)
    assert moments(CHATS) == pytest.approx(alone, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "kind", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs", "iq4_nl", "q4_0", "q4_1", "q5_0", "q5_1"]
)
def test_codes_are_read_and_written_as_ggml_keeps_them(kind: str) -> None:
    codes, values = codes_of(kind), np.random.default_rng(1).normal(size=(6, 512)).astype(np.float32)
    assert codes is not None
    blocks = quantize(values, kind, np.ones(512, np.float32))
    found = codes.read(blocks, 512)
    assert np.array_equal(codes.write(blocks, found), blocks)
    offsets, steps = codes.grid(blocks, 512)
    assert offsets + steps * codes.levels[found] == pytest.approx(dequantize(blocks, kind, 512), abs=1e-5)
    other = np.random.default_rng(2).integers(0, len(codes.levels), (6, 512)).astype(np.uint8)
    assert np.array_equal(codes.read(codes.write(blocks, other), 512), other)


def test_types_whose_codes_stand_for_several_weights_have_none() -> None:
    assert codes_of("iq3_s") is None
    assert codes_of("f16") is None


def test_a_row_of_zeros_stays_so_and_large_tensors_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values, moments = problem(256)
    values[5] = 0
    plain = quantize(values, "q4_k", np.ascontiguousarray(np.diag(moments)))
    whole = refine(values, plain, "q4_k", moments)
    assert not dequantize(whole, "q4_k", 256)[5].any()
    monkeypatch.setattr(refining, "CHUNK_WEIGHTS", 256 * 7)
    assert np.array_equal(refine(values, plain, "q4_k", moments), whole)


def test_a_tensor_that_nothing_went_into_is_rounded_as_it_is(tmp_path: Path) -> None:
    info = inspect(write_decoder(tmp_path / "base.gguf", layers=1, width=256))
    tensor = next(t for t in info.tensors if t.name == "blk.0.attn_q.weight")
    columns = tensor.shape[0]
    nothing = np.zeros((columns, columns), np.float32)
    np.savez(tmp_path / "moments.npz", names=[tensor.name], inputs=[0], input0=nothing)
    cache = TensorCache(None, moments=Moments(tmp_path / "moments.npz"))
    assert np.array_equal(cache.blocks(info, tensor, "q4_k"), TensorCache(None).blocks(info, tensor, "q4_k"))
    assert cache.error(info, tensor, "q4_k") == TensorCache(None).error(info, tensor, "q4_k")


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut off"])
def test_moments_that_are_damaged_are_collected_again(damage: bytes, tmp_path: Path) -> None:
    base = write_decoder(tmp_path / "base.gguf", layers=1, width=64)
    target = tmp_path / "kept" / "moments.npz"
    whole = kept_moments(base, CHATS, target).read_bytes()
    target.write_bytes(damage)
    kept_moments(base, CHATS, target)
    assert target.stat().st_size == len(whole)
    before = target.stat().st_mtime_ns
    kept_moments(base, CHATS, target)
    assert target.stat().st_mtime_ns == before, "what is whole is kept"
