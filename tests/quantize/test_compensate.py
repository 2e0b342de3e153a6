"""Compensation: a file comes nearer to its parent, keeps its types, and goes on after a kill."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.errors import SetupError
from foreshore.quantize import build, mixing
from foreshore.quantize.assemble import assemble
from foreshore.quantize.blocks import dequantize
from foreshore.quantize.mixing import make_mix
from foreshore.quantize.quality import compare
from foreshore.quantize.reference import Reference
from foreshore.quantize.search import compensate as compensating
from foreshore.quantize.search import compensate_child
from foreshore.quantize.search.compensate import compensate, worthwhile
from foreshore.quantize.search.compensate_child import Compensation
from foreshore.quantize.search.fit_targets import FitTargets
from foreshore.quantize.tensor_cache import raw_bytes
from foreshore.quantize.texts import Corpus
from foreshore.store import Store
from tests.quantize.tiny_models import decoder
from tests.tiny_model import write_decoder, write_parallel, write_recurrent

STAGES = [
    *(
        {f"blk.{layer}.{name}.weight" for name in names}
        for layer in range(2)
        for names in (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))
    ),
    {"output.weight"},
]
TEXT = Corpus.of(f"hello world in the {i} hello, the world is {i * i} " for i in range(80))
ADDED = {f"blk.{layer}.{name}.weight" for layer in range(2) for name in ("attn_output", "ffn_down")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("base") / "base.gguf", width=64)


@pytest.fixture
def mix(base: Path, tmp_path: Path) -> Path:
    return coarse(base, tmp_path / "mix.gguf")


def coarse(base: Path, target: Path, kind: str = "q4_0") -> Path:
    info = inspect(base)
    matrices = [t for t in info.tensors if len(t.shape) == 2 and t.shape[0] % 32 == 0]
    types = {t.name: kind for t in matrices if t.name != "token_embd.weight"}
    return assemble(info, types, target).path


def dequantized(info: GgufInfo, name: str) -> NDArray[np.float32]:
    tensor = next(t for t in info.tensors if t.name == name)
    return dequantize(raw_bytes(info, tensor).reshape(tensor.shape[1], -1), tensor.type, tensor.shape[0])


def job(base: Path, mix: Path, text: Corpus = TEXT, *, context: int = 512) -> dict[str, object]:
    return {
        "base": str(base),
        "mix": str(mix),
        "documents": text.documents,
        "special": text.special,
        "context": context,
        "tokens": 2048,
        "enough": 8,
        "threads": 1,
    }


def test_it_comes_nearer_to_its_parent_and_keeps_its_types(base: Path, mix: Path, tmp_path: Path) -> None:
    before = inspect(shutil.copyfile(mix, tmp_path / "before.gguf"))
    told: list[tuple[int, int]] = []
    found = compensate(
        base, mix, TEXT, budget_s=600, cache=tmp_path / "cache", threads=1, progress=lambda *n: told.append(n)
    )
    after = inspect(mix)
    assert found.stages == found.of == len(STAGES)
    assert told == [(n, len(STAGES)) for n in range(len(STAGES) + 1)]
    assert [(t.name, t.type, t.offset) for t in after.tensors] == [(t.name, t.type, t.offset) for t in before.tensors]
    changed = {t.name for t in after.tensors if not np.array_equal(raw_bytes(after, t), raw_bytes(before, t))}
    assert changed == set.union(*STAGES)
    reference = Reference.build(base, TEXT, tmp_path / "references")
    ours, theirs = (compare(reference, info.path).kl.sum() for info in (after, before))
    assert ours < 0.7 * theirs
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"]
    assert found.kept
    assert 0 < found.after < found.before


def test_who_is_interrupted_goes_on(base: Path, mix: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copyfile(mix, tmp_path / "whole.gguf"))
    compensate(base, whole, TEXT, budget_s=600, cache=tmp_path / "other", threads=1)
    original = mix.read_bytes()

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compensate(base, mix, TEXT, budget_s=600, cache=tmp_path / "cache", threads=1, progress=stop)
    assert mix.read_bytes() == original
    told: list[int] = []
    compensate(base, mix, TEXT, budget_s=600, cache=tmp_path / "cache", threads=1, progress=lambda n, _: told.append(n))
    assert told[0] == 4
    assert mix.read_bytes() == whole.read_bytes()


def test_without_enough_time_or_text_the_file_stays_as_it_is(base: Path, mix: Path, tmp_path: Path) -> None:
    original = mix.read_bytes()
    found = compensate(base, mix, TEXT, budget_s=1e-6, cache=tmp_path / "cache", threads=1)
    assert (found.stages, found.of, found.kept) == (0, len(STAGES), False)
    assert str(found) == "no time or too little text"
    assert mix.read_bytes() == original


def test_a_file_that_comes_no_nearer_stays_as_it_is(
    base: Path, mix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compensating, "_compared", lambda *_: (0.1, 0.2))
    original = mix.read_bytes()
    found = compensate(base, mix, TEXT, budget_s=600, cache=tmp_path / "cache", threads=1)
    assert str(found) == "left as it was"
    assert mix.read_bytes() == original


def test_inputs_too_wide_for_the_text_are_left(base: Path, mix: Path, tmp_path: Path) -> None:
    some = Corpus.of(TEXT.documents[:25])  # tokens enough for 64 columns, not for the 128 of `ffn_down`
    found = compensate(base, mix, some, budget_s=600, cache=tmp_path / "cache", threads=1)
    assert (found.stages, found.of) == (len(STAGES) - 2, len(STAGES))
    assert 64 * 8 <= found.tokens < 128 * 8


def test_what_others_left_is_dropped_after_a_week(base: Path, mix: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for name, age_s in (("compensated-0.gguf", 8 * 86_400), ("compensated-1.gguf", 86_400)):
        (cache / name).write_bytes(b"some")
        os.utime(cache / name, (time.time() - age_s,) * 2)
    compensate(base, mix, TEXT, budget_s=1e-6, cache=cache, threads=1)
    assert [p.name for p in cache.glob("*.gguf")] == ["compensated-1.gguf"]


@pytest.mark.parametrize("refine", [True, False])
def test_a_mix_is_searched_for_written_and_compensated(base: Path, tmp_path: Path, refine: bool) -> None:
    said: list[str] = []
    made = make_mix(
        inspect(base),
        FitTargets(size=200_000),
        tmp_path / "mix.gguf",
        corpus=TEXT,
        imatrix=None,
        budget_s=20,
        cache=tmp_path / "cache",
        refine=refine,
        workers=1,
        searching=lambda done, total: said.append("search"),
        writing=lambda done: said.append("write"),
        compensating=lambda done, total: said.append("compensate"),
    )
    assert made.info.size <= 200_000
    assert {t.name: t.type for t in made.info.tensors if t.name in made.found.types} == made.found.types
    assert list(dict.fromkeys(said)) == ["search", "write", "compensate"][: 2 + refine]
    assert bool(made.compensated and made.compensated.stages) == refine


def test_the_file_is_judged_on_documents_that_were_not_read() -> None:
    read, judged = compensating._parted(TEXT)
    assert read.documents + judged.documents == TEXT.documents
    assert 0.05 < len("".join(judged.documents)) / len("".join(TEXT.documents)) <= 0.1
    one = Corpus.of(["hello " * 5000])
    read, judged = compensating._parted(one)
    assert read == one
    assert len(judged.documents[0]) == compensating.JUDGED


def test_time_is_kept_only_where_the_text_may_do(base: Path) -> None:
    info = inspect(base)
    assert worthwhile(info, TEXT)
    assert not worthwhile(info, Corpus.of(["hello " * 100]))


def test_stages_follow_the_graph_and_sums_are_found(base: Path, mix: Path) -> None:
    work = Compensation(job(base, mix))
    assert [set(names) for names in work.stages()] == STAGES
    assert work.added == ADDED


def test_what_a_sum_lost_before_is_the_difference_of_the_streams(base: Path, tmp_path: Path) -> None:
    """The first layer's attention is added to the embedding, which both files have alike; its feed-forward to what the
    attention has changed."""
    work = Compensation(job(base, coarse(base, tmp_path / "mix.gguf", "q8_0")))
    stages = work.stages()
    first, second = (work.moments(stages[n], work.packs[:1]) for n in (1, 3))
    assert first[2].shape == (64, 64)
    assert not first[2].any()
    assert np.abs(first[1]).max() > 0
    assert np.abs(second[2]).max() > 0


def test_a_model_that_equals_its_parent_has_nothing_to_make_up_for(base: Path, tmp_path: Path) -> None:
    same = Path(shutil.copyfile(base, tmp_path / "same.gguf"))
    assert compensate(base, same, TEXT, budget_s=600, cache=tmp_path / "cache", threads=1).of == 0
    work = Compensation(job(base, same))
    work.stages()
    products, gaps, lost = work.moments(["blk.1.ffn_down.weight"], work.packs[:1])
    assert np.abs(products).max() > 0
    assert not gaps.any()
    assert not lost.any()


@pytest.mark.parametrize(
    ("family", "added"),
    [("Llama", ADDED), ("Phi3", ADDED), ("Granite", set()), ("Gemma2", set())],  # the last two scale before they add
)
def test_other_families_are_compensated(family: str, added: set[str], tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (manifest,) = build(decoder(tmp_path / "model", family), ["f32"], store=store)
    parent = store.path(manifest)
    mix = coarse(parent, tmp_path / "mix.gguf")
    work = Compensation(job(parent, mix, context=64))
    assert len(work.stages()) >= 2 * 4
    assert work.added == added
    assert compensate(parent, mix, TEXT, budget_s=600, cache=tmp_path / "cache", threads=1).stages >= 2 * 3
    reference = Reference.build(parent, TEXT, tmp_path / "references")
    ours, theirs = (compare(reference, p).kl.sum() for p in (mix, coarse(parent, tmp_path / "again.gguf")))
    assert ours < theirs


def test_recurrent_models_are_read_whole(tmp_path: Path) -> None:
    """Their inputs have a dimension for the documents that are read side by side."""
    parent = write_recurrent(tmp_path / "parent.gguf")
    mix = coarse(parent, tmp_path / "mix.gguf")
    work = Compensation(job(parent, mix))
    names = next(names for names in work.stages() if "blk.1.ssm_out.weight" in names)
    products, _, lost = work.moments(names, work.packs[:1])
    assert lost.shape == (128, 64)
    assert np.linalg.matrix_rank(products) > 100, "of 128, which some tokens of one document cannot reach"
    found = compensate(parent, mix, TEXT, budget_s=600, cache=tmp_path / "cache", threads=1)
    assert found.kept


def test_layers_that_add_both_their_halves_at_once_lose_less_too(tmp_path: Path) -> None:
    parent = write_parallel(tmp_path / "parent.gguf")
    mix = coarse(parent, tmp_path / "mix.gguf")
    work = Compensation(job(parent, mix))
    stages = work.stages()
    assert {"blk.0.attn_qkv.weight", "blk.0.ffn_up.weight"} in map(set, stages), "they share an input"
    assert not work.added, "of neither is it known what else comes into the sum"
    before = Path(shutil.copyfile(mix, tmp_path / "before.gguf"))
    found = compensate(parent, mix, TEXT, budget_s=600, cache=tmp_path / "cache", threads=1)
    assert found.kept
    assert found.stages == found.of == len(stages)
    reference = Reference.build(parent, TEXT, tmp_path / "references")
    ours, theirs = (compare(reference, path).kl.sum() for path in (mix, before))
    assert ours < 0.8 * theirs


def test_a_tensor_is_rounded_some_rows_at_a_time(
    base: Path, mix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copyfile(mix, tmp_path / "other.gguf"))
    made = []
    for file, weights in ((mix, 1 << 22), (other, 64 * 24)):
        monkeypatch.setattr(compensate_child, "CHUNK_WEIGHTS", weights)
        work = Compensation(job(base, file))
        stages = work.stages()
        shared, added = stages[0], stages[3]  # the second is a sum's, which has rows of its own to make up for
        for names in (shared, added):
            work.round(names)
        info = inspect(file)
        made.append([dequantized(info, name) for name in (*shared, *added)])
    for whole, parts in zip(*made, strict=True):
        assert np.mean(whole == parts) > 0.99, "but where products rounded otherwise tip a code"


def test_what_is_not_finite_leaves_a_stage_as_it_is(base: Path, mix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mix.read_bytes()
    work = Compensation(job(base, mix))
    broken = np.full((64, 64), np.nan, np.float32)
    monkeypatch.setattr(work, "moments", lambda *_: (np.eye(64, dtype=np.float32), broken, broken[:0]))
    work.round(work.stages()[0])
    assert mix.read_bytes() == before


def test_a_mix_outlives_its_compensation(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise SetupError("the process that compensated 'mix.gguf' crashed (signal 6)")

    monkeypatch.setattr(mixing, "compensate", crash)
    made = make_mix(
        inspect(base), FitTargets(size=200_000), tmp_path / "mix.gguf",
        corpus=TEXT, imatrix=None, budget_s=20, cache=tmp_path / "cache", refine=True, workers=1,
    )  # fmt: skip
    assert made.compensated is None
    assert "signal 6" in made.failed
    assert made.info.size <= 200_000


def test_a_weight_that_the_graph_lacks_is_an_error(base: Path, mix: Path) -> None:
    work = Compensation(job(base, mix))
    with pytest.raises(SetupError, match="no product with"):
        work.moments(["blk.9"], work.packs[:1])
