"""What a deadline, a stop signal, garbage on the socket and poison do to a worker, and to those beside it."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from foreshore.backend import collect
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.edge.loader import load
from foreshore.edge.pool import Pool
from foreshore.edge.protocol import Ping, encode
from foreshore.errors import BadRequest, DeadlineExceeded, WorkerDied
from foreshore.types import Chunk, Request, Sampling
from tests.edge.test_edge_worker import PATIENCE_S, ask, open_backend, run, signalled, until
from tests.tiny_model import write_decoder, write_recurrent


def reading(tokens: int, **fields: Any) -> Request:
    """A prompt that takes one step to read."""
    return Request(
        task="completion",
        prompt=tuple(i % 250 for i in range(tokens)),
        sampling=Sampling(max_tokens=1, temperature=0),
        **fields,
    )


def test_a_deadline_ends_a_step_that_is_being_computed(tmp_path: Path) -> None:
    slow = write_decoder(tmp_path / "slow.gguf", width=512, layers=8, context=4096)

    async def scenario() -> None:
        async with open_backend(slow, batch_tokens=2048, slots=2, prefix_cache=False) as backend:
            whole = (await collect(backend, reading(2000))).timings
            assert whole is not None
            begun = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await collect(backend, reading(2001, deadline=begun + whole.prefill_s / 8))
            took = time.monotonic() - begun
            assert took < whole.prefill_s, "the step was computed to its end"
            assert (await collect(backend, ask(5))).finish_reason == "length"

    run(scenario())


def test_peers_of_an_aborted_step_lose_nothing(tmp_path: Path) -> None:
    slow = write_decoder(tmp_path / "slow.gguf", width=512, layers=4, context=4096)

    async def scenario() -> None:
        async with open_backend(slow, batch_tokens=2048, slots=2, prefix_cache=False) as backend:
            async with aclosing(backend.stream(ask(40))) as stream:  # type: ignore[type-var]
                received = [await anext(stream)]
                with pytest.raises(DeadlineExceeded):
                    await collect(backend, reading(2000, deadline=time.monotonic() + 0.1))
                received += [chunk async for chunk in stream]
            assert received[-1].usage is not None
            assert received[-1].usage.completion_tokens == 40

    run(scenario())


@pytest.mark.parametrize("make", [write_decoder, write_recurrent])
def test_steps_that_were_ended_change_no_answer(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / "model.gguf")
    requests = [replace(ask(24), id="long", prompt="the cat sat on the mat " * 12), replace(ask(40), id="short")]
    undisturbed = stepped(path, requests, ended=())
    assert stepped(path, requests, ended=(0, 2, 3, 9, 20)) == undisturbed, "prompts, and answers between tokens"


def stepped(path: Path, requests: list[Request], *, ended: Collection[int]) -> dict[str, str]:
    """Their answers from a worker's parts, the steps with these numbers ended as they begin."""
    loaded = load(path, EngineOptions(threads=1, batch_tokens=32, slots=2))
    for request in requests:
        prepared = loaded.prepare(request, 0.0)
        assert not isinstance(prepared, Chunk)
        loaded.steps.submit(prepared)
    texts: dict[str, str] = dict.fromkeys((request.id for request in requests), "")
    for number in itertools.count():
        if loaded.steps.idle:
            break
        if number in ended:
            loaded.steps.abort()
        for name, chunk in loaded.steps.step():
            assert isinstance(chunk, Chunk)
            texts[name] += chunk.text
    loaded.steps.close()
    return texts


@pytest.mark.parametrize("when", ["idle", "streaming"])
def test_a_stopped_worker_is_replaced(tiny: Path, when: str) -> None:
    async def scenario() -> None:
        async with open_backend(tiny, heartbeat_s=0.5) as backend:
            first = backend.pid
            assert first is not None
            if when == "streaming":
                with pytest.raises(WorkerDied, match="stopped answering"):
                    await signalled(backend, ask(900), signal.SIGSTOP)
            else:
                os.kill(first, signal.SIGSTOP)
            await until(lambda: backend.pid not in (None, first) and str(backend.state) == "ready", "another is ready")
            assert not psutil.pid_exists(first)
            assert (await collect(backend, ask())).finish_reason == "length"
            assert backend.restarts == 1

    run(scenario())


def test_the_default_heartbeat_finds_a_stopped_worker_in_under_five_seconds() -> None:
    assert EngineOptions().heartbeat_s < 5


def test_poison_for_one_model_is_served_by_another_and_a_pardon_is_possible(tiny: Path, tmp_path: Path) -> None:
    other = write_decoder(tmp_path / "other.gguf", seed=5)

    async def scenario() -> None:
        pool = Pool()
        first, second = (LocalBackend(path, options=EngineOptions(threads=1), pool=pool) for path in (tiny, other))
        try:
            for _ in range(2):
                await first.start()
                with pytest.raises(WorkerDied, match="SIGSEGV"):
                    await signalled(first, ask(901), signal.SIGSEGV)
            with pytest.raises(BadRequest, match="2 times"):
                await collect(first, ask(901))
            assert (await collect(first, ask(900))).finish_reason == "length", "it only looks alike"
            assert (await collect(second, ask(901))).finish_reason == "length"
            await asyncio.to_thread(pool.vacate, first._seat.place)
            with pytest.raises(BadRequest, match="2 times"):  # unloading does not forgive
                await collect(first, ask(901))
            assert first.quarantine is not None
            first.quarantine.clear()
            assert (await collect(first, ask(901))).finish_reason == "length"
        finally:
            await first.close()
            await second.close()

    run(scenario())


def test_a_request_whose_worker_ends_by_an_error_is_blamed(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with open_backend(tiny) as backend:
            for _ in range(2):
                await backend.start()
                async with aclosing(backend.stream(ask(902))) as stream:  # type: ignore[type-var]
                    await anext(stream)
                    supervisor = backend._seat.supervisor
                    assert supervisor is not None
                    assert supervisor._child is not None
                    supervisor._child.socket.sendall(b"\xff\xff\xff\xff")  # its reader raises, and it exits with 1
                    with pytest.raises(WorkerDied, match="exit status 1"):
                        async for _ in stream:
                            pass
            with pytest.raises(BadRequest, match="2 times"):
                await collect(backend, ask(902))
            assert [r.message.partition("; ")[2] for r in caplog.records] == [
                "requests in quarantine: 0",
                "requests in quarantine: 1",
            ]
            assert all("(exit status 1)" in r.message for r in caplog.records)
            assert (await collect(backend, ask(7))).finish_reason == "length"

    run(scenario())


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", b"\0\0\0\x02[]"])
def test_a_worker_that_hears_garbage_ends_by_itself(garbage: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "foreshore.edge.worker", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        ours.sendall(garbage)
        if garbage.startswith(b"GET"):
            ours.shutdown(socket.SHUT_WR)  # its first four bytes announce a long message
        assert worker.wait(PATIENCE_S) is not None


def test_garbage_from_a_worker_ends_it_and_not_us(tiny: Path) -> None:
    async def scenario() -> None:
        async with open_backend(tiny) as backend:
            supervisor = backend._seat.supervisor
            assert supervisor is not None
            first = backend.pid
            child = supervisor._child
            assert child is not None
            child._buffer += encode(Ping(number=1))  # a worker has no business to send this
            with pytest.raises(WorkerDied):
                await collect(backend, ask(500))
            await until(lambda: backend.pid not in (None, first) and str(backend.state) == "ready", "another is ready")
            assert (await collect(backend, ask())).finish_reason == "length"

    run(scenario())


def test_no_worker_of_several_outlives_a_parent_that_is_killed(tiny: Path, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, sys\n"
        "from foreshore.edge import LocalBackend\n"
        "async def main():\n"
        "    backends = [LocalBackend(sys.argv[1], name=str(i)) for i in range(2)]\n"
        "    await asyncio.gather(*(b.start() for b in backends))\n"
        "    print(*(b.pid for b in backends), flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )

    async def scenario() -> None:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, str(script), str(tiny), stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in (await parent.stdout.readline()).split()]
        assert len(workers) == 2
        os.kill(workers[0].pid, signal.SIGSTOP)  # even one that cannot run: it ends when it is woken
        parent.kill()
        await parent.wait()
        workers[0].send_signal(signal.SIGCONT)
        await until(lambda: not any(_lives(w) for w in workers), "the workers have ended")

    run(scenario())


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
