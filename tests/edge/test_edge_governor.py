"""Fewer threads on the last battery, in heat and beside others' work: the rule, and a worker that follows it."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.edge import EngineOptions, LocalBackend
from foreshore.edge.governor import Governor, Thresholds, Throttle
from foreshore.edge.pool import Pool
from foreshore.edge.sensors import Reading, Sensors
from tests.edge.test_edge_worker import ask, until

LIMITS = Thresholds(battery_percent=30, celsius=85, busy_percent=50)


class Threads:
    """Something with eight threads."""

    thread_count = 8

    def __init__(self) -> None:
        self.threads: int | None = None

    def set_threads(self, threads: int | None) -> None:
        self.threads = threads


def test_half_the_threads_below_the_threshold_and_all_again_well_above_it() -> None:
    throttle = Throttle(LIMITS)
    seen = []
    for percent in (50, 31, 29, 31, 34.9, 36, 31):
        throttle.update(Reading(battery_percent=percent, plugged=False))
        seen.append(throttle.threads(8))
    assert seen == [None, None, 4, 4, 4, None, None]


def test_a_battery_that_is_being_charged_and_a_value_that_is_not_told_hold_nothing_back() -> None:
    throttle = Throttle(LIMITS)
    throttle.update(Reading(battery_percent=5, plugged=True))
    assert throttle.threads(8) is None
    throttle.update(Reading())
    assert throttle.threads(8) is None


def test_heat_and_load_have_thresholds_of_their_own() -> None:
    throttle = Throttle(LIMITS)
    throttle.update(Reading(celsius=86, busy_percent=51))
    assert throttle.reasons == {"heat", "busy"}
    throttle.update(Reading(celsius=81, busy_percent=10))
    assert throttle.reasons == {"heat"}
    throttle.update(Reading(celsius=79, busy_percent=10))
    assert throttle.reasons == set()


def test_at_least_one_thread_computes() -> None:
    throttle = Throttle(Thresholds(celsius=85, share=0.1))
    throttle.update(Reading(celsius=90))
    assert throttle.threads(1) == 1


@given(st.lists(st.floats(0, 120)))
def test_within_the_band_nothing_changes(values: list[float]) -> None:
    throttle = Throttle(Thresholds(celsius=85))
    for value in values:
        before = throttle.reasons
        throttle.update(Reading(celsius=value))
        if 80 < value <= 85:
            assert throttle.reasons == before
        else:
            assert throttle.reasons == ({"heat"} if value > 85 else set())


def test_a_machine_without_sensors_is_told_so_once(caplog: pytest.LogCaptureFixture) -> None:
    turns, enough = [], threading.Event()

    def sense() -> Reading:
        turns.append(1)
        if len(turns) > 5:
            enough.set()
        return Reading()

    one = Threads()
    with caplog.at_level(logging.WARNING, "foreshore"):
        governor = Governor(LIMITS, sense, lambda: [one], every_s=0.001)
        governor.start()
        assert enough.wait(30)
        governor.stop()
    assert [r.getMessage() for r in caplog.records] == [
        "runtime.throttle: this machine does not tell its battery or temperature"
    ]
    assert one.threads is None


def test_stopping_gives_the_threads_back() -> None:
    one, told = Threads(), threading.Event()

    def sense() -> Reading:
        if one.threads is not None:
            told.set()
        return Reading(celsius=99)

    governor = Governor(LIMITS, sense, lambda: [one], every_s=0.001)
    governor.start()
    assert told.wait(30)
    assert one.threads == 4
    governor.stop()
    assert one.threads is None


def test_this_machines_sensors_can_be_read() -> None:
    sensors = Sensors()
    first, second = sensors(), sensors()
    assert first.busy_percent is None
    assert second.busy_percent is None or 0 <= second.busy_percent <= 100
    assert second.battery_percent is None or 0 <= second.battery_percent <= 100


def test_a_worker_changes_its_threads_while_it_streams(tiny: Path) -> None:
    heat = {"celsius": 20.0}

    async def scenario() -> None:
        pool = Pool()
        backend = LocalBackend(tiny, options=EngineOptions(threads=2), pool=pool)
        governor = Governor(LIMITS, lambda: Reading(celsius=heat["celsius"]), pool.tenants, every_s=0.005)
        governor.start()
        try:
            whole = [chunk async for chunk in backend.stream(ask(900))]
            async with aclosing(backend.stream(ask(900))) as stream:  # type: ignore[type-var]
                got = [await anext(stream)]
                assert backend.load().threads == 2
                heat["celsius"] = 95.0
                await until(lambda: backend.load().threads == 1, "the worker computes with one thread")
                got += [chunk async for chunk in stream]
            assert sum(len(c.text) for c in got) > 0
            assert whole[-1].usage == got[-1].usage
            heat["celsius"] = 20.0
            await until(lambda: backend.load().threads == 2, "the worker computes with both again")
        finally:
            await asyncio.to_thread(governor.stop)
            await backend.close()

    asyncio.run(scenario())
