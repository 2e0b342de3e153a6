"""Distributions kept as their top, the mass of their tail and a sample of it, against the full ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foreshore.quantize.topk import TopTail, divergence, log_probability, same_top, sizes

VOCAB = 3000


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))


def full_divergence(parent: NDArray[np.float32], variant: NDArray[np.float32]) -> NDArray[np.float64]:
    p, q = log_softmax(parent), log_softmax(variant)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=1))


def pair(
    tokens: int, vocab: int = VOCAB, scale: float = 3.0, noise: float = 0.2, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits of a parent and of a variant that differs by noise."""
    rng = np.random.default_rng(seed)
    parent = rng.normal(0, scale, (tokens, vocab)).astype(np.float32)
    return parent, (parent + rng.normal(0, noise, parent.shape)).astype(np.float32)


@pytest.mark.parametrize("scale", [0.5, 2.0, 5.0])
def test_the_estimate_has_no_bias_whatever_mass_the_tail_has(scale: float) -> None:
    parent, variant = pair(2000, vocab=1000, scale=scale)
    kept = TopTail.of(parent, 16, 4)
    found, exact = divergence(kept, variant), full_divergence(parent, variant)
    error = found - exact
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(error.size) + 1e-6
    assert found.mean() == pytest.approx(exact.mean(), rel=0.02)


def test_each_token_is_near_its_full_divergence_at_the_usual_size() -> None:
    parent, variant = pair(200, vocab=20_000, scale=4.0)
    found, exact = divergence(TopTail.of(parent), variant), full_divergence(parent, variant)
    assert np.abs(found - exact).max() < 0.1 * exact.mean()
    assert found.mean() == pytest.approx(exact.mean(), rel=0.005)


def test_of_a_large_vocabulary_the_error_is_as_stated() -> None:
    """With a fifth of the mass in the tail, which is far more than a language model leaves there."""
    rng, tokens, vocab = np.random.default_rng(0), 12, 152_064
    ranks = np.log(np.arange(1, vocab + 1, dtype=np.float32))
    parent = np.stack([rng.permutation(-1.2 * ranks) for _ in range(tokens)])
    variant = parent + rng.normal(0, 0.2, parent.shape).astype(np.float32)
    kept = TopTail.of(parent)
    assert 0.1 < np.exp(kept.log_tail.astype(np.float64)).mean() < 0.5
    found, exact = divergence(kept, variant), full_divergence(parent, variant)
    assert found.mean() == pytest.approx(exact.mean(), rel=0.02)
    assert (found - exact).std() < 0.05 * exact.mean()


def test_without_samples_the_estimate_is_a_lower_bound() -> None:
    parent, variant = pair(100, scale=1.0)
    found, exact = divergence(TopTail.of(parent, 32, 0), variant), full_divergence(parent, variant)
    assert (found < exact).all()


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(0, 20), st.floats(0.01, 8.0))
@settings(max_examples=60, deadline=None)
def test_a_distribution_differs_from_itself_by_less_than_its_rounding(
    seed: int, k: int, samples: int, scale: float
) -> None:
    parent, _ = pair(5, vocab=50, scale=scale, seed=seed)
    found = divergence(TopTail.of(parent, k, samples), parent)
    assert (np.abs(found) < 1e-5).all()


def test_a_whole_vocabulary_is_kept_exactly() -> None:
    parent, variant = pair(50, vocab=40)
    kept = TopTail.of(parent, 40)
    assert kept.ids.shape == (50, 40)
    np.testing.assert_allclose(divergence(kept, variant), full_divergence(parent, variant), rtol=0.01, atol=1e-5)


def test_the_top_comes_first_and_the_likeliest_token_before_all() -> None:
    parent, variant = pair(50)
    kept = TopTail.of(parent, 10, 5)
    np.testing.assert_array_equal(kept.ids[:, :10], np.argsort(-parent, axis=1)[:, :10])
    np.testing.assert_array_equal(same_top(kept, variant), parent.argmax(axis=1) == variant.argmax(axis=1))
    assert 0 < same_top(kept, variant).sum() < 50
    drawn = np.take_along_axis(parent, kept.ids[:, 10:].astype(np.intp), axis=1)
    assert (drawn < np.take_along_axis(parent, kept.ids[:, 9:10].astype(np.intp), axis=1)).all()


def test_of_equal_tokens_the_first_is_the_top() -> None:
    flat = np.zeros((3, 100), dtype=np.float32)
    flat[:, 60:] = 1.0
    kept = TopTail.of(flat, 50, 4)
    assert (kept.ids[:, 0] == 60).all()
    assert same_top(kept, flat).all()


def test_the_mass_of_the_tail_is_the_parents() -> None:
    parent, _ = pair(50)
    kept = TopTail.of(parent, 100, 4)
    tail = 1 - np.exp(np.sort(log_softmax(parent), axis=1)[:, -100:]).sum(axis=1)
    np.testing.assert_allclose(np.exp(kept.log_tail.astype(np.float64)), tail, rtol=0.01)


def test_log_probabilities_are_exact() -> None:
    parent, _ = pair(50, scale=20.0)
    ids = np.arange(50) * 7
    np.testing.assert_allclose(log_probability(parent, ids), log_softmax(parent)[np.arange(50), ids], atol=1e-5)


def test_certainty_and_impossible_tokens_stay_finite() -> None:
    sure = np.full((2, 500), -400.0, dtype=np.float32)
    sure[:, 3] = 400.0
    other = np.roll(sure, 1, axis=1)
    masked = np.zeros((2, 500), dtype=np.float32)
    masked[:, 5:] = -np.inf
    assert divergence(TopTail.of(sure, 8, 4), sure) == pytest.approx([0, 0], abs=1e-6)
    assert divergence(TopTail.of(sure, 8, 4), other) == pytest.approx([800, 800])
    assert divergence(TopTail.of(masked, 8, 4), masked) == pytest.approx([0, 0], abs=1e-5)


@pytest.mark.parametrize("vocab", [260, 2048, 32_000, 65_536, 65_537, 152_064, 262_144])
def test_a_record_takes_at_most_a_fiftieth_of_the_logits(vocab: int) -> None:
    parent = np.random.default_rng(0).normal(size=(3, vocab)).astype(np.float32)
    assert TopTail.of(parent).nbytes + 3 * 8 <= parent.nbytes / 50
    assert min(sizes(vocab)) >= 1


def test_rows_are_the_same_alone_and_together_but_for_what_was_drawn() -> None:
    parent, variant = pair(100)
    kept = TopTail.of(parent, 20, 8)
    np.testing.assert_array_equal(divergence(kept[30:40], variant[30:40]), divergence(kept, variant)[30:40])
    assert len(TopTail.of(parent[:0])) == 0
    assert divergence(TopTail.of(parent[:0]), variant[:0]).size == 0


def test_drawing_is_repeatable_and_follows_the_generator() -> None:
    parent, _ = pair(20)
    first, again = TopTail.of(parent, 10, 5), TopTail.of(parent, 10, 5)
    other = TopTail.of(parent, 10, 5, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(first.ids, again.ids)
    assert (first.ids != other.ids).any()


def test_logits_of_another_vocabulary_are_refused() -> None:
    parent, _ = pair(3)
    with pytest.raises(ValueError, match="3 tokens of 3000"):
        divergence(TopTail.of(parent, 4, 2), parent[:, :100])
