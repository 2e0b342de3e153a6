"""Confidence in an answer, learnt from its tokens' log-probabilities."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.errors import UsageError
from foreshore.quality.confidence import FEATURES, Confidence
from foreshore.quality.confidence_fit import auroc, ece, isotonic, logistic, platt, sigmoid
from foreshore.quality.token_features import FLOOR, SAMPLED, features
from foreshore.types import TokenLogprob

Tokens = tuple[TokenLogprob, ...]


def token(logprob: float, *top: float) -> TokenLogprob:
    others = tuple(TokenLogprob(token="x", bytes=b"x", logprob=value) for value in top)
    return TokenLogprob(token="x", bytes=b"x", logprob=logprob, top=others)


def simulated(count: int, seed: int, *, alternatives: bool = True) -> tuple[list[Tokens], list[bool]]:
    """Answers of 2 to 30 sure tokens with one unsure among them, which decides whether the answer is right."""
    rng = np.random.default_rng(seed)
    answers, correct = [], []
    for _ in range(count):
        weakest = rng.uniform(0.05, 1.0)
        shares = np.append(rng.uniform(0.97, 1.0, rng.integers(1, 30)), weakest)
        rng.shuffle(shares)
        logs = np.log(shares)
        rest = np.log(np.maximum(1 - shares, 1e-9))
        tops = [(a, b) if alternatives else () for a, b in zip(logs, rest, strict=True)]
        answers.append(tuple(token(value, *top) for value, top in zip(logs, tops, strict=True)))
        correct.append(bool(rng.random() < weakest))
    return answers, correct


@pytest.mark.parametrize("alternatives", [True, False])
def test_it_learns_which_answers_are_right_and_how_probably(alternatives: bool) -> None:
    learnt = Confidence.fit(*simulated(1500, 1, alternatives=alternatives))
    answers, correct = simulated(1500, 2, alternatives=alternatives)
    shares, right = np.array([learnt.of(tokens) for tokens in answers]), np.array(correct)
    plain = np.array([Confidence.default().of(tokens) for tokens in answers])
    assert auroc(shares, right) > 0.77 > auroc(plain, right), "one unsure token is lost in the mean of many"
    assert ece(shares, right) < 0.05 < ece(plain, right)
    evidence = learnt.evidence
    assert evidence is not None
    assert (evidence.count, evidence.auroc.low < auroc(shares, right) < evidence.auroc.high) == (1500, True)
    assert evidence.ece.high < 0.08


def test_its_evidence_does_not_come_from_the_answers_it_learnt() -> None:
    answers, _ = simulated(300, 3)
    chance = (np.random.default_rng(3).random(300) < 0.5).tolist()
    evidence = Confidence.fit(answers, chance).evidence
    assert evidence is not None
    assert evidence.auroc.low < 0.5 < evidence.auroc.high


def test_an_answer_without_alternatives_is_judged_by_the_rest() -> None:
    learnt = Confidence.fit(*simulated(400, 4))
    sure, unsure = (token(-0.01),) * 5, (token(-0.01), token(-2.5), token(-0.01))
    assert learnt.of(sure) > 0.8 > learnt.of(unsure)


def test_the_default_says_that_it_is_not_calibrated() -> None:
    plain = Confidence.default()
    assert (plain.calibrated, plain.evidence) == (False, None)
    assert plain.of([token(math.log(0.25)), token(0.0)]) == pytest.approx(0.5)


def test_it_survives_json() -> None:
    answers, correct = simulated(200, 5)
    learnt = Confidence.fit(answers, correct)
    again = Confidence.from_json(json.loads(json.dumps(learnt.to_json())))
    assert again == learnt
    assert [again.of(a) for a in answers[:9]] == [learnt.of(a) for a in answers[:9]]
    assert Confidence.from_json(Confidence.default().to_json()) == Confidence.default()


@pytest.mark.parametrize(
    "change",
    [
        {"weights": [1.0]},
        {"bias": math.nan},
        {"scale": [0.0] * len(FEATURES)},
        {"shares": [1.5, 2.0], "scores": [0.0, 1.0]},
        {"shares": [0.1, 0.2], "scores": [1.0, 0.0]},
        {"scores": [], "shares": []},
        {"odd": 1},
        {"mean": "text"},
    ],
)
def test_what_is_no_confidence_is_refused(change: dict[str, Any]) -> None:
    value = Confidence.fit(*simulated(200, 6)).to_json()
    with pytest.raises((TypeError, ValueError)):
        Confidence.from_json({**value, **change})


def test_too_few_answers_of_either_kind_are_refused() -> None:
    answers, _ = simulated(60, 7)
    with pytest.raises(UsageError, match="60 right and 0 wrong"):
        Confidence.fit(answers, [True] * 60)
    with pytest.raises(ValueError, match="without tokens"):
        Confidence.fit([*answers, ()], [True] * 61)
    with pytest.raises(UsageError, match="60 answers, but 2 marks"):
        Confidence.fit(answers, [True, False])


def test_answers_that_a_line_parts_do_not_break_the_fit() -> None:
    answers = [(token(-0.01),)] * 50 + [(token(-3.0),)] * 50
    learnt = Confidence.fit(answers, [True] * 50 + [False] * 50)
    assert learnt.of([token(-0.01)]) > 0.9
    assert learnt.of([token(-3.0)]) < 0.1


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=40))
def test_odd_numbers_of_a_server_stay_within_bounds(values: list[float]) -> None:
    found = features([token(value, value, value) for value in values])
    assert np.isfinite(found).all()
    assert found[SAMPLED.index("lowest")] >= FLOOR
    assert 0 <= Confidence.default().of([token(value) for value in values]) <= 1


def test_an_answer_without_tokens_has_no_features() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        features(())


def test_auroc_counts_pairs() -> None:
    right = np.array([True, False, True, False])
    assert auroc(np.array([0.9, 0.1, 0.8, 0.2]), right) == 1.0
    assert auroc(np.array([0.5, 0.5, 0.5, 0.5]), right) == 0.5
    assert auroc(np.array([0.9, 0.9, 0.1, 0.2]), right) == pytest.approx(1.5 / 4)
    assert math.isnan(auroc(np.array([1.0]), np.array([True])))


@given(st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=2, max_size=60))
def test_an_isotonic_calibration_never_falls_and_is_never_certain(pairs: list[tuple[float, bool]]) -> None:
    scores, shares = isotonic(np.array([s for s, _ in pairs]), np.array([r for _, r in pairs]))
    assert (np.diff(shares) >= 0).all()
    assert (np.diff(scores) >= -1e-9).all()
    assert 0 < shares.min() <= shares.max() < 1


def test_the_regression_finds_the_weights_that_made_its_data() -> None:
    rng = np.random.default_rng(8)
    rows = rng.standard_normal((20_000, 2))
    right = rng.random(20_000) < sigmoid(rows @ [1.5, -0.5] + 0.3)
    assert logistic(rows, right) == pytest.approx([1.5, -0.5, 0.3], abs=0.1)
    scores, shares = platt(2 * rows[:, 0], rng.random(20_000) < sigmoid(rows[:, 0] - 1))
    assert np.interp(0.0, scores, shares) == pytest.approx(float(sigmoid(np.array(-1.0))), abs=0.02)
