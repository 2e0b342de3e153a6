"""Child processes: what they answer, how they fail, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from foreshore import errors
from foreshore.errors import ForeshoreError, SetupError
from foreshore.quantize.child import Child, run
from tests.quantize.processes import alive, until

ROOT = str(Path(__file__).resolve().parents[2])
MODULE = "tests.quantize.echo_child"


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with Child(MODULE, doing="echoed", environment={"PYTHONPATH": ROOT, "GREETING": "hello"}) as found:
        yield found


def fail(**job: object) -> SetupError:
    with pytest.raises(SetupError) as caught:
        run(MODULE, job, doing="failed", environment={"PYTHONPATH": ROOT})
    return caught.value


def test_requests_are_answered_in_turn_whatever_else_is_printed(child: Child) -> None:
    seen: list[tuple[int, int]] = []
    first = child.ask({"do": "echo", "text": "eins", "steps": 3}, lambda done, total: seen.append((done, total)))
    assert first == {"text": "eins", "size": 4, "environment": "hello"}
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert child.ask({"do": "echo", "text": "zwei \n\u2028 é"})["text"] == "zwei \n\u2028 é"


def test_a_request_may_be_longer_than_a_pipe(child: Child) -> None:
    assert child.ask({"do": "echo", "text": "x" * 5_000_000})["size"] == 5_000_000


@pytest.mark.parametrize("kind", ["ModelError", "NotFound", "SetupError", "UsageError"])
def test_an_error_of_ours_arrives_as_it_was_raised(child: Child, kind: str) -> None:
    with pytest.raises(ForeshoreError) as caught:
        child.ask({"do": "raise", "kind": kind})
    assert type(caught.value) is getattr(errors, kind)
    assert (caught.value.message, caught.value.hint) == ("it went wrong", "mend it")
    assert child.ask({"do": "echo", "text": "still there"})["size"] == 11


def test_other_errors_arrive_as_the_nearest(child: Child) -> None:
    with pytest.raises(errors.UsageError) as caught:
        child.ask({"do": "raise", "kind": "BadRequest"})
    assert type(caught.value) is errors.UsageError
    with pytest.raises(OSError, match="No space left") as full:
        child.ask({"do": "full"})
    assert full.value.errno == 28
    with pytest.raises(SetupError, match="no memory was left"):
        child.ask({"do": "greedy"})


def test_a_crash_is_told_with_the_last_words() -> None:
    crashed = fail(do="kill", signal=signal.SIGABRT)
    assert crashed.message == "the process that failed crashed (signal 6)"
    assert "the last words" in str(crashed.hint)
    assert "foreshore doctor" in str(crashed.hint)
    assert fail(do="kill", signal=signal.SIGKILL).message == "the process that failed was killed"
    assert fail(do="stop", code=3).message == "the process that failed crashed (exit code 3)"
    unknown = fail(do="sing")
    assert "exit code 1" in unknown.message
    assert "ValueError: nobody knows how to sing" in str(unknown.hint)


def test_a_module_that_is_not_there_is_told() -> None:
    with pytest.raises(SetupError) as caught:
        run("foreshore.quantize.no_such_child", {}, doing="was nowhere")
    assert "no_such_child" in str(caught.value.hint)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_who_gives_up_ends_it(error: type[BaseException]) -> None:
    pids = []

    def give_up(done: int, total: int) -> None:
        pids.append(done)
        raise error

    with pytest.raises(error):
        run(MODULE, {"do": "hang"}, doing="hung", environment={"PYTHONPATH": ROOT}, progress=give_up)
    assert not psutil.pid_exists(pids[0])


SCRIPT = f"""
from foreshore.quantize.child import run
run({MODULE!r}, {{"do": "hang"}}, doing="hung", progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_parent(blow: int) -> None:
    command = [sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "PYTHONPATH": ROOT}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert os.getsid(pid) == pid, "Ctrl-C in the terminal is the parent's to handle"
        parent.send_signal(blow)
        parent.wait(timeout=30)
    until(lambda: not alive(pid))


def test_it_may_be_closed_twice() -> None:
    child = Child(MODULE, doing="echoed", environment={"PYTHONPATH": ROOT})
    child.close()
    child.close()


@pytest.mark.parametrize("module", ["foreshore.quantize.native_child", "foreshore.edge.worker"])
def test_it_does_not_begin_with_what_it_never_uses(module: str) -> None:
    """A worker of either starts anew often: the runtime's and the gateway's own modules double what that takes."""
    code = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"foreshore.edge.backend", "prometheus_client", "asyncio"} & set(loaded.split())
    if module.endswith("native_child"):
        assert not {"numpy", "jinja2"} & set(loaded.split())
