"""Forecasts on simulated targets: they hold what they promise on calm, drifting and heavy-tailed ones, and nothing that
a clock or a network does breaks them. All draws are seeded."""

from __future__ import annotations

import math
import pickle
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.router.latency.forecast import Forecast, Forecaster, Speeds, Work
from foreshore.router.latency.prompt_tokens import PromptTokens
from foreshore.router.latency.quantiles import LEVELS, Distribution, Quantiles

OUTCOMES, WARM_UP = 1500, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A simulated target. `slower` is what its speed is divided by as time goes from 0 to 1."""

    noise: float = 0.15
    tail: bool = False  # the noise's size is itself of a heavy-tailed distribution
    lengths: float = 0.7  # deviation of the logarithm of answers' lengths
    drift: float = 0.0
    step: float = 1.0  # slower by so much from half of the time on
    outliers: float = 0.0  # share of answers that take 20 times as long

    def outcomes(self, seed: int) -> Iterator[tuple[Work, float, float, int, bool]]:
        """Work, TTFT, total, tokens, and whether it is an outlier."""
        draws = random.Random(seed)
        for i in range(OUTCOMES):
            running = draws.choice((0, 0, 1, 2, 4, 8))
            waiting = draws.choice((0, 0, 1, 3)) if running else 0
            work = Work(
                prompt_tokens=int(math.exp(draws.uniform(3, 7.5))), waiting_tokens=300 * waiting, running=running,
                waiting=waiting, route="chat", tenant="t",
            )  # fmt: skip
            slower = (1 + self.drift * i / OUTCOMES) * (self.step if 2 * i > OUTCOMES else 1)
            slow = draws.random() < self.outliers
            noise = self.noise * (draws.paretovariate(1.5) if self.tail else 1)
            seconds = 0.02 + (work.prompt_tokens + work.waiting_tokens) / 1000 * (1 + 0.2 * running) + 0.01 * running
            ttft_s = slower * seconds * math.exp(draws.gauss(0, noise)) * (20 if slow else 1)
            tokens = max(1, int(math.exp(draws.gauss(4, self.lengths))))
            decode_s = slower * (tokens - 1) * (0.01 + 0.003 * running) * math.exp(draws.gauss(0, 0.05))
            yield work, ttft_s, ttft_s + decode_s, tokens, slow


@dataclass(slots=True)
class Score:
    """How often 80 % intervals held, and the median absolute percentage error of the others than outliers."""

    ttft: float
    total: float
    error: float


def score(machine: Machine, seed: int = 0) -> Score:
    """Each outcome is foretold before it is learned."""
    forecaster, ttft, total, errors = Forecaster(slots=8), list[bool](), list[bool](), list[float]()
    for i, (work, ttft_s, total_s, tokens, slow) in enumerate(machine.outcomes(seed)):
        if i >= WARM_UP:
            found = forecaster.predict(work)
            ttft.append(found.ttft.quantile(0.1) <= ttft_s <= found.ttft.quantile(0.9))
            total.append(found.total.quantile(0.1) <= total_s <= found.total.quantile(0.9))
            errors += [] if slow else [abs(found.ttft_s / ttft_s - 1)]
        forecaster.learn(work, ttft_s=ttft_s, total_s=total_s, output_tokens=tokens)
    return Score(statistics.mean(ttft), statistics.mean(total), statistics.median(errors))


@pytest.mark.parametrize("machine", [
    Machine(), Machine(drift=2.0), Machine(step=4.0), Machine(step=0.25), Machine(tail=True, lengths=1.2),
    Machine(noise=0.6), Machine(outliers=0.05), Machine(drift=2.0, outliers=0.05),
], ids=str)  # fmt: skip
def test_80_percent_intervals_hold_80_percent_of_outcomes(machine: Machine) -> None:
    found = score(machine)
    assert 0.75 <= found.ttft <= 0.85
    assert 0.75 <= found.total <= 0.85


@pytest.mark.parametrize("seed", range(4))
def test_a_forecast_is_about_as_good_as_the_noise_allows(seed: int) -> None:
    best = 0.6745 * 0.15  # of a normal error with that deviation, the median of its size
    assert score(Machine(), seed).error < 1.35 * best
    assert score(Machine(step=4.0), seed).error < 1.45 * best


def test_one_stall_in_twenty_does_not_wreck_it() -> None:
    assert score(Machine(outliers=0.05)).error < 1.2 * score(Machine()).error


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_a_target_that_changes_is_followed_within_thirty_answers(factor: float) -> None:
    forecaster, work = Forecaster(), Work(prompt_tokens=500)
    draws = random.Random(5)
    for i in range(400):
        seconds = math.exp(draws.gauss(0, 0.1)) * (factor if i >= 370 else 1)
        forecaster.learn(work, ttft_s=seconds, total_s=seconds, output_tokens=1)
    assert forecaster.predict(work).ttft_s == pytest.approx(factor, rel=0.25)


def test_more_work_never_takes_less_time() -> None:
    forecaster = Forecaster(slots=8)
    for work, ttft_s, total_s, tokens, _ in Machine().outcomes(1):
        forecaster.learn(work, ttft_s=ttft_s, total_s=total_s, output_tokens=tokens)
    plain = Work(prompt_tokens=400, running=2, waiting=1, waiting_tokens=200, route="chat", tenant="t")
    more = (
        plain._replace(prompt_tokens=800), plain._replace(running=6), plain._replace(waiting=9),
        plain._replace(waiting_tokens=900),
    )  # fmt: skip
    for work in more:
        assert forecaster.predict(work).total.quantile(0.5) >= forecaster.predict(plain).total_s
    assert forecaster.predict(plain._replace(cached_tokens=390)).ttft_s < forecaster.predict(plain).ttft_s


# --- what is known beforehand ---


def test_a_measured_target_is_forecast_before_its_first_answer() -> None:
    speeds = Speeds(prefill_tokens_per_s=200.0, decode_tokens_per_s=20.0, load_s=3.0)
    forecaster = Forecaster(speeds)
    assert forecaster.known
    found = forecaster.predict(Work(prompt_tokens=1000, max_tokens=10))
    assert found.ttft_s == pytest.approx(5.0, rel=0.05)
    assert found.total_s == pytest.approx(5.45, rel=0.1)
    assert forecaster.predict(Work(prompt_tokens=1000, loaded=False)).ttft_s == pytest.approx(8.0, rel=0.05)


def test_without_a_measurement_the_first_answer_is_the_measure() -> None:
    forecaster = Forecaster()
    assert not forecaster.known
    forecaster.learn(Work(prompt_tokens=100), ttft_s=4.0, total_s=5.0, output_tokens=20)
    assert forecaster.known
    assert forecaster.predict(Work(prompt_tokens=100)).ttft_s == pytest.approx(4.0, rel=0.2)


def test_a_fair_scheduler_lets_others_go_first_only_as_far_as_oneself() -> None:
    """Of a busy tenant's queue a short request waits for little; in its own tenant's it waits for all."""
    forecaster, draws = Forecaster(), random.Random(3)
    for _ in range(600):
        others, own, fresh = (int(math.exp(draws.uniform(2, 7))) for _ in range(3))
        work = Work(prompt_tokens=fresh, waiting_tokens=own + others, rival_tokens=others, waiting=2)
        seconds = (0.01 + (own + fresh + min(others, own + fresh)) / 1000) * math.exp(draws.gauss(0, 0.1))
        forecaster.learn(work, ttft_s=seconds, total_s=seconds, output_tokens=1)
    behind = Work(prompt_tokens=20, waiting_tokens=1000, waiting=2)
    assert forecaster.predict(behind).ttft_s == pytest.approx(1.0, rel=0.2)
    assert forecaster.predict(behind._replace(rival_tokens=1000)).ttft_s < 0.2


def test_what_is_told_later_counts_until_something_was_seen() -> None:
    forecaster = Forecaster()
    forecaster.tell(Speeds(prefill_tokens_per_s=100.0))
    before = forecaster.predict(Work(prompt_tokens=1000)).ttft_s
    forecaster.tell(Speeds(prefill_tokens_per_s=1.0))
    assert forecaster.predict(Work(prompt_tokens=1000)).ttft_s == before == pytest.approx(10.0, rel=0.05)


def test_loading_is_learned_apart_from_answering() -> None:
    forecaster = Forecaster()
    for _ in range(20):
        forecaster.learn(Work(prompt_tokens=10), ttft_s=0.1, total_s=0.2, output_tokens=5)
        forecaster.learn(Work(prompt_tokens=10, loaded=False), ttft_s=5.1, total_s=5.2, output_tokens=5)
    assert forecaster.predict(Work(prompt_tokens=10)).ttft_s == pytest.approx(0.1, rel=0.2)
    assert forecaster.predict(Work(prompt_tokens=10, loaded=False)).ttft_s == pytest.approx(5.1, rel=0.2)


# --- lengths ---


def answered(*kinds: tuple[str, str, int], cut: bool = False) -> Forecaster:
    """(route, tenant, tokens) each thirty times, 10 ms a token."""
    forecaster = Forecaster()
    for _ in range(30):
        for route, tenant, tokens in kinds:
            limit = tokens if cut else 0
            work = Work(prompt_tokens=10, route=route, tenant=tenant, max_tokens=limit)
            total_s = 0.1 + 0.01 * tokens
            forecaster.learn(work, ttft_s=0.1, total_s=total_s, output_tokens=tokens, cut=cut)
    return forecaster


def total_s(forecaster: Forecaster, route: str, tenant: str, max_tokens: int = 0) -> float:
    return forecaster.predict(Work(prompt_tokens=10, route=route, tenant=tenant, max_tokens=max_tokens)).total_s


def test_lengths_are_those_of_the_route_and_the_tenant() -> None:
    forecaster = answered(("short", "a", 10), ("long", "a", 400), ("long", "b", 100))
    assert total_s(forecaster, "short", "a") < 0.5
    assert total_s(forecaster, "long", "a") == pytest.approx(4.1, rel=0.3)
    assert total_s(forecaster, "long", "b") == pytest.approx(1.1, rel=0.3)


def test_a_new_tenant_is_taken_for_one_of_its_route_and_a_new_route_for_any() -> None:
    forecaster = answered(("short", "a", 10), ("long", "a", 400))
    assert total_s(forecaster, "short", "new") < total_s(forecaster, "new", "new") < total_s(forecaster, "long", "new")


def test_one_answer_does_not_make_a_kind() -> None:
    forecaster = answered(("usual", "a", 100))
    forecaster.learn(Work(prompt_tokens=10, route="odd", tenant="a"), ttft_s=0.1, total_s=20, output_tokens=2000)
    assert total_s(forecaster, "odd", "a") < 5.0


def test_a_kind_whose_first_content_comes_late_is_foretold_late() -> None:
    forecaster, seconds = Forecaster(), {"chat": 0.1, "tools": 0.3}
    for _ in range(40):
        for route, ttft_s in seconds.items():
            forecaster.learn(Work(prompt_tokens=100, route=route), ttft_s=ttft_s, total_s=1.0, output_tokens=10)
    for route, ttft_s in seconds.items():
        assert forecaster.predict(Work(prompt_tokens=100, route=route)).ttft_s == pytest.approx(ttft_s, rel=0.2)


def test_no_answer_is_longer_than_its_limit() -> None:
    forecaster = answered(("long", "a", 400))
    assert total_s(forecaster, "long", "a", max_tokens=10) < 0.5
    found = forecaster.predict(Work(prompt_tokens=10, route="long", tenant="a", max_tokens=10))
    assert found.answer_tokens == 10


def test_an_answer_that_was_cut_says_only_that_it_is_longer() -> None:
    whole, cut = answered(("r", "a", 50)), answered(("r", "a", 50), cut=True)
    assert total_s(cut, "r", "a") > 1.2 * total_s(whole, "r", "a")


def test_prompts_come_to_what_they_came_to_before() -> None:
    """Three tokens for two that were estimated, one in ten cached; a tenant whose prompts begin alike; a new one."""
    prompts = PromptTokens()
    assert prompts.expect("chat", "a", 100) == (100, 0)
    for _ in range(20):
        prompts.learn("chat", "a", 100, 150, 15)
        prompts.learn("chat", "b", 100, 150, 135)
    for tenant, wanted in (("a", 150), ("b", 1350)):
        tokens, cached = prompts.expect("chat", tenant, 1000)
        assert tokens == 1500
        assert cached == pytest.approx(wanted, rel=0.1)
    assert prompts.expect("chat", "new", 1000) == (1500, 0)


@given(st.lists(st.tuples(st.integers(-9, 1 << 40), st.integers(-9, 1 << 40), st.integers(-9, 1 << 40)), max_size=30))
def test_no_usage_makes_a_prompt_absurd(learned: list[tuple[int, int, int]]) -> None:
    prompts = PromptTokens()
    for estimate, tokens, cached in learned:
        prompts.learn("r", "t", estimate, tokens, cached)
    tokens, cached = prompts.expect("r", "t", 1000)
    assert 0 <= cached <= tokens
    assert 45 <= tokens <= 22_000


def test_computed_tokens_count_not_those_expected() -> None:
    """A cache that helps now and then does not make tokens cheap."""
    forecaster = Forecaster()
    for i in range(200):
        fresh = 1000 if i % 2 else 100
        ttft_s = 0.01 + fresh / 1000
        work = Work(prompt_tokens=1000, cached_tokens=450)
        forecaster.learn(work, ttft_s=ttft_s, total_s=ttft_s, output_tokens=1, fresh_tokens=fresh)
    assert forecaster.predict(Work(prompt_tokens=2000)).ttft.quantile(0.98) > 1.9


# --- nothing breaks it ---

TIMES = st.one_of(
    st.floats(), st.floats(1e-6, 1e4), st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e-300, 1e300])
)
WORKS = st.builds(
    Work,
    prompt_tokens=st.integers(0, 1 << 24),
    cached_tokens=st.integers(0, 1 << 24),
    waiting_tokens=st.integers(0, 1 << 24),
    running=st.integers(0, 500),
    waiting=st.integers(0, 500),
    max_tokens=st.integers(0, 1 << 24),
    route=st.sampled_from(["", "a", "b"]),
    tenant=st.sampled_from(["", "t"]),
    loaded=st.booleans(),
)
LEARNED = st.lists(st.tuples(WORKS, TIMES, TIMES, st.integers(-5, 1 << 30), st.booleans()), max_size=40)


def check(found: Forecast) -> None:
    values = (found.ttft_s, found.total_s, found.ttft_p90_s, found.p90_s, found.answer_tokens)
    assert all(0 < value < math.inf for value in values)
    assert found.ttft_s <= found.ttft_p90_s
    assert found.total_s <= found.p90_s
    for part in (found.ttft, found.total):
        quantiles = [part.quantile(level) for level in (0.001, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999)]
        assert quantiles == sorted(quantiles)
    chances = [found.within(s) for s in (-1.0, 0.0, 1e-9, 1e-3, 0.1, 1.0, 60.0, 1e5, math.inf)]
    assert chances == sorted(chances)
    assert (chances[0], chances[-1]) == (0.0, 1.0)
    assert 0.0 <= found.within(math.nan) <= 1.0


@settings(max_examples=60)
@given(LEARNED, WORKS)
def test_whatever_is_measured_a_forecast_stays_a_forecast(
    learned: list[tuple[Work, float, float, int, bool]], work: Work
) -> None:
    forecaster = Forecaster(slots=4)
    for seen, ttft_s, total_s, tokens, cut in learned:
        forecaster.learn(seen, ttft_s=ttft_s, total_s=total_s, output_tokens=tokens, cut=cut)
    check(forecaster.predict(work))


@pytest.mark.parametrize(("ttft_s", "total_s"), [
    (math.nan, 1.0), (1.0, math.nan), (0.0, 1.0), (-1.0, 1.0), (math.inf, math.inf), (1.0, math.inf), (1e9, 1e9),
])  # fmt: skip
def test_what_is_no_time_is_not_learned(ttft_s: float, total_s: float) -> None:
    forecaster = answered(("r", "a", 50))
    before = pickle.dumps(forecaster.predict(Work(prompt_tokens=9)))
    forecaster.learn(Work(prompt_tokens=9), ttft_s=ttft_s, total_s=total_s, output_tokens=7)
    assert pickle.dumps(forecaster.predict(Work(prompt_tokens=9))) == before


def test_memory_does_not_grow_with_tenants() -> None:
    forecaster, sizes = Forecaster(), list[int]()
    for i in range(3000):
        work = Work(prompt_tokens=10, route=f"route-{i % 7}", tenant=f"tenant-{i:06}")
        forecaster.learn(work, ttft_s=0.1, total_s=0.2, output_tokens=5)
        forecaster.prompts.learn(work.route, work.tenant, 10, 12, 3)
        forecaster.predict(work)
        if i in (1500, 2999):
            sizes.append(len(pickle.dumps(forecaster)))
    assert sizes[1] < 1.05 * sizes[0]


# --- quantiles ---


@given(st.lists(st.floats(-50, 50), max_size=200))
def test_quantiles_never_cross(residuals: list[float]) -> None:
    quantiles = Quantiles()
    for residual in residuals:
        quantiles.learn(residual)
        assert list(quantiles.values) == sorted(quantiles.values)


def test_quantiles_keep_their_promise_for_numbers_that_nobody_drew() -> None:
    """A sine that grows: no two parts of it are alike."""
    quantiles, below = Quantiles(), [0] * len(LEVELS)
    count = 6000
    for i in range(count):
        value = math.sin(i / 10) * (1 + i / count)
        below = [n + (value <= q) for n, q in zip(below, quantiles.values, strict=True)]
        quantiles.learn(value)
    for level, n in zip(LEVELS, below, strict=True):
        assert n / count == pytest.approx(level, abs=0.03)


@given(st.floats(-5, 5), st.floats(0.02, 2), st.floats(0.001, 0.999))
def test_within_undoes_quantile(centre: float, spread: float, level: float) -> None:
    found = Distribution(centre, spread, Quantiles().values)
    assert found.within(found.quantile(level)) == pytest.approx(level, abs=1e-6)
