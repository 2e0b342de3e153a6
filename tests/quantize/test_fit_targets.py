"""Fit targets as people write them, and as they mistype them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.errors import UsageError
from foreshore.quantize.search.fit_targets import FitTargets, parse_fit


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size<=300MB", FitTargets(size=300_000_000)),
        ("size <= 2.5 GiB", FitTargets(size=5 << 29)),
        ("size<=4096", FitTargets(size=4096)),
        ("SIZE<=1e3kb", FitTargets(size=1_000_000)),
        ("kl<=0.03", FitTargets(kl=0.03)),
        ("kl=<3e-2 nats", FitTargets(kl=0.03)),
        ("decode>=20tok/s", FitTargets(decode=20.0)),
        ("memory<=1GB,decode>=20", FitTargets(memory=10**9, decode=20.0)),
        ("size<=1GB, size<=300MB,", FitTargets(size=300_000_000)),
        ("decode>=20,decode>=30", FitTargets(decode=30.0)),
    ],
)
def test_what_is_understood(text: str, expected: FitTargets) -> None:
    assert parse_fit(text) == expected


def test_several_strings_hold_together() -> None:
    assert parse_fit(["size<=1MB", "kl<=0.1"]) == FitTargets(size=1_000_000, kl=0.1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no fit target"),
        (" , ", "no fit target"),
        ("size", "needs '<='"),
        ("size>=300MB", "needs '<='"),
        ("decode<=20", "needs '>='"),
        ("size<300MB", "needs '<='"),
        ("siez<=300MB", "did you mean 'size'"),
        ("size<=MB", "no number"),
        ("size<=1.2.3MB", "no number"),
        ("size<=300MiBs", "unknown unit"),
        ("kl<=0.03MB", "unknown unit"),
        ("decode>=20MB", "unknown unit"),
        ("size<=0", "nothing can reach"),
        ("kl<=-1", "nothing can reach"),
        ("size<=1e999", "nothing can reach"),
        ("kl<=nan", "unknown unit"),
        ("size<=300MB!", "not a fit target"),
        ("size<=٣MB", "not a fit target"),
    ],
)
def test_what_is_refused_says_why(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fit(text)
    assert reason in f"{caught.value.message} {caught.value.hint}"


@given(st.text(max_size=40))
def test_any_text_is_understood_or_refused(text: str) -> None:
    with suppress(UsageError):
        assert parse_fit(text) != FitTargets()


@given(st.integers(1, 1 << 50), st.floats(1e-6, 10))
def test_what_is_written_reads_back(size: int, kl: float) -> None:
    targets = FitTargets(size=size, kl=kl)
    assert parse_fit(str(targets)) == targets


def test_only_a_bound_on_the_divergence_asks_for_the_smallest() -> None:
    assert parse_fit("kl<=0.03").smallest
    assert not parse_fit("kl<=0.03,size<=1GB").smallest
    assert not parse_fit("size<=1GB").smallest
