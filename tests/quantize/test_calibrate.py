"""Importance matrices collected by us: equal to llama-imatrix's, and right by arithmetic."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
from gguf import GGUFReader

from foreshore.edge.gguf import inspect
from foreshore.errors import ModelError, NotFound, SetupError, UsageError
from foreshore.quantize import calibrate
from foreshore.quantize.imatrix import Imatrix, check_fits
from foreshore.quantize.texts import Corpus, calibration_text
from tests.quantize.llama_check import opened, tokens
from tests.quantize.tiny_experts import write_experts
from tests.tiny_model import write_decoder

# Made by llama-imatrix of the sources that llama-cpp-python 0.3.36 carries, from the models that `write_decoder` and
# `write_experts` write, with `-f imatrix.txt -c 128 -b 128 --no-ppl`, and `--process-output` for the decoder.
DATA = Path(__file__).parent / "data"
collect = partial(calibrate.collect, threads=1)  # as quick as two for models this small, also on a busy machine
TEXT = Corpus.of([(DATA / "imatrix.txt").read_text(encoding="utf-8")])


@pytest.fixture(scope="module")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experts(tmp_path_factory.mktemp("moe") / "moe.gguf")


@pytest.fixture(scope="module")
def collected(tiny: Path) -> Imatrix:
    return collect(tiny, TEXT, context=128, output=True)


def damage(model: Path, name: str) -> Path:
    """Put a NaN into the middle of a weight."""
    tensor = next(t for t in inspect(model).tensors if t.name == name)
    with model.open("r+b") as file:
        file.seek(tensor.offset + tensor.nbytes // 8 * 4)
        file.write(np.array(np.nan, "<f4").tobytes())
    return model


def assert_equal(ours: Imatrix, theirs: Imatrix) -> None:
    assert set(ours.sums) == set(theirs.sums)
    assert (ours.chunks, ours.context) == (theirs.chunks, theirs.context)
    for name, sums in theirs.sums.items():
        assert ours.counts[name].tolist() == theirs.counts[name].tolist(), name
        np.testing.assert_allclose(ours.sums[name], sums, rtol=1e-3, err_msg=name)


def test_a_decoder_gives_what_llama_imatrix_gives(collected: Imatrix) -> None:
    assert_equal(collected, Imatrix.load(DATA / "decoder.imatrix"))
    assert collected.datasets == (f"sha256:{TEXT.sha256}",)


def test_experts_give_what_llama_imatrix_gives(moe: Path) -> None:
    ours = collect(moe, TEXT, context=128)
    assert_equal(ours, Imatrix.load(DATA / "experts.imatrix"))
    router, gate = ours.sums["blk.0.ffn_gate_inp.weight"], ours.sums["blk.0.ffn_gate_exps.weight"]
    np.testing.assert_allclose(gate.sum(0), 2 * router[0], rtol=1e-4)  # each token went to two experts


def test_the_sums_are_those_of_the_normed_embeddings(tiny: Path, collected: Imatrix) -> None:
    """What goes into the first layer's attention can be computed by hand: RMS norm of the embedding, scaled by ones."""
    with opened(tiny, vocab_only=True) as llama:
        ids = tokens(llama, TEXT.text, special=False)
    table = next(t.data for t in GGUFReader(tiny).tensors if t.name == "token_embd.weight").astype(np.float64)
    rows = table[ids[: len(ids) // 128 * 128]]
    normed = rows / np.sqrt((rows**2).mean(1, keepdims=True) + 1e-6)
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(collected.sums[f"blk.0.{name}.weight"][0], (normed**2).sum(0), rtol=1e-5)
        assert collected.counts[f"blk.0.{name}.weight"].tolist() == [len(rows)]


def test_the_length_of_a_batch_changes_nothing(tiny: Path) -> None:
    """A chunk longer than a batch is read in steps, over one cache."""
    text = Corpus.of([TEXT.text[:900]])
    whole = collect(tiny, text, context=800)
    assert (whole.chunks, whole.context) == (1, 800)
    assert whole.counts["blk.1.ffn_down.weight"].tolist() == [800]


def test_the_output_counts_only_where_asked(tiny: Path, moe: Path) -> None:
    assert "output.weight" not in collect(tiny, TEXT, context=512).sums
    tied = collect(moe, TEXT, output=True)
    assert tied.sums["token_embd.weight"].shape == (1, 64)
    check_fits(tied.means(), inspect(moe))


def test_control_tokens_are_read_as_such_in_chats_alone(tiny: Path) -> None:
    text = ["<|im_start|>" * 64]
    chats = collect(tiny, Corpus.of(text, special=True), context=64)
    plain = collect(tiny, Corpus.of(text), context=64)
    assert chats.counts["blk.0.attn_q.weight"].tolist() == [64]
    assert plain.counts["blk.0.attn_q.weight"].tolist() == [768]


def test_the_models_own_context_is_the_longest_chunk(tmp_path: Path) -> None:
    small = write_decoder(tmp_path / "small.gguf", context=64)
    assert collect(small, TEXT).context == 64


def test_progress_tells_the_tokens_read(tiny: Path) -> None:
    seen: list[tuple[int, int]] = []
    collect(tiny, TEXT, context=256, progress=lambda done, total: seen.append((done, total)))
    total = seen[-1][1]
    assert seen == [(done, total) for done in range(0, total + 1, 256)]


def test_too_little_text_is_refused(tiny: Path) -> None:
    with pytest.raises(UsageError, match="the text has 2 tokens, and a chunk takes 512"):
        collect(tiny, Corpus.of(["hello world"]))
    with pytest.raises(UsageError, match="context of 8 tokens is too small"):
        collect(tiny, TEXT, context=8)


def test_a_model_that_cannot_be_calibrated_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="only decoders"):
        collect(tiny_encoder, TEXT)
    with pytest.raises(NotFound):
        collect(tmp_path / "none.gguf", TEXT)
    with pytest.raises(ModelError, match="is not a GGUF"):
        collect(DATA / "imatrix.txt", TEXT)


def test_weights_that_are_not_finite_are_found_by_what_they_do(tmp_path: Path) -> None:
    broken = damage(write_decoder(tmp_path / "broken.gguf"), "blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"what goes into 'blk\.1\.ffn_down\.weight' is not finite"):
        collect(broken, TEXT, context=128)


def test_a_killed_child_is_told(tiny: Path) -> None:
    long = Corpus.of([TEXT.text * 300])

    def kill(done: int, total: int) -> None:
        for child in psutil.Process().children():
            if "foreshore.quantize.calibrate_child" in child.cmdline():
                child.send_signal(signal.SIGKILL)

    with pytest.raises(SetupError, match=r"calibrated 'tiny\.gguf' was killed"):
        collect(tiny, long, progress=kill)


def test_who_gives_up_leaves_no_child(tiny: Path) -> None:
    def give_up(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(tiny, TEXT, progress=give_up)
    assert not [c for c in psutil.Process().children() if "foreshore.quantize.calibrate_child" in c.cmdline()]


def test_a_starters_chats_can_be_read_by_any_model(tiny: Path) -> None:
    corpus = calibration_text("starter-s", documents=45)
    assert collect(tiny, corpus).chunks > 2
