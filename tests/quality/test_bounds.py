"""The regret bound, and RouteLLM's metric."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.errors import UsageError
from foreshore.quality import regret_bound
from foreshore.quality.curve import bootstrapped, curve

TRIALS = 400


def test_the_bound_holds_as_often_as_it_says() -> None:
    """Regret grows with the score: 0.02 + 0.2 s**2, on average 0.02 + 0.2 t**2 / 3 below the threshold t."""
    rng = np.random.default_rng(0)
    broken, shares = 0, []
    for _ in range(TRIALS):
        scores = rng.random(1000)
        found = regret_bound(scores, rng.random(1000) < 0.02 + 0.2 * scores**2, at_most=0.05, delta=0.1)
        threshold = max(0.0, found.threshold)
        broken += 0.02 + 0.2 * threshold**2 / 3 > 0.05
        shares.append(found.local_share)
    assert broken / TRIALS <= 0.1
    assert np.mean(shares) > 0.3  # of the 0.67 that could stay were the truth known


def test_the_bound_holds_where_no_threshold_keeps_it() -> None:
    """At a true regret of just more than is allowed any threshold at all is a mistake."""
    rng = np.random.default_rng(1)
    found = [regret_bound(rng.random(500), rng.random(500) < 0.051, at_most=0.05, delta=0.1) for _ in range(TRIALS)]
    assert np.mean([math.isfinite(one.threshold) for one in found]) <= 0.1


def test_what_the_bound_says_of_its_prompts_is_so() -> None:
    rng = np.random.default_rng(2)
    scores = rng.random(800)
    bad = rng.random(800) < 0.1 * scores
    found = regret_bound(scores, bad, at_most=0.08)
    served = scores <= found.threshold
    assert (found.count, found.at_most, found.delta) == (800, 0.08, 0.05)
    assert found.local_share == served.mean() > 0.5
    assert found.observed == pytest.approx(bad[served].mean())
    assert found.observed < 0.08


def test_everything_may_stay_local_where_nothing_is_regretted() -> None:
    found = regret_bound(np.arange(300.0), np.zeros(300, bool), at_most=0.02)
    assert found.local_share == 1


@pytest.mark.parametrize(
    ("scores", "bad", "at_most", "delta"),
    [([], [], 0.1, 0.1), ([1.0], [True, False], 0.1, 0.1), ([math.nan], [True], 0.1, 0.1), ([1.0], [True], 0.0, 0.1),
     ([1.0], [True], 0.1, 1.0)],
)  # fmt: skip
def test_what_has_no_bound_is_refused(scores: list[float], bad: list[bool], at_most: float, delta: float) -> None:
    with pytest.raises(UsageError):
        regret_bound(scores, bad, at_most=at_most, delta=delta)


def by_hand(scores: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> float:
    """As the paper says it, point by point."""
    edges = np.quantile(scores, np.linspace(0, 1, 11))
    points = []
    for i, edge in enumerate(edges):
        up = scores > edge if i == 10 else scores >= edge
        points.append((up.mean(), np.where(up, strong, weak).mean()))
    points.sort()
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
    return float((area - weak.mean()) / (strong.mean() - weak.mean()))


@given(st.integers(0, 10_000), st.integers(20, 200), st.booleans())
def test_the_apgr_is_the_papers(seed: int, count: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, count).astype(float) if ties else rng.random(count)
    weak, strong = rng.random(count) < 0.5, rng.random(count) < 0.9
    weak[0], strong[0] = False, True
    if weak.mean() != strong.mean():
        assert curve(scores, weak, strong).apgr == pytest.approx(by_hand(scores, weak, strong))


def test_chance_recovers_half_and_an_oracle_more_than_all() -> None:
    rng = np.random.default_rng(3)
    weak, strong = rng.random(4_000) < 0.6, rng.random(4_000) < 0.8
    luck = bootstrapped(lambda c: c.apgr, rng.random(4_000), weak, strong)
    assert luck.low < 0.5 < luck.high
    assert curve(strong.astype(float) - weak + 1e-6 * rng.random(4_000), weak, strong).apgr > 1.2
    assert luck.high - luck.low < 0.2


def test_the_share_of_calls_for_half_the_gap() -> None:
    """All the gap is in the tenth that scores highest; after it accuracy falls again."""
    scores = np.arange(1000.0)
    strong = np.ones(1000, bool)
    weak = scores < 900
    found = curve(scores, weak, strong)
    assert found.cpt(0.5, envelope=False) == pytest.approx(found.cpt(0.5, envelope=True)) == pytest.approx(0.05)
    strong[:450] = False
    falling = curve(scores, weak, strong)
    assert falling.other < falling.local
    rising = curve(scores, weak & (scores > 50), strong | (scores < 500))
    assert rising.cpt(0.5, envelope=True) <= 0.1


def test_what_is_never_reached_has_no_share() -> None:
    found = curve([0.0, 1.0, 2.0], [1, 1, 0], [1, 1, 1])
    assert math.isnan(found.cpt(1.5, envelope=True))
