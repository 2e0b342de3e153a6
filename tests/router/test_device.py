"""The device sampler: what it says of this machine and of those that misbehave; one flake changes nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from foreshore.config import parse_config
from foreshore.router.device import DeviceSampler, cloud_hosts, connected
from foreshore.router.facts import DeviceFacts

PATIENCE_S = 30.0
HERE = DeviceFacts(memory_free_bytes=1)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def sampler(*facts: DeviceFacts, online: list[bool] | None = None) -> DeviceSampler:
    """One that sees these, one a turn."""
    samples, reached = iter(facts), iter(online or [True] * len(facts))
    return DeviceSampler(sample=lambda: next(samples), reachable=lambda: next(reached))


def test_before_the_first_sample_the_machine_is_taken_to_be_well() -> None:
    assert DeviceSampler().now == DeviceFacts()


def test_this_machine_is_sampled_in_the_background_until_it_is_stopped() -> None:
    sampled = threading.Event()
    found = DeviceSampler(0.05, reachable=lambda: sampled.set() or True)  # type: ignore[func-returns-value]
    found.start()
    found.start()
    try:
        assert sampled.wait(PATIENCE_S)
        found.turn()
        assert found.now.memory_free_bytes > 0
        assert 0 < found.now.memory_percent <= 100
        assert 0 <= found.now.battery_percent <= 100
        assert found.now.online
    finally:
        found.stop()
        found.stop()
    assert "foreshore-device" not in {thread.name for thread in threading.enumerate()}


def test_one_sample_that_says_otherwise_changes_nothing() -> None:
    found = sampler(*[HERE] * 6, online=[True, False, True, False, False, True])
    sure = []
    for _ in range(4):
        sure.append(found.turn())
        assert found.now.online
    assert sure == [True, False, True, False]  # what is doubtful is looked at again soon
    assert found.turn()
    assert not found.now.online
    found.turn()
    assert not found.now.online


def test_the_first_sample_counts_at_once() -> None:
    found = sampler(DeviceFacts(on_battery=True, battery_percent=40.0), online=[False])
    found.turn()
    assert (found.now.on_battery, found.now.battery_percent, found.now.online) == (True, 40.0, False)


def test_a_moment_of_load_or_heat_is_no_state() -> None:
    calm, peak = DeviceFacts(celsius=50.0, cpu_percent=5.0), DeviceFacts(celsius=99.0, cpu_percent=100.0)
    found = sampler(calm, calm, peak, calm, peak, peak)
    for _ in range(4):
        found.turn()
        assert (found.now.celsius, found.now.cpu_percent) == (50.0, 5.0)
    found.turn()
    found.turn()
    assert (found.now.celsius, found.now.cpu_percent) == (99.0, 100.0)


def test_what_cannot_be_read_keeps_its_last_value_and_the_rest_goes_on() -> None:
    broken = [False]

    def sample() -> DeviceFacts:
        if broken[0]:
            raise OSError("no such sensor")
        return DeviceFacts(battery_percent=7.0)

    found = DeviceSampler(sample=sample, reachable=lambda: not broken[0])
    found.turn()
    broken[0] = True
    found.turn()
    found.turn()
    assert found.now.battery_percent == 7.0
    assert not found.now.online


def test_a_host_is_reached_or_it_is_not(listener: socket.socket) -> None:
    open_port: tuple[str, int] = listener.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as other:
        closed_port = other.getsockname()
    assert connected([open_port])
    assert connected([closed_port, open_port])
    assert not connected([closed_port])
    assert not connected([("", 1), ("x" * 70, 1)])


def test_the_hosts_are_those_of_the_cloud_targets() -> None:
    text = """
targets:
  edge: {kind: local, model: tiny}
  a: {kind: openai, model: m, base_url: "http://127.0.0.1:9/v1"}
  b: {kind: openai, model: n, base_url: "http://127.0.0.1:9/v2"}
  c: {kind: anthropic, model: o, key_env: KEY}
"""
    assert cloud_hosts(parse_config(text)) == (("127.0.0.1", 9), ("api.anthropic.com", 443))
    assert cloud_hosts(parse_config(text + "device: {probe: false}")) == ()
