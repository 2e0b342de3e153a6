"""The simulator: what enters leaves once, nothing happens before its cause, and queues behave as theory says."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.config import Config
from foreshore.errors import RoutingError, UsageError
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.simulate.job import Cascade, Job
from foreshore.router.simulate.policy import PolicyChooser
from foreshore.router.simulate.report import curves, report
from foreshore.router.simulate.simulate import Choice, Look, Run, simulate
from foreshore.router.simulate.slo import Slo
from foreshore.router.simulate.speed import CloudSpeed, LocalSpeed, Spread
from foreshore.router.simulate.trace import Arrival, Trace

EDGE = {"kind": "local", "model": "m"}
CLOUD = {"kind": "openai", "model": "c", "base_url": "http://127.0.0.1:1", "price": {"input": 2.0, "output": 10.0}}
Speeds = Mapping[str, LocalSpeed | CloudSpeed]


def local(**more: Any) -> LocalSpeed:
    given = {"prefill_tokens_per_s": 100, "decode_tokens_per_s": {1: 10, 4: 20}, "slots": 4, "gap_target": 2}
    return LocalSpeed.model_validate({**given, **more})


def cloud(**more: Any) -> CloudSpeed:
    given = {"ttft_s": {"median": 0.5, "p95": 1.5}, "tpot_s": {"median": 0.02, "p95": 0.05}}
    return CloudSpeed.model_validate({**given, **more})


def steady(**more: Any) -> CloudSpeed:
    """One that does not scatter."""
    return cloud(ttft_s={"median": 0.5, "p95": 0.5}, tpot_s={"median": 0.1, "p95": 0.1}, **more)


def config(rules: Sequence[Mapping[str, Any]] = (), **more: Any) -> Config:
    targets = {"edge": EDGE, "cloud": CLOUD}
    return Config.model_validate({"targets": targets, "rules": rules, "limits": {"timeout": 1000}, **more})


ALONE = Config.model_validate({"targets": {"edge": EDGE}, "limits": {"timeout": 86_400}})


def trace(*rows: tuple[float, int, int], **more: Any) -> Trace:
    found = (Arrival(at=at, prompt_tokens=prompt, output_tokens=output, **more) for at, prompt, output in rows)
    return Trace(arrivals=tuple(found))


class Always:
    """The same order for all; it writes down what it saw."""

    def __init__(self, *targets: str) -> None:
        self.targets, self.seen = targets, list[Mapping[str, TargetFacts]]()

    def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice:
        self.seen.append(look())
        return Choice(targets=self.targets)

    def spent(self, job: Job) -> None:
        assert job.state is not None


class Nobody(Always):
    def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice:
        raise RoutingError("nobody may", reasons={})


def times(run: Run) -> list[tuple[float, float]]:
    return [(round(job.first_at, 6), round(job.ended_at, 6)) for job in run.jobs]


ROWS = st.lists(
    st.tuples(st.floats(0, 20), st.integers(0, 900), st.integers(1, 40)), min_size=1, max_size=25
)  # fmt: skip
LIMITS = st.fixed_dictionaries(
    {},
    optional={"slots": st.integers(1, 5), "queue_limit": st.integers(0, 3), "context_tokens": st.integers(100, 1000)},
)
CAPS = st.fixed_dictionaries(
    {},
    optional={
        "concurrency": st.integers(1, 3),
        "requests_per_minute": st.floats(1, 60),
        "tokens_per_minute": st.floats(100, 5000),
        "error_rate": st.floats(0, 0.9),
    },
)
CASCADE = {"name": "small-first", "prefer": ["edge", "cloud"], "strategy": "cascade", "confidence": 0.8}
ORDERS = st.sampled_from([("edge",), ("cloud",), ("edge", "cloud"), ("cloud", "edge")])


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, limits=LIMITS, caps=CAPS, order=ORDERS, timeout=st.floats(0.5, 60), seed=st.integers(0, 9))
def test_every_request_ends_exactly_once_and_nothing_before_its_cause(
    rows: list[tuple[float, int, int]],
    limits: dict[str, Any],
    caps: dict[str, Any],
    order: tuple[str, ...],
    timeout: float,
    seed: int,
) -> None:
    speeds: Speeds = {"edge": local(**limits), "cloud": cloud(**caps)}
    recorded = trace(*sorted(rows))
    run = simulate(config(), speeds, recorded, Always(*order), seed=seed, deadline_s=timeout)
    assert [job.number for job in run.jobs] == list(range(len(rows)))
    for job in run.jobs:
        assert job.state in ("complete", "deadline", "upstream_error", "rejected")
        assert job.at <= job.ended_at <= job.at + timeout + 1e-6
        assert (job.state == "complete") == (job.ended_at < math.inf and job.tokens > 0 and job.state != "deadline")
        if job.state == "complete":
            assert job.at <= job.asked_at <= job.first_at <= job.ended_at
        assert 0 <= job.tokens <= job.output_tokens
        assert job.cost >= 0
    found = report(run, Slo(ttft_s=1.0)).all
    assert found.complete + found.deadline + found.refused + found.denied == found.requests == len(rows)
    again = simulate(config(), speeds, recorded, Always(*order), seed=seed, deadline_s=timeout)
    assert repr(again) == repr(run)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, slots=st.integers(1, 5))
def test_a_machine_works_while_there_is_work(rows: list[tuple[float, int, int]], slots: int) -> None:
    """It is busy for exactly the time in which any request is there, and no prompt token is read twice."""
    speed = local(slots=slots, queue_limit=1000, queue_wait_s=86_400)
    run = simulate(ALONE, {"edge": speed}, trace(*sorted(rows)), Always("edge"))
    busy, until = 0.0, 0.0
    for job in sorted(run.jobs, key=lambda job: job.asked_at):
        busy += max(0.0, job.ended_at - max(until, job.asked_at))
        until = max(until, job.ended_at)
    assert run.targets["edge"].busy_s == pytest.approx(busy, abs=1e-6)
    least = sum(job.prompt_tokens for job in run.jobs) / speed.prefill_tokens_per_s
    assert busy >= least - 1e-6
    assert run.targets["edge"].stream_s <= sum(job.ended_at - job.at for job in run.jobs) + 1e-6


def test_one_after_the_other_on_one_slot() -> None:
    run = simulate(ALONE, {"edge": local(slots=1)}, trace((0, 100, 11), (0.5, 200, 1)), Always("edge"))
    assert times(run) == [(1.0, 2.0), (4.0, 4.0)]
    assert run.targets["edge"].busy_s == pytest.approx(4.0)


def test_streams_share_steps_and_prompts_take_their_share_of_them() -> None:
    """A prompt beside a stream: with a gap target of 2 each gets about half of the time. Two streams share a step."""
    run = simulate(ALONE, {"edge": local()}, trace((0, 100, 31), (1, 100, 21)), Always("edge"))
    (first, first_end), (second, second_end) = times(run)
    assert first == 1.0
    assert second == pytest.approx(3.0, rel=0.02)
    step_s = 0.1 + (0.2 - 0.1) / 3  # of two streams: 1 takes 0.1 s, 4 take 0.2 s
    assert second_end == pytest.approx(second + 20 * step_s)
    assert first_end == pytest.approx(3 + 20 * step_s, rel=0.02)  # 10 of its 30 tokens came beside the prompt


def test_steps_beyond_what_was_measured_go_on_growing() -> None:
    assert local().step_s(7) == pytest.approx(0.1 + 6 * 0.1 / 3)
    assert local(decode_tokens_per_s={1: 10}).step_s(3) == pytest.approx(0.3)


@pytest.mark.parametrize(("load", "scatter"), [(0.5, False), (0.7, False), (0.5, True)])
def test_a_queue_is_as_long_as_theory_says(load: float, scatter: bool) -> None:
    """M/D/1 waits load/(2(1-load)) services on average, M/M/1 load/(1-load) (Kleinrock 1975, 5.63 and 3.29)."""
    draws = random.Random(11)
    rows, at = [], 0.0
    for _ in range(2500):
        at += draws.expovariate(load)
        rows.append((at, round(draws.expovariate(1 / 1000)) if scatter else 1000, 1))
    speed = LocalSpeed(
        prefill_tokens_per_s=1000, decode_tokens_per_s={1: 1}, slots=1, queue_limit=100_000, queue_wait_s=86_400
    )
    run = simulate(ALONE, {"edge": speed}, trace(*rows), Always("edge"))
    mean = sum(job.ended_at - job.at for job in run.jobs) / len(run.jobs)
    wait = load / (1 - load) if scatter else load / (2 * (1 - load))
    assert mean == pytest.approx(1 + wait, rel=0.1)
    assert run.targets["edge"].busy_s / run.seconds == pytest.approx(load, rel=0.05)


def test_a_cloud_scatters_as_its_spread_says() -> None:
    rows = [(float(i), 10, 11) for i in range(1600)]
    run = simulate(config(), {"edge": local(), "cloud": cloud()}, trace(*rows), Always("cloud"), seed=3)
    ttft = sorted(job.first_at - job.at for job in run.jobs)
    assert ttft[800] == pytest.approx(0.5, rel=0.06)
    assert ttft[1520] == pytest.approx(1.5, rel=0.1)
    other = simulate(config(), {"edge": local(), "cloud": cloud()}, trace(*rows), Always("cloud"), seed=4)
    assert times(other) != times(run)
    in_flight = sum(job.ended_at - job.at for job in run.jobs)
    assert run.targets["cloud"].stream_s == pytest.approx(in_flight)
    assert run.jobs[0].cost == pytest.approx((10 * 2 + 11 * 10) / 1e6)


def test_the_same_request_has_the_same_luck_whatever_came_before() -> None:
    rows = [(float(i), 10, 11) for i in range(20)]
    speeds: Speeds = {"edge": local(), "cloud": cloud()}
    everything = simulate(config(), speeds, trace(*rows), Always("cloud"))

    class Late(Always):
        def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice:
            return Choice(targets=("cloud",) if job.number > 9 else ("edge",))

    half = simulate(config(), speeds, trace(*rows), Late())
    assert times(half)[10:] == times(everything)[10:]


def test_a_full_queue_sends_the_next_one_on() -> None:
    speeds: Speeds = {"edge": local(slots=1, queue_limit=1), "cloud": steady()}
    run = simulate(config(), speeds, trace((0, 500, 1), (1, 500, 1), (2, 500, 1)), Always("edge", "cloud"))
    assert [job.target for job in run.jobs] == ["edge", "edge", "cloud"]
    assert run.targets["edge"].refused == 1
    assert run.jobs[2].attempts == 2


def test_a_rate_limit_opens_the_breaker_until_the_named_moment() -> None:
    """60 tokens a minute, requests of 41 and 50: the second comes too early, and the cloud rests until it could."""
    speeds: Speeds = {"edge": local(), "cloud": steady(tokens_per_minute=60)}
    chooser = Always("cloud", "edge")
    run = simulate(config(), speeds, trace((0, 40, 1), (1, 40, 10), (2, 1, 1), (60, 1, 1)), chooser)
    assert [job.target for job in run.jobs] == ["cloud", "edge", "edge", "cloud"]
    assert [seen["cloud"].healthy for seen in chooser.seen] == [True, True, False, True]
    assert [seen["cloud"].breaker for seen in chooser.seen] == ["closed", "closed", "open", "half_open"]


def test_without_another_target_it_tries_again_after_a_pause() -> None:
    speeds: Speeds = {"edge": local(), "cloud": steady(concurrency=1)}
    run = simulate(config(), speeds, trace((0, 1, 1), (0.1, 1, 1), (0.2, 1, 100), (0.3, 1, 1)), Always("cloud"))
    assert run.jobs[1].state == "complete"
    assert run.jobs[1].asked_at > 0.5
    assert {job.state for job in run.jobs} == {"complete", "upstream_error"}
    assert max(job.attempts for job in run.jobs) == 3


def test_what_fails_is_tried_elsewhere_and_paid_for() -> None:
    speeds: Speeds = {"edge": local(), "cloud": steady(error_rate=0.999)}
    run = simulate(config(), speeds, trace((0, 100, 1)), Always("cloud", "edge"))
    assert run.jobs[0].target == "edge"
    assert times(run) == [(1.5, 1.5)]
    assert run.jobs[0].cost == pytest.approx(100 * 2 / 1e6)


def test_what_is_late_ends_at_its_deadline_and_frees_its_place() -> None:
    speeds: Speeds = {"edge": local(slots=1)}
    run = simulate(ALONE, speeds, trace((0, 100, 1001), (0, 100, 1)), Always("edge"), deadline_s=5.0)
    assert [job.state for job in run.jobs] == ["deadline", "deadline"]
    assert run.jobs[0].tokens == 41  # the first after 1 s, then 10 a second
    later = simulate(ALONE, speeds, trace((0, 100, 1001), (3, 100, 1)), Always("edge"), deadline_s=5.0)
    assert times(later)[1] == (6.0, 6.0)


def test_prompts_beyond_the_context_go_elsewhere_and_answers_are_cut() -> None:
    speeds: Speeds = {"edge": local(context_tokens=50), "cloud": steady()}
    run = simulate(config(), speeds, trace((0, 50, 5), (9, 45, 9)), Always("edge", "cloud"))
    assert [(job.target, job.tokens) for job in run.jobs] == [("cloud", 5), ("edge", 5)]
    only = simulate(config(), speeds, trace((0, 50, 5)), Always("edge"))
    assert only.jobs[0].state == "rejected"


def test_where_nobody_may_answer_it_counts_as_denied() -> None:
    found = report(simulate(ALONE, {"edge": local()}, trace((0, 1, 1)), Nobody()), Slo(total_s=9))
    assert (found.all.denied, found.all.attainment, found.targets["edge"].figures) == (1, 0.0, None)


def test_no_requests_are_no_simulation() -> None:
    with pytest.raises(UsageError, match="nothing to simulate"):
        simulate(ALONE, {"edge": local()}, Trace(arrivals=()), Always("edge"))


def policed(rules: Sequence[Mapping[str, Any]], recorded: Trace, speeds: Speeds, **more: Any) -> Run:
    given = config(rules, **more)
    return simulate(given, speeds, recorded, PolicyChooser(given, recorded))


def test_a_rule_decides_by_what_the_simulated_machine_looks_like() -> None:
    rules = [{"name": "free", "prefer": ["edge", "cloud"], "where": "!target.local || target.running == 0"}]
    speeds: Speeds = {"edge": local(), "cloud": steady()}
    run = policed(rules, trace((0, 100, 11), (1, 10, 1), (3, 10, 1)), speeds)
    assert [job.target for job in run.jobs] == ["edge", "cloud", "edge"]
    assert {job.rule for job in run.jobs} == {"free"}


def test_a_rule_on_the_forecast_keeps_requests_from_a_machine_that_would_be_late() -> None:
    """Fourteen at once: the machine could do a few in time, and late ones hold up the others."""
    rows = [(0.01 * i, 200, 10) for i in range(14)]
    ahead = [{"name": "in-time", "prefer": ["edge", "cloud"], "where": "!target.local || target.on_time >= 0.5"}]
    speeds: Speeds = {"edge": local(), "cloud": steady()}
    slo = Slo(total_s=15.0)
    first = simulate(config(), speeds, trace(*rows), Always("edge", "cloud"), deadline_s=15.0)
    given = config(ahead)
    foreseen = simulate(given, speeds, trace(*rows), PolicyChooser(given, trace(*rows)), deadline_s=15.0)
    assert report(foreseen, slo).all.attainment == 1.0
    assert report(first, slo).all.attainment < 0.7
    assert {job.target for job in foreseen.jobs} == {"edge", "cloud"}


def test_a_rule_s_deadline_ends_what_takes_longer() -> None:
    run = policed([{"name": "short", "prefer": ["edge"], "deadline": 2.0}], trace((0, 100, 100)), {
        "edge": local(), "cloud": steady(),
    })  # fmt: skip
    assert (run.jobs[0].state, run.jobs[0].ended_at) == ("deadline", 2.0)


def test_what_a_tenant_has_spent_counts_against_its_budget() -> None:
    rules = [
        {"name": "paid", "when": "budget.left > 0.0", "prefer": ["cloud"]},
        {"name": "spent", "prefer": ["edge"]},
    ]
    dollars = (100 * 2 + 10 * 10) / 1e6
    budgets = [{"tenant": "default", "dollars": 1.5 * dollars, "per": "hour"}]
    recorded = replace(
        trace((0, 100, 10), (10, 100, 10), (20, 100, 10), (3600, 100, 10)), begun=1_700_000_000 // 3600 * 3600
    )
    run = policed(rules, recorded, {"edge": local(), "cloud": steady()}, budgets=budgets)
    assert [job.target for job in run.jobs] == ["cloud", "cloud", "edge", "cloud"]


def test_a_decision_sees_the_estimate_of_a_prompt_and_the_target_its_length() -> None:
    rules = [{"name": "short", "when": "request.prompt_tokens < 50", "prefer": ["edge"]}]
    run = policed(rules, trace((0, 100, 1), facts={"prompt_tokens": 40}), {"edge": local(), "cloud": steady()})
    assert (run.jobs[0].target, run.jobs[0].ended_at) == ("edge", 1.0)


def test_the_clock_is_the_trace_s() -> None:
    rules = [{"name": "odd", "when": "now.minute == 1", "prefer": ["edge"]}, {"name": "even", "prefer": ["cloud"]}]
    recorded = replace(trace((0, 1, 1), (60, 1, 1)), begun=1_700_000_000 // 3600 * 3600)
    run = policed(rules, recorded, {"edge": local(), "cloud": steady()})
    assert [job.target for job in run.jobs] == ["cloud", "edge"]


def test_the_report_counts_by_tenant_and_target() -> None:
    arrivals = (*trace((0, 100, 11)).arrivals, *trace((0.5, 100, 2), tenant="b").arrivals)
    run = simulate(config(), {"edge": local(), "cloud": steady()}, Trace(arrivals=arrivals), Half())
    found = report(run, Slo(ttft_s=0.6))
    assert found.all.attainment == 0.5
    assert (found.tenants["default"].attainment, found.tenants["b"].attainment) == (0.0, 1.0)
    assert (found.tenants["default"].share_local, found.tenants["b"].share_local) == (1.0, 0.0)
    assert found.all.cost == found.tenants["b"].cost == pytest.approx((100 * 2 + 2 * 10) / 1e6)
    assert found.targets["edge"].utilisation == pytest.approx(1.0)
    assert found.targets["cloud"].streams == pytest.approx(0.6 / 2.0)
    assert found.all.ttft_s["p50"] == pytest.approx(0.5)
    assert found.all.ttft_s["p99"] == pytest.approx(1.0)
    shown = curves(run, Slo(ttft_s=0.6), windows=4)
    assert shown.attainment == (0.0, None, None, 1.0)
    assert shown.share_local == (1.0, None, None, 0.0)
    assert set(shown.ttft_s) == {"all", "edge", "cloud"}


class Half(Always):
    def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice:
        return Choice(targets=("cloud",) if facts.tenant == "b" else ("edge",))


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("ttft=1s,total=10s", Slo(ttft_s=1, total_s=10)),
        (" tpot=50ms ", Slo(tpot_s=0.05)),
        ("total=2min", Slo(total_s=120)),
    ],
)
def test_an_objective_is_read(text: str, slo: Slo) -> None:
    assert Slo.parse(text) == slo


@pytest.mark.parametrize(
    "text", ["", "ttft", "ttft=1", "ttft=-1s", "ttft=0s", "ttft=1s,ttft=2s", "p99=1s", "ttft=nans"]
)
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--slo"):
        Slo.parse(text)


def test_tpot_is_the_gap_between_later_tokens() -> None:
    run = simulate(config(), {"edge": local(), "cloud": steady()}, trace((0, 1, 11), (50, 1, 1)), Always("cloud"))
    assert [Slo(tpot_s=0.11).met(job) for job in run.jobs] == [True, True]
    assert [Slo(tpot_s=0.09).met(job) for job in run.jobs] == [False, True]


def test_a_spread_is_lognormal() -> None:
    spread = Spread(median=1.0, p95=3.0)
    assert spread.at(0) == 1.0
    assert spread.at(1.6448536269514722) == pytest.approx(3.0)


def cascaded(speeds: Speeds, recorded: Trace, **more: Any) -> Run:
    made = config([CASCADE])
    return simulate(made, speeds, recorded, PolicyChooser(made, recorded), **more)


def test_a_cascade_awaits_the_first_answer_whole_and_pays_for_both() -> None:
    recorded = trace((0.0, 100, 11))
    kept = cascaded({"edge": local(confident={0.8: 1.0}), "cloud": steady()}, recorded)
    assert times(kept) == [(2.0, 2.0)]  # 1 s to read, 1 s for ten more tokens: passed on at once
    assert (kept.jobs[0].target, kept.jobs[0].cost, kept.targets["edge"].passed_on) == ("edge", 0.0, 0)
    other = cascaded({"edge": local(confident={0.8: 0.0}), "cloud": steady()}, recorded)
    assert times(other) == [(2.5, 3.5)]
    assert other.jobs[0].target == "cloud"
    assert other.jobs[0].cost == pytest.approx((100 * 2 + 11 * 10) / 1e6)
    assert other.targets["edge"].passed_on == 1
    dear = config([{**CASCADE, "prefer": ["cloud", "edge"]}])
    paid = simulate(
        dear, {"edge": local(), "cloud": steady(confident={0.8: 0.0})}, recorded, PolicyChooser(dear, recorded)
    )
    assert times(paid) == [(2.5, 3.5)]
    assert paid.jobs[0].cost == pytest.approx((100 * 2 + 11 * 10) / 1e6)  # of an answer that was thrown away


@pytest.mark.parametrize(("threshold", "share"), [(0.8, 0.6), (0.4, 0.8), (0.9, 0.3), (0.0, 1.0), (1.0, 0.0)])
def test_a_cascade_keeps_the_share_of_answers_that_reach_the_threshold(threshold: float, share: float) -> None:
    made = config([{**CASCADE, "confidence": threshold}])
    recorded = trace(*((20.0 * i, 10, 5) for i in range(1000)))
    speeds: Speeds = {"edge": local(confident={0.8: 0.6}), "cloud": steady()}
    run = simulate(made, speeds, recorded, PolicyChooser(made, recorded), seed=3)
    kept = sum(job.target == "edge" for job in run.jobs) / 1000
    assert kept == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 1000))
    assert report(run, Slo()).targets["edge"].passed_on == 1000 - 1000 * kept


@pytest.mark.parametrize(
    ("cloud_speed", "deadline_s", "ended"),
    [
        (steady(error_rate=0.999), 60.0, 2.5),  # it fails after its TTFT
        (steady(tokens_per_minute=50), 60.0, 2.0),  # it has no room for the second request
        (cloud(ttft_s={"median": 50, "p95": 50}), 20.0, 20.0),  # the deadline comes first
    ],
)
def test_the_answer_held_back_is_passed_on_where_no_better_one_comes(
    cloud_speed: CloudSpeed, deadline_s: float, ended: float
) -> None:
    speeds: Speeds = {"edge": local(confident={0.8: 0.0}), "cloud": cloud_speed}
    run = cascaded(speeds, trace((0.0, 100, 11), (100.0, 100, 11)), deadline_s=deadline_s)
    job = run.jobs[1 if cloud_speed.tokens_per_minute else 0]
    assert (job.state, job.target, job.tokens) == ("complete", "edge", 11)
    assert job.ended_at - job.at == pytest.approx(ended)
    assert job.first_at == job.ended_at


@pytest.mark.parametrize(("expected", "ended"), [(0.9, 2.5), (1.0, 2.0)])
def test_an_answer_is_kept_where_no_time_is_left_for_another(expected: float, ended: float) -> None:
    class Cascading(Always):
        def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice:
            cascade = Cascade(last="cloud", confidence=0.8, expected={"cloud": expected})
            return Choice(targets=self.targets, cascade=cascade)

    speeds: Speeds = {"edge": local(confident={0.8: 0.0}), "cloud": steady()}
    run = simulate(config(), speeds, trace((0.0, 100, 11)), Cascading("edge", "cloud"), deadline_s=3.0)
    assert run.jobs[0].first_at == pytest.approx(ended)  # after 2 s of 3 here


def test_where_nothing_is_known_of_confidence_all_answers_are_kept() -> None:
    run = cascaded({"edge": local(), "cloud": steady()}, trace((0.0, 100, 11)))
    assert run.jobs[0].target == "edge"


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, limits=LIMITS, caps=CAPS, share=st.floats(0, 1), timeout=st.floats(0.5, 60), seed=st.integers(0, 9))
def test_every_request_of_a_cascade_ends_once_too(
    rows: list[tuple[float, int, int]],
    limits: dict[str, Any],
    caps: dict[str, Any],
    share: float,
    timeout: float,
    seed: int,
) -> None:
    speeds: Speeds = {"edge": local(**limits, confident={0.8: share}), "cloud": cloud(**caps)}
    run = cascaded(speeds, trace(*sorted(rows)), seed=seed, deadline_s=timeout)
    for job in run.jobs:
        assert job.state in ("complete", "deadline", "upstream_error", "rejected")
        assert job.at <= job.ended_at <= job.at + timeout + 1e-6
        if job.state == "complete":
            assert job.tokens > 0
            assert job.at <= job.first_at <= job.ended_at
            streamed = job.cascade is None or job.target == job.cascade.last  # whoever is the last in the order
            assert streamed or job.first_at == job.ended_at


@pytest.mark.parametrize("shares", [{0.5: 0.4, 0.8: 0.6}, {1.5: 0.2}, {0.5: 1.2}, {}])
def test_shares_of_confidence_that_cannot_be_are_refused(shares: dict[float, float]) -> None:
    with pytest.raises(ValueError, match="confident"):
        local(confident=shares)
