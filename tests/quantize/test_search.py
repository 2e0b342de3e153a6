"""The measured search, on a small random model: every target is kept, or it is said what can be had instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foreshore.edge.gguf import inspect
from foreshore.edge.memory import estimate
from foreshore.edge.options import EngineOptions
from foreshore.errors import ModelError, UsageError
from foreshore.quantize.assemble import assemble, file_bytes
from foreshore.quantize.search.fit_targets import FitTargets, parse_fit
from foreshore.quantize.search.meter import Meter, MeterJob
from foreshore.quantize.search.search import Found, search
from foreshore.quantize.texts import Corpus
from tests.quantize.test_assemble import write_imatrix
from tests.tiny_model import write_decoder

TEXT = Corpus.of(f"hello world in the {i} hello, the world is {i * i} " for i in range(8))
FEW = ("q3_k", "q4_k", "q6_k", "q8_0")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_decoder(tmp_path_factory.mktemp("base") / "base.gguf", layers=1, width=256)


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Found]:
    """All tests share what they measured."""
    shared = tmp_path_factory.mktemp("cache")

    def run(fit: str, **options: Any) -> Found:
        settings: dict[str, Any] = {
            "corpus": TEXT,
            "cache": shared,
            "workers": 1,
            "types": FEW,
            "trials": 8,
        } | options
        return search(base, parse_fit(fit), **settings)

    return run


def mixed(base: Path, found: Found, target: Path) -> Path:
    return assemble(inspect(base), found.types, target).path


def test_the_size_is_reached_by_a_mix_better_than_one_type(
    run: Callable[..., Found], base: Path, tmp_path: Path
) -> None:
    uniform = {t.name: "q4_k" for t in inspect(base).tensors if len(t.shape) > 1}
    limit = file_bytes(inspect(base), uniform)
    told: list[tuple[int, int]] = []
    found = run(f"size<={limit}", progress=lambda *step: told.append(step))
    size = mixed(base, found, tmp_path / "mix.gguf").stat().st_size
    assert 0.99 * limit <= size <= limit
    assert size == found.bytes
    assert found.complete
    assert {name: set(kinds) for name, kinds in found.probed.items()} == {name: {"q3_k", "q8_0"} for name in uniform}
    assert found.measured == min(t.measured for t in found.trials)
    check_quality(base, found, uniform)
    check_steps(told)


def check_quality(base: Path, found: Found, uniform: dict[str, str]) -> None:
    meter = Meter(MeterJob(model=base, corpus=TEXT))
    try:
        windows = len(meter.tokens)
        ours, theirs = (sum(meter.divergences(mix, windows)) for mix in (found.types, uniform))
    finally:
        meter.close()
    assert ours / sum(meter.tokens) == pytest.approx(found.measured, rel=1e-3)
    assert ours < theirs


def check_steps(told: list[tuple[int, int]]) -> None:
    """Their number is known from the start, and each comes after the one before."""
    done = [step for step, _ in told]
    assert {total for _, total in told} == {done[-1]}
    assert done == sorted(done)
    assert done[0] == 0


def test_of_what_loses_little_enough_it_takes_the_smallest(run: Callable[..., Found], base: Path) -> None:
    found = run("kl<=0.02")
    assert 0.01 < found.measured <= 0.02
    assert found.bytes < base.stat().st_size / 2


def test_a_worker_holds_no_more_than_is_allowed(run: Callable[..., Found], base: Path, tmp_path: Path) -> None:
    engine = EngineOptions()
    limit = estimate(base, engine).total - 2_400_000
    found = run(f"memory<={limit}")
    held = estimate(mixed(base, found, tmp_path / "mix.gguf"), engine).total
    assert held == found.memory
    assert limit - 50_000 <= held <= limit


def test_targets_that_contradict_each_other_are_named_with_what_can_be_had(run: Callable[..., Found]) -> None:
    with pytest.raises(UsageError, match=r"size<=430000,kl<=0.0001 contradict each other") as caught:
        run("size<=430kB,kl<=1e-4")
    assert str(caught.value.hint).startswith('feasible are about "size<=')


def test_types_that_need_an_importance_matrix_are_taken_with_one(base: Path, tmp_path: Path) -> None:
    imatrix = write_imatrix(tmp_path / "imatrix.gguf", inspect(base))
    settings: dict[str, Any] = {"corpus": TEXT, "workers": 1, "types": ("iq2_xs", "q4_k", "q8_0")}
    with_one = search(base, FitTargets(size=350_000), imatrix=imatrix, **settings)
    assert "iq2_xs" in with_one.types.values()
    with pytest.raises(UsageError, match="out of this model's reach"):
        search(base, FitTargets(size=350_000), **settings)
    with pytest.raises(UsageError, match="out of this model's reach") as hurried:
        search(base, FitTargets(size=350_000), imatrix=imatrix, budget_s=10.0, **settings)
    assert str(hurried.value.hint).endswith("a longer budget leaves time to make iq2_xs too")
    wrong = write_imatrix(tmp_path / "wrong.gguf", inspect(base), wrong=True)
    with pytest.raises(ModelError, match="of another model"):
        search(base, FitTargets(size=350_000), imatrix=wrong, **settings)


def test_models_and_texts_that_cannot_be_searched_are_refused(base: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="predicts no next token"):
        search(tiny_encoder, FitTargets(size=1), corpus=TEXT, workers=1)
    with pytest.raises(UsageError, match="no two tokens in a row"):
        search(base, FitTargets(size=1), corpus=replace(TEXT, documents=("a",)), workers=1)
