"""The knapsack: never above its limit, as good as trying everything, and clear about what no choice can do."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.quantize.search.knapsack import Option, frontier, lightest, solve

Options = dict[str, list[Option]]


@st.composite
def problems(draw: st.DrawFn) -> Options:
    options = st.lists(
        st.builds(
            lambda nbytes, cost, seconds, memory: Option(
                type=f"{nbytes}", bytes=nbytes, cost=cost, seconds=seconds, memory=memory
            ),
            st.integers(1, 60),
            st.floats(0, 10, allow_nan=False),
            st.floats(0.1, 5),
            st.integers(1, 100),
        ),
        min_size=1,
        max_size=4,
    )
    return {f"t{i}": some for i, some in enumerate(draw(st.lists(options, min_size=1, max_size=4)))}


def every_choice(options: Options) -> list[tuple[int, float, float]]:
    found = product(*options.values())
    return [(sum(o.bytes for o in c), sum(o.cost for o in c), sum(o.seconds for o in c)) for c in found]


@given(problems(), st.integers(1, 260))
@settings(deadline=None)
def test_within_a_limit_nothing_is_better(options: Options, limit: int) -> None:
    possible = [cost for nbytes, cost, _ in every_choice(options) if nbytes <= limit]
    if not possible:
        with pytest.raises(ValueError, match="lightest choice"):
            solve(options, limit)
        return
    choice = solve(options, limit)
    assert sum(o.bytes for o in choice.values()) <= limit
    assert sum(o.cost for o in choice.values()) == pytest.approx(min(possible))


@given(problems(), st.floats(0, 40))
@settings(deadline=None)
def test_the_smallest_choice_below_a_cost(options: Options, cost: float) -> None:
    possible = [nbytes for nbytes, c, _ in every_choice(options) if c <= cost]
    found = frontier(options, 1000)
    if not possible:
        with pytest.raises(ValueError, match="costs less"):
            found.down_to(cost)
        return
    choice = found.down_to(cost)
    assert sum(o.cost for o in choice.values()) <= cost + 1e-9
    assert sum(o.bytes for o in choice.values()) <= min(possible) + 1e-9


@given(problems(), st.integers(40, 260), st.floats(0.5, 15))
@settings(deadline=None, max_examples=60)
def test_seconds_are_kept_where_they_can_be(options: Options, limit: int, seconds: float) -> None:
    within = [t for nbytes, _, t in every_choice(options) if nbytes <= limit]
    if not within:
        return
    try:
        choice = solve(options, limit, seconds=seconds)
    except ValueError:
        assert min(within) > seconds - 1e-9
        return
    assert sum(o.seconds for o in choice.values()) <= seconds
    assert sum(o.bytes for o in choice.values()) <= limit


@given(problems(), st.floats(0.5, 15), st.integers(20, 300))
@settings(deadline=None, max_examples=60)
def test_what_is_found_is_within_seconds_and_memory(options: Options, seconds: float, memory: int) -> None:
    with suppress(ValueError):
        choice = solve(options, 1000, seconds=seconds, memory=memory)
        assert sum(o.seconds for o in choice.values()) <= seconds
        assert sum(o.memory for o in choice.values()) <= memory


@given(problems(), st.integers(20, 300))
@settings(deadline=None, max_examples=60)
def test_memory_alone_is_kept_where_it_can_be(options: Options, memory: int) -> None:
    least = sum(min(o.memory for o in some) for some in options.values())
    if least > memory:
        with pytest.raises(ValueError, match="no choice"):
            solve(options, 1000, memory=memory)
    else:
        assert sum(o.memory for o in solve(options, 1000, memory=memory).values()) <= memory


def test_a_bound_on_seconds_costs_little_more_than_it_must() -> None:
    kinds = {"a": (2.0, 9.0, 1.4), "b": (3.4, 3.0, 1.5), "c": (4.5, 1.0, 0.9), "d": (8.5, 0.02, 1.6)}
    options = {
        f"t{i}": [
            Option(type=k, bytes=round(1000 * b), cost=c * (1 + i % 5), seconds=s) for k, (b, c, s) in kinds.items()
        ]
        for i in range(7)
    }
    for seconds in (6.6, 7.5, 9.0):
        best = min(cost for nbytes, cost, s in every_choice(options) if nbytes <= 36_000 and s <= seconds)
        found = solve(options, 36_000, seconds=seconds)
        assert sum(o.seconds for o in found.values()) <= seconds
        assert sum(o.cost for o in found.values()) <= 1.25 * best


def test_many_tensors_of_odd_sizes_fill_the_limit_but_for_a_percent() -> None:
    bits = {"a": 2.06, "b": 2.6, "c": 3.4, "d": 4.25, "e": 4.5, "f": 5.5, "g": 6.6, "h": 8.5}
    options = {
        f"t{i}": [
            Option(type=name, bytes=round(b * (1 + i % 7) * 9_973), cost=(1 + i % 11) * 4.0**-b)
            for name, b in bits.items()
        ]
        for i in range(300)
    }
    least = sum(o.bytes for o in lightest(options).values())
    for limit in (least + 1, least * 3 // 2, least * 2, least * 3):
        nbytes = sum(o.bytes for o in solve(options, limit).values())
        assert nbytes <= limit
        assert nbytes >= 0.999 * limit or limit == least + 1


def test_a_type_of_infinite_cost_is_taken_only_where_nothing_else_fits() -> None:
    options = {"a": [Option(type="good", bytes=9, cost=1.0), Option(type="bad", bytes=1, cost=inf)]}
    assert solve(options, 9)["a"].type == "good"
    assert solve(options, 8)["a"].type == "bad"


def test_the_dearest_choice_is_found_though_its_bytes_fill_no_whole_steps() -> None:
    """Rounded up they are beyond the limit, which is the heaviest choice's own."""
    options = {
        f"t{i}": [Option(type="a", bytes=1000 + 37 * i, cost=1e-3), Option(type="b", bytes=300_000 + 7919 * i, cost=0)]
        for i in range(12)
    }
    found = frontier(options, 1 << 62)
    assert found.costs[-1] > 0, "it is not in the table"
    assert {o.type for o in found.down_to(1e-9).values()} == {"b"}
    with pytest.raises(ValueError, match="costs less"):
        found.down_to(-1.0)
