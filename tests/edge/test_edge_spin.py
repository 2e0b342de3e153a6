"""How threads wait at barriers: the rule, what GNU OpenMP makes of it, and a worker beside busy neighbours."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.backend import collect
from foreshore.edge import LocalBackend
from foreshore.edge.spin import BLEND_S, CROWDED, FREE, MAX_PATIENCE_S, PATIENCE_S, Spin
from tests.edge.test_edge_worker import ask, open_backend, until

TICK_S = 0.05
linux = pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="the system does not tell of waits")


def run_for(spin: Spin, seconds: float, share: float) -> None:
    for _ in range(round(seconds / TICK_S)):
        spin.observe(share * TICK_S, TICK_S)


def seconds_until(spin: Spin, long: bool, share: float) -> float:
    ticks = 0
    while spin.long != long:
        spin.observe(share * TICK_S, TICK_S)
        ticks += 1
        assert ticks < 10_000
    return ticks * TICK_S


@settings(deadline=None)
@given(st.lists(st.floats(0, CROWDED), max_size=200))
def test_own_clients_change_nothing(shares: list[float]) -> None:
    spin = Spin()
    for share in shares:
        spin.observe(share * TICK_S, TICK_S)
        assert spin.long


@settings(deadline=None)
@given(st.floats(0, 0.2), st.floats(0.8, 3))
def test_a_busy_neighbour_is_noticed_within_a_fifth_of_a_second(before: float, share: float) -> None:
    spin = Spin()
    run_for(spin, 3, before)
    run_for(spin, 0.2, share)
    assert not spin.long


@settings(deadline=None)
@given(st.floats(0, 0.2))
def test_one_moment_without_a_processor_is_no_neighbour(share: float) -> None:
    spin = Spin()
    run_for(spin, 1, share)
    spin.observe(10.0, TICK_S)  # a thread that had waited for long, and says so now
    run_for(spin, 1, share)
    assert spin.long


@settings(deadline=None)
@given(st.floats(FREE, 3))
def test_beside_a_neighbour_it_stays_short(share: float) -> None:
    spin = Spin()
    run_for(spin, 1, 3)
    run_for(spin, 60, share)
    assert not spin.long


def test_each_trial_that_fails_doubles_the_patience_and_one_that_holds_ends_that() -> None:
    spin, waits = Spin(), []
    for _ in range(8):
        seconds_until(spin, False, share=1)
        waits.append(seconds_until(spin, True, share=0))
    expected = [min(MAX_PATIENCE_S, PATIENCE_S * 2**i) for i in range(8)]
    assert waits == pytest.approx(expected, abs=2 * TICK_S)
    run_for(spin, 10, 0.1)
    seconds_until(spin, False, share=1)
    assert seconds_until(spin, True, share=0) == pytest.approx(PATIENCE_S, abs=2 * TICK_S)


def test_a_pause_is_time_without_a_neighbour() -> None:
    spin = Spin()
    run_for(spin, 1, 1)
    assert not spin.long
    spin.observe(0.0, 3600.0)
    assert spin.long


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0.001, 10)), max_size=300))
def test_it_never_flickers(observed: list[tuple[float, float]]) -> None:
    spin, now, changes = Spin(), 0.0, []
    for waited, elapsed in observed:
        before = spin.long
        spin.observe(waited * elapsed, elapsed)
        now += elapsed
        if spin.long != before:
            changes.append((now, spin.long))
    assert all(b - a >= PATIENCE_S * 0.99 for (a, _), (b, long) in pairwise(changes) if long)
    assert all(b - a > 0 for (a, _), (b, _) in pairwise(changes))
    assert BLEND_S > TICK_S


COUNTING = """
import ctypes, json, os, sys, time
from foreshore.edge.spin_crowd import Crowd
library = ctypes.CDLL("libgomp.so.1")
nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)
tasks = lambda: set(os.listdir("/proc/self/task"))
alone = tasks()
library.GOMP_parallel(nothing, None, 2, 0)
(worker,) = tasks() - alone

def state():
    return open(f"/proc/self/task/{worker}/stat").read().rsplit(") ", 1)[1][0]

def settle(done):
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)

found = {"before": state()}
crowd = Crowd(library)
for _ in range(2):
    crowd.gather(2)
    found["more"] = len(tasks()) - len(alone) - 1
    library.GOMP_parallel(nothing, None, 2, 0)
    settle(lambda: state() == "S")
crowd.disperse()
settle(lambda: len(tasks()) == len(alone) + 1)
library.GOMP_parallel(nothing, None, 2, 0)
print(json.dumps(found | {"after": state(), "processors": library.omp_get_num_procs()}), flush=True)
os._exit(0)
"""


def in_process(code: str, **environment: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@linux
@pytest.mark.skipif(psutil.cpu_count() == 1, reason="one processor is always crowded")
def test_a_crowd_makes_waiting_threads_sleep_and_its_end_makes_them_spin() -> None:
    """With a spin that never ends, a thread that waits runs (R) until there is a crowd; then it sleeps (S)."""
    found = json.loads(in_process(COUNTING, OMP_WAIT_POLICY="active"))
    assert found["before"] == "R"
    assert found["after"] == "R"
    assert found["more"] == max(2, found["processors"])  # its keeper, and a pool of one less beside it


PREPARING = """
import json, os
from foreshore.edge.spin_watch import prepare_spin
changes = prepare_spin()
print(json.dumps([changes, os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY")]))
"""


@linux
def test_what_the_user_has_set_stays() -> None:
    assert json.loads(in_process(PREPARING)) == [True, "20000", "active"]
    assert json.loads(in_process(PREPARING, GOMP_SPINCOUNT="7")) == [False, "7", None]
    assert json.loads(in_process(PREPARING, OMP_WAIT_POLICY="passive")) == [False, None, "passive"]


NOT_GNU = """
import ctypes, os
from foreshore.edge.spin_watch import prepare_spin, watch_spin
assert prepare_spin()
print([watch_spin(library) for library in (ctypes.CDLL(None), None)], os.environ.get("OMP_WAIT_POLICY"))
"""


@linux
def test_where_no_gnu_openmp_computes_there_is_nothing_to_watch() -> None:
    assert in_process(NOT_GNU).split("\n")[0] == "[None, None] None"


@contextmanager
def neighbours(processor: int, count: int = 3) -> Iterator[None]:
    """Programs that are always busy, on one processor."""
    busy = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile os.getppid() != 1: pass"
    command = [sys.executable, "-c", busy, str(processor)]
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def threads_of(backend: LocalBackend) -> psutil.Process:
    """The worker, once all threads are there that it has in any case."""
    for _ in range(4):
        await asyncio.gather(*(collect(backend, ask(2)) for _ in range(4)))
    return psutil.Process(backend.pid)


@linux
def test_a_worker_beside_busy_neighbours_gathers_a_crowd(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def plain() -> int:
        async with open_backend(tiny, threads=2) as backend:
            return (await threads_of(backend)).num_threads()

    async def crowded(threads: int) -> None:
        async with open_backend(tiny, threads=2) as backend:
            worker = await threads_of(backend)
            processor = max(os.sched_getaffinity(worker.pid))
            os.sched_setaffinity(worker.pid, {processor})  # of its main thread, which computes

            async def work() -> None:
                while True:
                    await asyncio.gather(*(collect(backend, ask(500)) for _ in range(4)))

            with neighbours(processor):
                working = asyncio.create_task(work())
                await until(lambda: worker.num_threads() >= threads + 2, "there is a crowd")
                working.cancel()
                await asyncio.wait([working])

    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    threads = asyncio.run(plain())
    monkeypatch.delenv("GOMP_SPINCOUNT")
    asyncio.run(crowded(threads))
