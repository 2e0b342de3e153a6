"""What tensors are believed to cost: what was measured stands, the rest follows the errors, mixes teach the scales."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.quantize.search.costs import Belief, costs

ERRORS = {"q2_k": 0.1, "q3_k": 0.03, "q4_k": 0.008, "q5_k": 0.002, "q8_0": 3e-5, "f16": 0.0}


def test_measured_types_cost_what_was_measured_and_the_parents_own_nothing() -> None:
    found = costs(ERRORS, {"q3_k": 0.3, "q5_k": 0.02})
    assert found["q3_k"] == 0.3
    assert found["q5_k"] == 0.02
    assert found["f16"] == 0.0


@given(st.floats(1e-6, 1), st.floats(0.5, 2))
def test_where_kl_follows_the_error_by_a_power_it_is_read_off_exactly(scale: float, slope: float) -> None:
    truth = {kind: scale * error**slope for kind, error in ERRORS.items() if error}
    found = costs(ERRORS, {kind: truth[kind] for kind in ("q3_k", "q5_k")})
    assert found["q4_k"] == pytest.approx(truth["q4_k"])
    assert list(found.values()) == sorted(found.values(), reverse=True)


@given(st.dictionaries(st.sampled_from(list(ERRORS)[:-1]), st.floats(0, 10) | st.just(inf), max_size=3))
def test_whatever_was_measured_no_cost_is_negative_or_nan(measured: dict[str, float]) -> None:
    assert all(value >= 0 for value in costs(ERRORS, measured).values())


def test_without_observations_a_tensor_in_a_mix_costs_what_it_costs_alone() -> None:
    assert Belief(3).scales() == pytest.approx(np.ones(3))


def test_scales_are_learnt_from_mixes() -> None:
    rng = np.random.default_rng(1)
    truth = 1.3 * rng.normal(1, 0.2, 12)
    belief, mixes = Belief(12), rng.gamma(1.0, 1.0, (60, 12))
    held_out = rng.gamma(1.0, 1.0, (20, 12))
    misses = []
    for parts in mixes:
        misses.append(float(np.abs(held_out @ belief.scales() / (held_out @ truth) - 1).mean()))
        belief.observe(parts, float(parts @ truth))
    assert misses[-1] < 0.02 < misses[0]
    assert belief.scales() == pytest.approx(truth, rel=0.15)


def test_draws_differ_where_little_is_known_and_agree_where_much_is() -> None:
    rng = np.random.default_rng(2)
    belief = Belief(4)
    wide = np.std([belief.scales(rng) for _ in range(200)], axis=0)
    for _ in range(40):
        parts = rng.dirichlet(np.ones(4))
        belief.observe(parts, float(parts.sum()))
    narrow = np.std([belief.scales(rng) for _ in range(200)], axis=0)
    assert (narrow < wide / 4).all()


@pytest.mark.parametrize("measured", [inf, float("nan"), 0.0])
def test_what_says_nothing_is_passed_over(measured: float) -> None:
    belief = Belief(2)
    belief.observe(np.ones(2), measured)
    assert belief.scales() == pytest.approx(np.ones(2))


def test_a_mix_that_loses_far_more_than_the_best_says_little() -> None:
    belief = Belief(2)
    belief.observe(np.array([4.0, 4.0]), 16.0)
    belief.observe(np.array([1.0, 1.0]), 1.0)
    assert belief.common() == pytest.approx(0.5, rel=0.01)
    assert belief.scales() == pytest.approx([0.5, 0.5], rel=0.01)
