"""Off-policy estimates on simulated logs whose truth is known, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.errors import UsageError
from foreshore.reliability.off_policy import MIN_EFFECTIVE, Evaluation, Row, evaluate

ACTIONS = ("edge", "cloud", "far")
EXPLORE = 0.3


def expected(difficulty: float, action: str) -> float:
    """The probability that an action's answer to a request of that difficulty is right."""
    return {"edge": 0.95 - 0.8 * difficulty, "cloud": 0.9 - 0.2 * difficulty, "far": 0.6}[action]


def new_policy(difficulty: float) -> dict[str, float]:
    """All easy requests to the edge, most of the others to the cloud."""
    return {"edge": 1.0, "cloud": 0.0, "far": 0.0} if difficulty < 0.5 else {"edge": 0.0, "cloud": 0.9, "far": 0.1}


TRUTH = float(
    np.mean(
        [sum(p * expected(d, a) for a, p in new_policy(d).items()) for d in (np.arange(20_000) + 0.5) / 20_000]
    )
)  # fmt: skip


def simulated(count: int, seed: int, explore: float = EXPLORE) -> list[Row]:
    """A log of a policy that sends the first third of difficulties to the edge, and explores."""
    rng = np.random.default_rng(seed)
    rows = []
    for difficulty, place, luck in rng.random((count, 3)).tolist():
        best = "edge" if difficulty < 1 / 3 else "cloud"
        explored = place < explore  # then every action is as likely as the others
        action = ACTIONS[int(3 * place / explore)] if explored else best
        propensity = explore / 3 + (1 - explore) * (action == best)
        reward = float(luck < expected(difficulty, action))
        new = new_policy(difficulty)
        rows.append(Row(action=action, propensity=propensity, reward=reward, new=new, features=(difficulty,)))
    return rows


@pytest.fixture(scope="module")
def found() -> list[Evaluation]:
    return [evaluate(simulated(400, seed)) for seed in range(120)]


@pytest.mark.parametrize("estimate", ["ips", "self_normalised", "doubly_robust"])
def test_estimates_are_unbiased_and_their_intervals_hold_the_truth(estimate: str, found: list[Evaluation]) -> None:
    intervals = [getattr(one, estimate) for one in found]
    values = np.array([i.value for i in intervals])
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert abs(values.mean() - TRUTH) < 4 * error + (0.002 if estimate == "self_normalised" else 0)
    held = np.mean([i.low <= TRUTH <= i.high for i in intervals])
    assert 0.89 <= held <= 1.0, "nominally 95 %, of 120"


def test_a_model_of_rewards_narrows_the_interval(found: list[Evaluation]) -> None:
    widths = [
        np.mean([getattr(one, name).high - getattr(one, name).low for one in found])
        for name in ("doubly_robust", "self_normalised", "ips")
    ]
    assert widths == sorted(widths)


def test_the_bernstein_bound_is_wide_and_never_wrong(found: list[Evaluation]) -> None:
    bounds = [one.bernstein for one in found if one.bernstein is not None]
    assert len(bounds) == len(found)
    assert all(bound.low <= TRUTH <= bound.high for bound in bounds)
    assert all(b.low <= one.ips.low for b, one in zip(bounds, found, strict=True))


def test_the_bernstein_bound_counts_with_weights_that_no_row_happens_to_have() -> None:
    """Of 200 requests none was explored, yet one in two hundred could have weighed two hundred."""
    edge, cloud = {"edge": 1.0}, {"cloud": 1.0}
    usual = Row(action="edge", propensity=0.995, reward=1.0, new=edge, possible=frozenset({"edge", "cloud"}))
    rows = [usual] * 199
    same = evaluate([*rows, usual]).bernstein
    other = evaluate([*rows, replace(usual, new=cloud)]).bernstein
    assert same is not None
    assert other is not None
    assert other.high - other.low > 50 * (same.high - same.low)


def test_the_logged_policy_itself_is_estimated_as_it_was() -> None:
    rows = [replace(row, new={row.action: 1.0}, propensity=1.0) for row in simulated(200, 1)]
    one = evaluate(rows)
    assert one.ips == one.self_normalised == one.logged
    assert one.doubly_robust.value == pytest.approx(one.logged.value)
    assert (one.effective, one.agreement, one.largest_weight) == (200, 1.0, 1.0)


def test_rewards_may_be_dollars_or_seconds() -> None:
    rows = [replace(row, reward=-7.5 * row.reward) for row in simulated(2000, 2)]
    one = evaluate(rows)
    assert one.bernstein is None
    assert one.doubly_robust.low <= -7.5 * TRUTH <= one.doubly_robust.high


@pytest.mark.parametrize("propensity", [None, 0.0, -0.1, 1.5, math.nan])
def test_missing_propensities_are_refused(propensity: Any) -> None:
    rows = simulated(400, 3)
    rows[7] = replace(rows[7], propensity=propensity)
    with pytest.raises(UsageError, match="1 of 400 rows have no propensity"):
        evaluate(rows)


def test_a_log_that_never_explored_cannot_judge_other_choices() -> None:
    rows = [replace(row, propensity=1.0) for row in simulated(400, 4, explore=0.0)]
    with pytest.raises(
        UsageError, match=r"in \d+\.\d% of 400 decisions the new policy takes what the logged one never"
    ):
        evaluate(rows)


def test_an_action_that_no_row_has_is_refused() -> None:
    rows = [replace(row, new={"edge": 0.5, "moon": 0.5}) for row in simulated(400, 5)]
    with pytest.raises(UsageError, match=r"in 50\.0% of 400"):
        evaluate(rows)


def test_an_action_that_a_row_could_not_have_is_refused() -> None:
    rows = [replace(row, possible=frozenset(ACTIONS)) for row in simulated(400, 5)]
    assert evaluate(rows) == evaluate(simulated(400, 5))
    private = [replace(row, possible=frozenset({"edge", "far"})) for row in rows]
    with pytest.raises(UsageError, match=r"in \d+\.\d% of 400"):
        evaluate(private)


def test_too_few_rows_that_agree_are_refused() -> None:
    rows = simulated(60, 6)
    with pytest.raises(UsageError, match=rf"60 rows are worth \d+\.\d of equal weight, fewer than {MIN_EFFECTIVE:g}"):
        evaluate(rows)


def test_propensities_that_cannot_be_true_are_refused() -> None:
    rows = [replace(row, propensity=0.2) for row in simulated(2000, 7)]
    with pytest.raises(UsageError, match="the weights average"):
        evaluate(rows)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"reward": math.nan}, "no finite number"),
        ({"new": {"edge": 0.4}}, "do not add up to 1"),
        ({"features": (1.0, 2.0)}, "different numbers of features"),
    ],
)
def test_rows_that_cannot_be_are_refused(change: dict[str, Any], why: str) -> None:
    rows = simulated(200, 8)
    rows[3] = replace(rows[3], **change)
    with pytest.raises(UsageError, match=why):
        evaluate(rows)
    with pytest.raises(UsageError, match="no logged decision"):
        evaluate([])


@settings(max_examples=10, deadline=None)
@given(st.floats(-100, 100), st.floats(0.1, 10), st.integers(0, 5))
def test_estimates_move_and_stretch_with_the_rewards(shift: float, scale: float, seed: int) -> None:
    rows = simulated(300, seed)
    plain = evaluate(rows)
    moved = evaluate([replace(row, reward=shift + scale * row.reward) for row in rows])
    for name in ("self_normalised", "doubly_robust"):
        before, after = getattr(plain, name), getattr(moved, name)
        if name == "self_normalised":
            assert after.value == pytest.approx(shift + scale * before.value, abs=1e-6)
        assert after.low <= after.value <= after.high
