"""Sparse rows, topics and the regression that learns from them, against the same done with full matrices."""

from __future__ import annotations

import numpy as np
import pytest

from foreshore.quality.design import Design
from foreshore.quality.features import WORD_BITS, blocks, features
from foreshore.quality.ridge import choose_scales, fit
from foreshore.quality.sparse import Bag, Sparse, spread
from foreshore.quality.topics import CLUSTERS, Topics
from tests.quality.prompts import EASY, HARD, prompts


def bags(rows: np.ndarray) -> list[Bag]:
    return [(np.flatnonzero(row), row[np.flatnonzero(row)].astype(np.float32)) for row in rows]


@pytest.fixture(scope="module")
def design() -> Design:
    texts, _ = prompts(90, 0)
    found = Design((features(text) for text in texts), blocks(False))
    found.scales = {"words": 0.5, "letters": 0.2, "counts": 1.0, "topics": 2.0}
    return found


def full(design: Design) -> np.ndarray:
    """The rows as one matrix, from the texts' features."""
    read = [features(text) for text in prompts(90, 0)[0]]
    words = spread([found.words for found in read], 1 << WORD_BITS)
    dense = [[*found.counts, *found.shares, *design.topics(found.single)] for found in read]
    return np.asarray((np.hstack([words, dense]) - design.centre) * design.size)


def test_products_are_those_of_full_matrices() -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((60, 90)) * (rng.random((60, 90)) < 0.1)
    rows[7], rows[:, 3] = 0, 0
    sparse = Sparse(bags(rows), 90)
    right, left = rng.random((90, 4)), rng.random((60, 3))
    assert np.allclose(sparse @ right.astype(np.float32), rows @ right, atol=1e-5)
    assert np.allclose(sparse.transposed_times(left.astype(np.float32)), rows.T @ left, atol=1e-5)
    assert np.allclose(spread([sparse.bag(i) for i in range(60)], 90), rows)
    assert np.allclose(sparse.squares(), (rows**2).sum(axis=0), atol=1e-5)


def test_many_entries_are_multiplied_in_pieces() -> None:
    rng = np.random.default_rng(1)
    rows = rng.random((700, 300))
    other = rng.random((300, 2)).astype(np.float32)
    assert np.allclose(Sparse(bags(rows), 300) @ other, rows @ other, rtol=1e-4)


def test_prompts_about_the_same_belong_to_the_same_topic() -> None:
    rng = np.random.default_rng(2)
    texts = [" ".join(rng.choice(words, 6)) for words in (EASY, HARD) for _ in range(100)]
    read = [features(text).single for text in texts]
    topics = Topics.learnt(read, 1 << 13)
    parts = np.array([topics(bag) for bag in read])
    assert parts.shape == (200, CLUSTERS)
    assert np.allclose(parts.sum(axis=1), 1, atol=1e-5)
    likeness = parts @ parts.T
    same = (likeness[:100, :100].mean() + likeness[100:, 100:].mean()) / 2
    assert same > 3 * likeness[:100, 100:].mean()


def test_topics_of_hardly_any_prompts_are_found() -> None:
    topics = Topics.learnt([features("one prompt").single, features("").single], 1 << 13)
    assert np.isfinite(topics(features("another prompt").single)).all()


def test_rows_are_centred_and_each_block_has_its_scale(design: Design) -> None:
    rows = full(design)
    assert np.allclose(design.times(np.ones((design.columns, 1), np.float32))[:, 0], rows.sum(axis=1), atol=1e-3)
    assert np.abs(rows.mean(axis=0)).max() < 1e-3
    for block, part in design.parts.items():
        assert rows[:, part].var(axis=0).sum() == pytest.approx(design.scales[block], rel=1e-3)
    values = np.random.default_rng(3).random((90, 2)).astype(np.float32)
    assert np.allclose(design.transposed_times(values), rows.T @ values, atol=1e-3)
    for block, products in design.products(np.arange(90)).items():
        wanted = rows[:, design.parts[block]] @ rows[:, design.parts[block]].T / design.scales[block]
        assert np.allclose(products, wanted, atol=1e-3)


def test_the_regression_is_the_exact_one(design: Design) -> None:
    """By the normal equations of the rows (rows, rows): with weights, without a fold, without a label."""
    rng = np.random.default_rng(4)
    right = (rng.random((90, 2)) < 0.5).astype(float)
    weight = rng.uniform(0.3, 3, (90, 2)) * (rng.random((90, 2)) < 0.8)
    folds = np.arange(90) % 3
    found = fit(design, right, weight, folds)
    rows = full(design)
    for target in range(2):
        for fold in (None, 0, 1, 2):
            at = np.flatnonzero((weight[:, target] > 0) & (folds != fold))
            system = rows[at] @ rows[at].T + np.diag(1 / weight[at, target])
            ones, inner = np.linalg.solve(system, np.column_stack([np.ones(len(at)), right[at, target]])).T
            bias = inner.sum() / ones.sum()
            wanted = rows @ (rows[at].T @ (inner - bias * ones)) + bias
            whole = rows @ found.weights[:, target] + found.bias[target]
            mine = whole if fold is None else found.held[:, target]
            judged = np.full(90, True) if fold is None else folds == fold
            assert np.allclose(mine[judged], wanted[judged], atol=1e-3)


def test_scales_follow_where_the_signal_is(design: Design) -> None:
    """Outcomes that the counts alone decide leave the other blocks no more than they had."""
    rng = np.random.default_rng(5)
    rows = full(design)[:, design.parts["counts"]]
    right = (rows @ rng.standard_normal(rows.shape[1]) > 0).astype(float)[:, None]
    scales = choose_scales(design, right, np.ones(90))
    assert scales["counts"] >= 0.1
    assert scales["counts"] >= scales["words"]
