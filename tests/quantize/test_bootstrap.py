"""Intervals by resampling documents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from foreshore.card import Interval
from foreshore.errors import UsageError
from foreshore.quantize.bootstrap import MIN_DOCUMENTS, coverage, quantile, ratio, share


def documents(count: int = 60, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums of KL and numbers of tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 300, count)
    return rng.lognormal(-4, 0.7, count) * lengths, lengths


def width(found: Interval) -> float:
    return found.high - found.low


def test_the_ratio_is_of_the_sums_and_lies_in_its_interval() -> None:
    kl, lengths = documents()
    found = ratio(kl, lengths)
    assert found.value == pytest.approx(kl.sum() / lengths.sum())
    assert 0 < found.low < found.value < found.high
    # Long documents weigh more: the mean of the documents' means is another number.
    assert found.value != pytest.approx((kl / lengths).mean(), rel=1e-3)


def test_the_same_seed_gives_the_same_interval() -> None:
    assert ratio(*documents()) == ratio(*documents())
    assert ratio(*documents(), seed=1) != ratio(*documents())


def test_more_documents_narrow_the_interval_as_their_root() -> None:
    few, many = ratio(*documents(50)), ratio(*documents(5000))
    assert width(few) / width(many) == pytest.approx(10, rel=0.35)


def test_pairing_two_variants_says_more_than_two_intervals() -> None:
    kl, lengths = documents()
    other = 0.8 * kl * np.random.default_rng(5).normal(1, 0.05, len(kl))
    paired = ratio(other, kl)
    assert paired.value == pytest.approx(0.8, abs=0.02)
    assert paired.high < 0.85
    alone, before = ratio(other, lengths), ratio(kl, lengths)
    assert alone.high > before.low
    difference = ratio(other - kl, lengths)
    assert difference.high < 0


@pytest.mark.parametrize("size", [40, 120])
def test_the_intervals_hold_the_truth_about_as_often_as_they_say(size: int) -> None:
    found = coverage(size, 300)
    for kind in (found.mean, found.paired, found.share, found.quantile):
        assert kind.high > 0.93
        assert kind.low < 0.97
        assert kind.value > 0.9


def test_intervals_do_not_depend_on_units_or_on_the_order_of_documents() -> None:
    kl, lengths = documents()
    found = ratio(kl, lengths)
    scaled = ratio(1e6 * kl, lengths)
    assert (scaled.low, scaled.high) == pytest.approx((1e6 * found.low, 1e6 * found.high), rel=1e-4)
    turned = ratio(kl[::-1], lengths[::-1])
    assert (turned.low, turned.high) == pytest.approx((found.low, found.high), rel=0.05)


def test_nothing_at_all_has_no_spread() -> None:
    assert ratio(np.zeros(20), np.ones(20)) == Interval(value=0.0, low=0.0, high=0.0)
    same = ratio(np.full(20, 3.0), np.full(20, 2.0))
    assert (same.low, same.value, same.high) == pytest.approx((1.5, 1.5, 1.5))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(50, 100)), min_size=8, max_size=40))
def test_shares_stay_between_0_and_1_and_mirror_each_other(counts: list[tuple[int, int]]) -> None:
    part, whole = (np.array(column) for column in zip(*counts, strict=True))
    found, rest = share(part, whole), share(whole - part, whole)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value <= found.high + 1e-12 <= 1 + 1e-9
    assert found.low == pytest.approx(1 - rest.high)
    assert found.high == pytest.approx(1 - rest.low)


def test_a_share_of_all_or_of_almost_all_is_not_certain() -> None:
    whole = np.full(100, 50)
    everything, all_but_one = share(whole, whole), share(whole - (np.arange(100) == 7), whole)
    assert everything.value == everything.high == 1.0
    assert 0.999 < everything.low < 1.0
    assert all_but_one.value == pytest.approx(0.9998)
    assert 0.99 < all_but_one.low < 0.9998 < all_but_one.high < 1.0


def test_what_sits_in_few_documents_is_less_certain_than_what_is_spread() -> None:
    whole = np.full(100, 100)
    spread, lumped = np.full(100, 1), np.where(np.arange(100) < 2, 50, 0)
    assert width(share(lumped, whole)) > 3 * width(share(spread, whole))


def test_quantiles_are_of_all_tokens() -> None:
    rng = np.random.default_rng(0)
    values = [rng.lognormal(-4, 1, n) for n in rng.integers(20, 300, 100)]
    found = quantile(values, 0.99)
    assert found.value == np.sort(np.concatenate(values))[int(np.ceil(0.99 * sum(map(len, values)))) - 1]
    assert found.low < found.value < found.high
    assert found.low < np.exp(-4 + 2.326) < found.high


def test_too_few_documents_and_broken_sums_are_refused() -> None:
    kl, lengths = documents(MIN_DOCUMENTS - 1)
    with pytest.raises(UsageError, match="7 documents, too few"):
        ratio(kl, lengths)
    ratio(*documents(MIN_DOCUMENTS))
    kl, lengths = documents(20)
    with pytest.raises(ValueError, match="not finite"):
        ratio(np.where(np.arange(20) == 3, np.nan, kl), lengths)
    with pytest.raises(ValueError, match="same documents"):
        ratio(kl, lengths[:19])
