"""The estimator: what it learns, what it refuses, and its file."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.errors import ModelError, NotFound, UsageError
from foreshore.quality import Estimator, Label, train
from foreshore.quality.confidence_fit import auroc, ece
from foreshore.quality.hashing import READ
from tests.quality.prompts import EASY, HARD, labels, prompts


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return train(labels(900, 0))


@pytest.fixture
def saved(estimator: Estimator, tmp_path: Path) -> Path:
    path = tmp_path / "estimator.npz"
    estimator.save(path)
    return path


def weak(estimator: Estimator, texts: list[str]) -> np.ndarray:
    return np.array([estimator.predict(text)["weak"] for text in texts])


def asked(words: list[str]) -> str:
    """A prompt like those that were learnt from."""
    return f"what is {' '.join(words[:4])} and how does it relate 7?"


def test_it_tells_hard_prompts_from_easy_ones(estimator: Estimator) -> None:
    texts, shares = prompts(600, 1)
    right = np.random.default_rng(2).random(len(texts)) < shares
    best = auroc(shares, right)
    assert auroc(weak(estimator, texts), right) > best - 0.03
    assert estimator.predict(asked(HARD))["weak"] < 0.5 < 0.55 < estimator.predict(asked(EASY))["weak"]


def test_its_probabilities_mean_what_they_say(estimator: Estimator) -> None:
    texts, shares = prompts(2500, 3)
    rng = np.random.default_rng(4)
    said = [estimator.predict(text) for text in texts]
    assert ece(np.array([p["weak"] for p in said]), rng.random(len(texts)) < shares) <= 0.05
    assert ece(np.array([p["strong"] for p in said]), rng.random(len(texts)) < 0.9) <= 0.05


def test_the_order_of_labels_changes_nothing() -> None:
    found = labels(300, 5)
    texts, _ = prompts(20, 6)
    shuffled = random.Random(0).sample(found, len(found))
    one, other = train(found), train(shuffled)
    for text in texts:
        assert one.predict(text) == pytest.approx(other.predict(text), abs=1e-5)


def test_each_variant_has_its_own_curve() -> None:
    """One fails on hard words, one everywhere now and then: each is learnt from prompts of its own."""
    rng = np.random.default_rng(7)
    found = []
    for variant, offset in (("m:q3_k_m", 0.0), ("m:q6_k", 0.5)):
        texts, shares = prompts(500, 8 + int(2 * offset))
        share = np.maximum(shares, offset * 1.7)
        found += [Label(t, variant, bool(rng.random() < p)) for t, p in zip(texts, share, strict=True)]
    estimator = train(found)
    assert estimator.targets == ("m:q3_k_m", "m:q6_k")
    texts, shares = prompts(200, 20)
    said = [estimator.predict(text) for text in texts]
    lost = np.array([p["m:q6_k"] - p["m:q3_k_m"] for p in said])
    assert lost[shares < 0.4].mean() > 0.3
    assert lost[shares > 0.8].mean() < 0.2


def test_weights_count_as_often_as_they_say() -> None:
    """Rows that chance drew seldom outweigh those that contradict them."""
    texts, _ = prompts(300, 9)
    found = [Label(text, "a", i % 3 > 0, 1.0 if i % 3 else 20.0) for i, text in enumerate(texts)]
    plain = train([replace(label, weight=1.0) for label in found]).predict(texts[0])["a"]
    weighted = train(found).predict(texts[0])["a"]
    assert plain > 0.5 > 0.3 > weighted


def test_after_the_answer_it_reads_the_answer() -> None:
    rng = np.random.default_rng(10)
    found = []
    for i in range(250):
        a, b = (int(n) for n in rng.integers(2, 90, 2))
        right = bool(rng.random() < 0.5)
        total = a + b + (0 if right else int(rng.integers(1, 9)))
        found.append(Label(f"Add {a} and {b}, number {i}.", "small", right, answer=f"{a} + {b} = {total}"))
    estimator = train(found, answers=True)
    assert estimator.answers
    good, bad = (estimator.predict("Add 21 and 34.", f"21 + 34 = {n}")["small"] for n in (55, 57))
    assert good > 0.8 > 0.2 > bad
    with pytest.raises(UsageError, match="reads the first target's answer"):
        estimator.predict("Add 21 and 34.")


def test_without_answers_it_takes_none(estimator: Estimator) -> None:
    with pytest.raises(UsageError, match="before any answer"):
        estimator.predict("x", "an answer")
    with pytest.raises(UsageError, match="80 of 80 labels have no answer"):
        train(labels(40, 0), answers=True)


@given(st.text(max_size=300))
def test_any_text_has_probabilities(estimator: Estimator, text: str) -> None:
    found = estimator.predict(text)
    assert list(found) == ["strong", "weak"]
    assert all(0 <= share <= 1 for share in found.values())


@pytest.mark.parametrize("text", ["", " ", "\0", "\ud800", "🙂" * 5000, "a" * 1_000_000, "1." * 100_000, "\n" * 50_000])
def test_odd_texts_have_probabilities(estimator: Estimator, text: str) -> None:
    assert all(0 <= share <= 1 for share in estimator.predict(text).values())


def test_of_a_long_text_the_ends_are_read(estimator: Estimator) -> None:
    start, end = "theorem " * (READ[0] // 8), " garden" * (READ[1] // 7) + " " * (READ[1] % 7)
    one, other = (estimator.predict(start + middle * 1000 + end) for middle in ("integral ", "entropy. "))
    assert one == other


def test_what_is_unlike_all_that_was_learnt_from_is_rated_by_its_counts(estimator: Estimator) -> None:
    """None of the prompts had lines or options: the words of one that has are not heard."""
    with_options = "{} and?\nA. {}\nB. {}"
    hard, easy = (estimator.predict(with_options.format(*words)) for words in (["entropy"] * 3, ["holiday"] * 3))
    assert hard == easy


def test_too_few_labels_are_refused_with_numbers() -> None:
    few = labels(60, 0)
    with pytest.raises(UsageError, match=r"'strong' has 5\d right and \d wrong") as refused:
        train(few)
    assert refused.value.hint is not None
    assert "20" in refused.value.hint
    with pytest.raises(UsageError, match="'x' has 100 right and 0 wrong"):
        train([Label(f"prompt {i}", "x", True) for i in range(100)])
    with pytest.raises(UsageError, match="no labels"):
        train([])


def test_answers_in_the_place_of_targets_are_refused() -> None:
    with pytest.raises(UsageError, match="names of targets"):
        train([Label("which?", f"answer number {i}", True) for i in range(2000)])


def test_a_file_says_the_same_again(estimator: Estimator, saved: Path) -> None:
    loaded = Estimator.load(saved)
    texts, _ = prompts(10, 11)
    assert [loaded.predict(text) for text in texts] == [estimator.predict(text) for text in texts]
    assert (loaded.targets, loaded.labels, loaded.scales) == (estimator.targets, estimator.labels, estimator.scales)
    assert saved.stat().st_size < 4 << 20
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_saving_replaces_the_file_that_is_there(estimator: Estimator, saved: Path) -> None:
    estimator.with_report({"prompts": 3}).save(saved)
    assert Estimator.load(saved).report == {"prompts": 3}


def test_places_where_no_file_can_be_are_refused(estimator: Estimator, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "estimator.npz"):
        with pytest.raises(UsageError, match="cannot be written"):
            estimator.save(path)


def _repacked(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


def _header(old: bytes, new: bytes) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["header"] = np.frombuffer(arrays["header"].tobytes().replace(old, new), np.uint8)

    return change


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda p: p.write_bytes(b""),
    "cut": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "bits": lambda p: p.write_bytes(p.read_bytes()[:200] + b"xxxx" + p.read_bytes()[204:]),
    "text": lambda p: p.write_text("not an estimator"),
    "pickle": lambda p: p.write_bytes(pickle.dumps({"weights": 1})),
    "objects": lambda p: _repacked(p, lambda a: a.update(words=np.array([object()], dtype=object))),
    "not finite": lambda p: _repacked(p, lambda a: a["words"].__setitem__((0, 0), np.nan)),
    "fewer features": lambda p: _repacked(p, lambda a: a.update(dense=a["dense"][:-1])),
    "one bias": lambda p: _repacked(p, lambda a: a.update(bias=a["bias"][:1])),
    "one more": lambda p: _repacked(p, lambda a: a.update(more=a["bias"])),
    "wider": lambda p: _repacked(p, lambda a: a.update(bias=a["bias"].astype(np.float64))),
    "no header": lambda p: _repacked(p, lambda a: a.pop("header")),
    "other features": lambda p: _repacked(p, _header(b'"features": ', b'"features": 9')),
    "other format": lambda p: _repacked(p, _header(b"foreshore.estimator", b"foreshore.something")),
    "same targets": lambda p: _repacked(p, _header(b'"strong", "weak"', b'"weak", "weak"')),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused(saved: Path, kind: str) -> None:
    DAMAGE[kind](saved)
    with pytest.raises(ModelError, match="estimator") as refused:
        Estimator.load(saved)
    assert refused.value.hint is not None


def test_a_file_that_unpacks_to_too_much_is_refused(saved: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("weights.npy", bytes(65 << 20))
    saved.write_bytes(packed.getvalue())
    with pytest.raises(ModelError, match="too large"):
        Estimator.load(saved)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.npz"):
        Estimator.load(tmp_path / "none.npz")
