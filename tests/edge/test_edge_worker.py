"""What the local runtime does when its worker, its clients or their requests misbehave."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from foreshore.backend import collect
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.edge.supervisor import Supervisor
from foreshore.errors import BadRequest, DeadlineExceeded, ModelError, Overloaded, Unavailable, WorkerDied
from foreshore.types import Chunk, Request, Sampling
from tests.store.gguf_files import gguf, write

PATIENCE_S = 60.0


def ask(max_tokens: int = 8, **fields: Any) -> Request:
    """A completion that runs for exactly `max_tokens`."""
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, **fields.pop("sampling", {}))
    return Request(task="completion", prompt="hello", sampling=sampling, extra={"ignore_eos": True}, **fields)


def chunks(backend: LocalBackend, request: Request) -> Any:
    return aclosing(backend.stream(request))


@asynccontextmanager
async def open_backend(path: Path, **options: Any) -> AsyncIterator[LocalBackend]:
    backend = LocalBackend(path, options=EngineOptions(**{"threads": 1, **options}))
    try:
        await backend.start()
        yield backend
    finally:
        await backend.close()


async def signalled(backend: LocalBackend, request: Request, number: signal.Signals) -> None:
    """Read the answer to `request`, and send the worker a signal at its first chunk."""
    worker = backend.pid
    assert worker is not None
    async with chunks(backend, request) as stream:
        await anext(stream)
        os.kill(worker, number)
        async for _ in stream:
            pass


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        await asyncio.sleep(0.005)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGILL])
def test_a_worker_that_dies_ends_open_streams_and_the_next_request_works(tiny: Path, number: signal.Signals) -> None:
    async def scenario() -> None:
        async with open_backend(tiny) as backend:
            first = backend.pid
            assert first is not None
            with pytest.raises(WorkerDied, match=number.name) as caught:
                await signalled(backend, ask(900), number)
            assert caught.value.target == "edge"
            assert caught.value.hint
            assert (await collect(backend, ask())).finish_reason == "length"
            assert backend.pid != first

    run(scenario())


def test_a_frozen_worker_is_replaced(tiny: Path) -> None:
    async def scenario() -> None:
        async with open_backend(tiny, heartbeat_s=0.4) as backend:
            first = backend.pid
            assert first is not None
            with pytest.raises(WorkerDied, match="stopped answering"):
                await signalled(backend, ask(900), signal.SIGSTOP)
            assert (await collect(backend, ask())).finish_reason == "length"
            assert not psutil.pid_exists(first)

    run(scenario())


def test_a_worker_that_hangs_in_native_code_is_replaced_and_the_request_refused(tiny: Path) -> None:
    # Each rule triples the ways to go on: llama.cpp would follow 3 ** 16 of them before the first token.
    rules = [f"{a} ::= {b}? {b}? {b}?" for a, b in itertools.pairwise("abcdefghijklmnopq")]
    endless = "\n".join(["root ::= a", *rules, "q ::= [a-z]"])

    async def scenario() -> None:
        async with open_backend(tiny, heartbeat_s=2.0, step_limit_s=3.0) as backend:
            for _ in range(2):
                with pytest.raises(WorkerDied, match="did not come back"):
                    await collect(backend, ask(sampling={"grammar": endless}))
                await backend.start()
            with pytest.raises(BadRequest, match="2 times"):
                await collect(backend, ask(sampling={"grammar": endless}))
            assert (await collect(backend, ask())).finish_reason == "length"

    run(scenario())


def test_a_request_that_crashed_two_workers_is_not_run_again(tiny: Path) -> None:
    async def scenario() -> None:
        async with open_backend(tiny) as backend:
            for _ in range(2):
                with pytest.raises(WorkerDied, match="SIGSEGV"):
                    await signalled(backend, ask(901), signal.SIGSEGV)
                await backend.start()
            with pytest.raises(BadRequest, match="2 times"):
                await collect(backend, ask(901))
            assert (await collect(backend, ask(7))).finish_reason == "length"

    run(scenario())


def test_work_stops_when_the_client_leaves(tiny: Path) -> None:
    async def scenario() -> None:
        async with open_backend(tiny) as backend:
            async with chunks(backend, ask(1000)) as stream:
                async for _ in stream:
                    break
            await until(lambda: backend.load().running == 0, "the worker says that it is idle")
            steps = backend.load().steps
            assert steps < 900, "the abandoned answer ran on"

    run(scenario())


def test_fifty_requests_share_eight_slots_and_each_gets_its_own_answer(tiny: Path) -> None:
    async def scenario() -> None:
        async with open_backend(tiny) as backend:
            lengths = [1 + i % 13 for i in range(50)]
            answers = await asyncio.gather(*(collect(backend, ask(n)) for n in lengths))
            alone = (await collect(backend, ask(13))).text
            for n, answer in zip(lengths, answers, strict=True):
                assert answer.usage is not None
                assert answer.usage.completion_tokens == n
                assert answer.timings is not None
                assert answer.timings.ttft_s >= answer.timings.queue_s >= 0
                assert alone.startswith(answer.text.rstrip("�"))
            assert backend.load().running == 0

    run(scenario())


def test_a_full_queue_refuses_with_a_time_to_come_back(tiny: Path) -> None:
    async def scenario() -> None:
        async with open_backend(tiny, slots=1, queue_limit=1) as backend:
            results = await asyncio.gather(*(collect(backend, ask(300)) for _ in range(6)), return_exceptions=True)
            refused = [r for r in results if isinstance(r, Overloaded)]
            assert refused
            assert all(r.retry_after is not None and r.retry_after >= 1 for r in refused)
            assert len(refused) + sum(not isinstance(r, BaseException) for r in results) == 6

    run(scenario())


def test_a_deadline_ends_waiting_and_running_requests(tiny: Path) -> None:
    async def scenario() -> None:
        async with open_backend(tiny, slots=1) as backend:
            with pytest.raises(DeadlineExceeded):
                await collect(backend, ask(1000, deadline=time.monotonic() + 0.05))
            with pytest.raises(DeadlineExceeded):
                await collect(backend, ask(5, deadline=time.monotonic() - 1))
            assert (await collect(backend, ask(5))).finish_reason == "length"

    run(scenario())


def test_closing_ends_open_streams_with_an_error_and_the_process(tiny: Path) -> None:
    async def scenario() -> None:
        async with open_backend(tiny) as backend:
            process = psutil.Process(backend.pid)
            stream = backend.stream(ask(1000))
            await anext(stream)
            await backend.close()
            with pytest.raises(Unavailable, match="closed"):
                async for _ in stream:
                    pass
            assert not process.is_running()
            with pytest.raises(Unavailable):
                await collect(backend, ask())

    run(scenario())


def test_one_backend_serves_several_event_loops(tiny: Path) -> None:
    backend = LocalBackend(tiny, options=EngineOptions(threads=1))
    first = asyncio.run(collect(backend, ask()))
    second = asyncio.run(collect(backend, ask()))
    assert first.text == second.text
    asyncio.run(backend.close())


def test_starting_is_shared(tiny: Path) -> None:
    async def scenario() -> None:
        backend = LocalBackend(tiny, options=EngineOptions(threads=1))
        infos = await asyncio.gather(*(backend.start() for _ in range(5)))
        assert len(set(infos)) == 1
        states = [str(backend.state)]
        await backend.close()
        assert [*states, backend.state] == ["ready", "closed"]

    run(scenario())


def test_a_fork_gets_a_worker_of_its_own(tiny: Path) -> None:
    backend = LocalBackend(tiny, options=EngineOptions(threads=1))
    before = asyncio.run(collect(backend, ask()))
    child = os.fork()
    if child == 0:  # pragma: no cover - the other process
        answered = False
        try:
            answered = asyncio.run(collect(backend, ask())).text == before.text
            asyncio.run(backend.close())
        finally:
            os._exit(0 if answered else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert asyncio.run(collect(backend, ask())).text == before.text
    asyncio.run(backend.close())


def test_a_slow_consumer_gets_larger_chunks_not_a_longer_queue(tiny: Path) -> None:
    async def scenario() -> None:
        async with open_backend(tiny) as backend:
            whole = await collect(backend, ask(600))
            stream = backend.stream(ask(600))
            received: list[Chunk] = [await anext(stream)]
            await until(lambda: backend.load().running == 0, "the answer is complete")
            received += [chunk async for chunk in stream]
            assert "".join(c.text for c in received) == whole.text
            assert len(received) < 100

    run(scenario())


def test_a_broken_model_file_is_refused_before_the_native_loader_sees_it(tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny.read_bytes()[:5000])

    async def scenario() -> None:
        backend = LocalBackend(broken)
        with pytest.raises(ModelError, match=r"broken\.gguf"):
            await backend.start()
        await backend.close()

    run(scenario())


def test_a_module_in_the_working_directory_is_not_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jinja2.py").write_text("raise SystemExit('an app may have a file of this name')\n")
    monkeypatch.chdir(tmp_path)

    async def scenario() -> None:
        async with open_backend(tiny) as backend:
            assert (await collect(backend, ask())).finish_reason == "length"

    run(scenario())


def test_a_retry_at_the_moment_of_failure_starts_one_worker_more_not_two(tmp_path: Path) -> None:
    path = write(tmp_path / "hollow.gguf", gguf())  # a sound header, but no model behind it
    supervisor = Supervisor(path, EngineOptions(threads=1), target="edge")
    first, second = supervisor.ready(), Future[Any]()
    first.add_done_callback(lambda _: supervisor.ready().add_done_callback(second.set_result))
    assert isinstance(second.result(PATIENCE_S).exception(), ModelError)
    asyncio.run(until(lambda: not _supervisors(), "the supervisor's threads have ended"))
    supervisor.close()


def test_no_worker_outlives_its_parent(tiny: Path, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\n"
        "from foreshore.edge import Runtime\n"
        "if __name__ == '__main__':\n"
        "    runtime = Runtime(sys.argv[1])\n"
        "    runtime.start()\n"
        "    print(runtime.backend.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )

    async def scenario() -> None:
        import sys

        parent = await asyncio.create_subprocess_exec(
            sys.executable, str(script), str(tiny), stdout=asyncio.subprocess.PIPE
        )
        assert parent.stdout is not None
        worker = psutil.Process(int(await parent.stdout.readline()))
        parent.kill()
        await parent.wait()
        await until(lambda: not _lives(worker), "the worker has ended")

    run(scenario())


def _supervisors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "foreshore-supervisor"]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
