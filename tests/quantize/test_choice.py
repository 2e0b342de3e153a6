"""The choice of a variant: what fits, what is fast enough, what is good enough, and a reason with numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.card import Card, Device, Divergence, Interval, Speed, Spread
from foreshore.edge.gguf import GgufInfo, Tensor, inspect
from foreshore.edge.memory import Estimate
from foreshore.errors import NotFound, UsageError
from foreshore.manifest import State
from foreshore.quantize.builder import build
from foreshore.quantize.choice import Need, Offer, choose, offers, weights_read
from foreshore.store import Store

MB = 1_000_000
NEED = Need(context=1024, memory_bytes=1000 * MB, fingerprints=("here",))


def speed(decode: float, low: float | None = None, high: float | None = None, fingerprint: str = "here") -> Speed:
    device = Device(fingerprint=fingerprint, cpu="c", cores=2, memory_bytes=1 << 30, system="s", engine="e")
    few = Spread(median=1, low=1, high=1, runs=3)
    rate = Spread(median=decode, low=low or decode, high=high or decode, runs=3)
    return Speed(device=device, date="2026-01-02", threads=2, load_s=few, peak_bytes=9, prefill=few, decode=rate)


def lost(kl: float) -> Divergence:
    at = Interval(value=kl, low=kl * 0.9, high=kl * 1.1)
    return Divergence(
        parent_sha256="11" * 32,
        text_sha256="22" * 32,
        documents=3,
        tokens=30,
        perplexity=at,
        parent_perplexity=at,
        kl_mean=at,
        kl_p99=at,
        same_top=at,
    )


def offer(
    name: str, size: int, *speeds: Speed, kl: float | None = None, state: State = "ready", cell: int = 10_000
) -> Offer:
    """One of `size` MB with a cache of `cell` bytes a token."""
    return Offer(
        ref=f"m:{name}",
        state=state,
        bytes=size * MB,
        bits_per_weight=size / 100,
        context_length=4096,
        memory=Estimate(weights=size * MB, cache=1024 * cell, buffers=50 * MB, kv_tokens=1024, cell=cell),
        read=size * MB,
        card=Card(divergence=lost(kl) if kl is not None else None, speeds=speeds),
    )


SMALL = offer("small", 200, speed(40), kl=0.04)
MIDDLE = offer("middle", 300, speed(30), kl=0.02)
LARGE = offer("large", 500, speed(20), kl=0.01)
HUGE = offer("huge", 5000, speed(2), kl=0.001)
ALL = (HUGE, LARGE, MIDDLE, SMALL)


def test_of_those_ready_that_fit_the_fastest_is_chosen() -> None:
    choice = choose(ALL, NEED)
    assert choice.recommended == "m:small"
    assert "40.0 tokens/s measured here" in choice.reason
    assert "KL 0.0400 [0.0360, 0.0440]" in choice.reason
    assert [row.fits for row in choice.rows] == [False, True, True, True]
    assert choice.rows[0].why == "needs 4.7 GiB, 0.9 GiB is free"


def test_where_a_speed_is_enough_quality_decides() -> None:
    assert choose(ALL, replace(NEED, speed=20)).recommended == "m:large"
    assert choose(ALL, replace(NEED, speed=25)).recommended == "m:middle"
    missed = choose(ALL, replace(NEED, speed=100))
    assert missed.recommended == "m:small"
    assert "none that is ready reaches 100 tokens/s" in missed.reason


def test_speeds_that_cannot_be_told_apart_leave_it_to_quality() -> None:
    close = replace(MIDDLE, card=Card(divergence=lost(0.02), speeds=(speed(39, 36, 41),)))
    assert choose((SMALL, close, LARGE), NEED).recommended == "m:middle"


def test_only_what_is_ready_is_recommended_unless_nothing_is() -> None:
    waiting = [replace(o, state="candidate") for o in ALL]
    assert choose([*waiting[:3], SMALL], NEED).recommended == "m:small"
    assert choose([SMALL, replace(MIDDLE, state="candidate")], replace(NEED, speed=1)).recommended == "m:small"
    choice = choose(waiting, NEED)
    assert choice.recommended == "m:large"
    assert "none that fits is ready" in choice.reason
    unmeasured = [replace(o, state="candidate", card=None) for o in ALL]
    assert choose(unmeasured, NEED).recommended == "m:large"
    assert choose([*unmeasured[:3], waiting[3]], NEED).recommended == "m:small"


def test_a_speed_is_predicted_from_what_other_variants_reach_here() -> None:
    unknown = replace(SMALL, card=None)
    rows = choose((unknown, MIDDLE), NEED).rows
    assert rows[0].rate is not None
    assert not rows[0].rate.measured
    assert rows[0].rate.value == pytest.approx(30 * 300 * MB / (200 * MB + 512 * 10_000))
    assert "predicted" in choose((unknown, MIDDLE), NEED).reason


def test_a_speed_is_predicted_from_the_bandwidth_alone() -> None:
    elsewhere = offer("x", 200, speed(99, fingerprint="there"), cell=0)
    assert choose((elsewhere,), NEED).rows[0].rate is None
    rate = choose((elsewhere,), replace(NEED, bandwidth=10e9)).rows[0].rate
    assert rate is not None
    assert (rate.value, rate.measured) == (50, False)
    plain = replace(speed(1), decode=None, prefill=None, bandwidth_bytes_per_s=20e9)
    rate = choose((replace(elsewhere, card=Card(speeds=(plain,))),), NEED).rows[0].rate
    assert rate is not None
    assert rate.value == 100


def test_without_any_speed_the_smallest_that_is_ready_is_chosen() -> None:
    choice = choose([replace(o, card=None) for o in ALL], NEED)
    assert choice.recommended == "m:small"
    assert "no speed is known" in choice.reason


def test_the_latest_speed_on_this_class_of_device_counts() -> None:
    older, newer = speed(10), replace(speed(20), date="2026-02-01")
    row = choose((offer("x", 200, newer, older, speed(99, fingerprint="there")),), NEED).rows[0]
    assert row.rate is not None
    assert row.rate.value == 20


def test_a_context_that_the_model_does_not_have_does_not_fit() -> None:
    choice = choose((SMALL,), replace(NEED, context=5000))
    assert choice.recommended is None
    assert choice.rows[0].why == "its context ends at 4096 tokens"
    assert "m:small would with a context of 4096" in choice.reason


def test_what_nearly_fits_is_named() -> None:
    tight = replace(NEED, memory_bytes=256 * MB)
    choice = choose((SMALL, LARGE), tight)
    assert choice.recommended is None
    assert choice.reason == "no variant fits; m:small would with a context of 512"
    assert choose((LARGE,), tight).reason == "no variant fits"
    assert choose((), tight).recommended is None


@pytest.mark.parametrize(
    "wrong", [{"context": 0}, {"concurrency": 0}, {"concurrency": 256}, {"speed": 0}, {"speed": float("nan")}]
)
def test_a_need_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Need(**{"context": 1, "memory_bytes": 1, "fingerprints": (), **wrong})  # type: ignore[arg-type]


OFFERS = st.lists(
    st.builds(
        lambda i, size, rate, kl, state: offer(f"v{i}", size, *([speed(rate)] if rate else []), kl=kl, state=state),
        st.integers(0, 99),
        st.integers(1, 2000),
        st.none() | st.floats(0.1, 100),
        st.none() | st.floats(0, 5),
        st.sampled_from(["ready", "candidate"]),
    ),
    max_size=8,
    unique_by=lambda o: o.ref,
)


@given(OFFERS, st.integers(0, 2000), st.none() | st.floats(0.1, 100))
def test_a_recommendation_fits_and_is_ready_if_any_is(found: list[Offer], free: int, wanted: float | None) -> None:
    need = replace(NEED, memory_bytes=free * MB, speed=wanted)
    choice = choose(found, need)
    fitting = [row for row in choice.rows if row.fits]
    assert (choice.recommended is None) == (not fitting)
    for row in fitting:
        assert row.memory_bytes is not None
        assert row.memory_bytes <= need.memory_bytes
    chosen = [row for row in fitting if row.ref == choice.recommended]
    if any(row.state == "ready" for row in fitting):
        assert [row.state for row in chosen] == ["ready"]
        best = max((row.rate.value for row in fitting if row.state == "ready" and row.rate), default=0)
        if wanted is not None and best >= wanted:
            assert chosen[0].rate is not None
            assert chosen[0].rate.value >= wanted


def tensor(name: str, nbytes: int) -> Tensor:
    return Tensor(name=name, type="f16", shape=(nbytes // 2,), offset=0, nbytes=nbytes)


def info(*tensors: Tensor, **metadata: int) -> GgufInfo:
    values = {"general.architecture": "m", **{f"m.{k}": v for k, v in metadata.items()}}
    return GgufInfo(path=Path("m"), version=3, size=0, alignment=32, metadata=values, tensors=tensors)


def test_decoding_reads_no_embeddings_but_those_that_are_the_output_too() -> None:
    embedding, block, output = tensor("token_embd.weight", 1000), tensor("blk.0.w", 100), tensor("output.weight", 10)
    assert weights_read(info(embedding, block, output)) == 110
    assert weights_read(info(embedding, block)) == 1100


def test_of_experts_only_those_asked_are_read() -> None:
    found = (tensor("output.weight", 10), tensor("blk.0.ffn_up_exps.weight", 800))
    assert weights_read(info(*found, expert_count=8, expert_used_count=2)) == 210
    assert weights_read(info(*found)) == 810


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store") / "models")
    build("starter-s", ["q4_k_m", "q8_0"], store=store)
    return store


def test_offers_are_what_the_engine_would_hold(store: Store) -> None:
    context, (small, large) = offers(store, "starter-s", concurrency=2)
    assert context == min(4096, small.context_length)
    assert small.memory is not None
    assert large.memory is not None
    assert small.memory.kv_tokens == large.memory.kv_tokens == 2 * context
    assert small.memory.mapped < large.memory.mapped
    assert 0 < small.read < large.read <= inspect(store.path(store.get(large.ref))).size
    _, (shorter, _) = offers(store, "starter-s", context=256)
    assert shorter.memory is not None
    assert shorter.memory.cache * 2 * context == small.memory.cache * 256


def test_the_longest_context_is_one_that_fits(store: Store) -> None:
    context, (found, _) = offers(store, "starter-s", context=256, concurrency=4)
    assert found.memory is not None
    need = Need(context=context, concurrency=4, memory_bytes=found.memory.total + 20 * MB, fingerprints=("here",))
    longest = choose((found,), need).rows[0].longest_context
    assert longest is not None
    assert longest > 256
    _, (longer, _) = offers(store, "starter-s", context=longest, concurrency=4)
    assert longer.memory is not None
    assert longer.memory.total <= need.memory_bytes


def test_a_damaged_variant_is_offered_with_its_problem(store: Store) -> None:
    path = store.path(store.get("starter-s:q8_0"))
    before = path.read_bytes()
    path.write_bytes(b"GGUF")
    try:
        context, found = offers(store, "starter-s")
        rows = choose(found, replace(NEED, context=context)).rows
    finally:
        path.write_bytes(before)
    assert [row.fits for row in rows] == [True, False]
    assert "ends" in rows[1].why


def test_an_unknown_name_is_refused(store: Store) -> None:
    with pytest.raises(NotFound):
        offers(store, "absent")
