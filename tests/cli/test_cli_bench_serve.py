"""`foreshore bench serve`: what it measures, of whom, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from foreshore.cli import app
from foreshore.cli.arrivals import closed_loop, open_loop
from foreshore.cli.figures import Figures, percentile
from foreshore.cli.shot import Shot
from foreshore.errors import Overloaded
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, Request, Timings, Usage
from tests.router.serving import config_of, serving

PATIENCE_S = 60.0
ANSWER = [
    *(Chunk(text=letter) for letter in "abcd"),
    Chunk(
        finish_reason="length",
        usage=Usage(prompt_tokens=64, completion_tokens=8),
        timings=Timings(queue_s=0.25, prefill_s=0.1, prefill_tokens=64, ttft_s=0.35, decode_s=1.0, decode_tokens=8),
    ),
]


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", "serve", *arguments])


class EveryOther(FakeBackend):
    """Answers the first request, is full at the second, and so on."""

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        if len(self.requests) % 2:
            self.requests.append(request)
            raise Overloaded("full", target=self.name, retry_after=9.0)
        async for chunk in super().stream(request):
            yield chunk


@contextmanager
def fake_server(tmp_path: Path, backend: FakeBackend | None = None) -> Iterator[tuple[str, FakeBackend]]:
    """A real gateway over one target, and the target."""
    backend = backend or FakeBackend(ANSWER, name="edge")
    config = config_of("targets: {edge: {kind: local, model: tiny}}\nlimits: {attempts: 1}", tmp_path / "ledger")
    with serving(config, {"edge": backend}) as served:
        yield served.url, backend


@contextmanager
def canned(reply: bytes) -> Iterator[str]:
    """A server that answers every request with the same bytes and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                seen = b""
                while b'"temperature"' not in seen and (more := connection.recv(65536)):
                    seen += more
                connection.sendall(reply)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield url
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_it_measures_a_model_over_a_gateway_of_its_own(tiny: Path) -> None:
    arguments = ["--streams", "1,2", "--requests", "3", "--repeats", "2", "--tokens", "8", "--prompt-tokens", "40"]
    before = set(psutil.Process().children(recursive=True))
    result = bench(str(tiny), *arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["kind"] == "serve"
    assert found["machine"]["cpu"]
    assert [level["streams"] for level in found["levels"]] == [1, 2]
    for level in found["levels"]:
        assert level["requests"] == level["answered"] == 6
        assert level["errors"] == {}
        assert 36 <= level["prompt_tokens"] <= 44
        for measured in (level["tokens_per_s"], *level["ttft_ms"].values(), *level["queue_ms"].values()):
            assert len(measured["runs"]) == 2
            assert 0 <= measured["low"] <= measured["median"] <= measured["high"]
        assert level["ttft_ms"]["p50"]["median"] <= level["ttft_ms"]["p99"]["median"]
    assert set(psutil.Process().children(recursive=True)) <= before, "the gateway was left behind"


def test_it_measures_a_server_by_its_url_and_sends_what_was_asked_for(tmp_path: Path) -> None:
    with fake_server(tmp_path) as (url, backend):
        result = bench("auto", "--url", f"{url}/v1", "--streams", "2", "--repeats", "3", "--tokens", "8", "--json")
        assert result.exit_code == 0, result.output
        (level,) = json.loads(result.stdout)["levels"]
    assert level["answer_tokens"] == 8
    assert level["queue_ms"]["p50"]["median"] == pytest.approx(250)
    assert level["tokens_per_s"]["low"] > 0
    assert level["answered"] == 12
    assert {r.sampling.max_tokens for r in backend.requests} == {8}
    assert {r.sampling.temperature for r in backend.requests} == {0}
    beginnings = [str(r.prompt).split()[0] for r in backend.requests]
    assert len(set(beginnings)) == len(beginnings), "a cache of prefixes could have helped"


def test_the_table_has_a_row_for_each_level(tmp_path: Path) -> None:
    with fake_server(tmp_path) as (url, _):
        result = bench(
            "auto", "--url", url, "--streams", "1,3", "--repeats", "1", "--tokens", "8", "--endpoint", "chat"
        )
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[0] for row in rows if row and row[0] in ("1", "3")] == ["1", "3"]
    assert "physical_cores" in result.stdout


def test_arrivals_at_a_rate(tmp_path: Path) -> None:
    with fake_server(tmp_path) as (url, backend):
        arguments = ["--rate", "500", "--requests", "10", "--repeats", "1", "--tokens", "8", "--json"]
        result = bench("auto", "--url", url, *arguments)
    assert result.exit_code == 0, result.output
    (level,) = json.loads(result.stdout)["levels"]
    assert level["rate"] == 500
    assert level["streams"] is None
    assert level["answered"] == 10
    assert len(backend.requests) >= 14  # those to warm up too


def test_a_stalled_server_does_not_hold_later_requests_up() -> None:
    """All are sent while none is answered, and each is measured from the moment it was due."""
    dues: list[float] = []

    async def scenario() -> list[Shot]:
        answered = asyncio.Event()

        async def shoot(due: float | None) -> Shot:
            assert due is not None
            dues.append(due)
            if len(dues) == 20:
                answered.set()
            await answered.wait()
            return Shot(due=due, ended=time.perf_counter(), text_at=(time.perf_counter(),))

        async with asyncio.timeout(PATIENCE_S):
            return await open_loop(shoot, 20, rate=2000, seed=1)

    shots = asyncio.run(scenario())
    assert [shot.due for shot in shots] == dues == sorted(dues)
    assert min(shot.ttft_ms for shot in shots) >= 0
    assert shots[0].ttft_ms >= (dues[-1] - dues[0]) * 1e3


@given(st.integers(0, 5), st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_arrivals(count: int, seed: int) -> None:
    async def gaps() -> list[float]:
        shots = await open_loop(at_once, count, rate=1e6, seed=seed)
        return [later.due - shots[0].due for later in shots]

    assert asyncio.run(gaps()) == pytest.approx(asyncio.run(gaps()), abs=1e-9)


@given(st.integers(1, 30), st.integers(1, 8))
def test_a_closed_loop_keeps_its_streams_and_no_more(requests: int, streams: int) -> None:
    running, most = 0, 0

    async def shoot(due: float | None) -> Shot:
        nonlocal running, most
        assert due is None
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return Shot(due=0.0, ended=1.0)

    shots = asyncio.run(closed_loop(shoot, requests, streams))
    assert len(shots) == requests
    assert most == min(streams, requests)


async def at_once(due: float | None) -> Shot:
    assert due is not None
    return Shot(due=due, ended=due)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_percentile_is_the_smallest_value_that_the_share_does_not_exceed(values: list[float], q: float) -> None:
    found = percentile(values, q)
    assert sum(v <= found for v in values) >= q * len(values) - 1e-9
    assert sum(v < found for v in values) < q * len(values)


def test_figures_of_whole_answers_and_failed_ones() -> None:
    def shot(**fields: Any) -> Shot:
        return Shot(
            **{"due": 10.0, "ended": 12.0, "text_at": (10.5, 11.0, 12.0), "tokens": 4, "queue_ms": 5.0, **fields}
        )

    failed = Shot(due=10.0, ended=40.0, error="429 overloaded")
    figures = Figures.of([[shot(), shot(due=11.0), failed], [shot(ended=14.0)], [failed]])
    assert figures.requests == 5
    assert figures.answered == 3
    assert figures.errors == {"429 overloaded": 2}
    assert figures.tokens_per_s is not None
    assert figures.tokens_per_s.runs == (4.0, 1.0)  # what failed took no part, nor the repetition that had nothing
    assert figures.ttft_ms["p99"] is not None
    assert figures.ttft_ms["p99"].runs == (500.0, 500.0)
    assert figures.gap_ms["max"] is not None
    assert figures.gap_ms["max"].high == 1000.0


def test_nothing_measured_is_none_not_zero() -> None:
    figures = Figures.of([[Shot(due=0.0, ended=1.0, text_at=(0.5,), tokens=1)], [Shot(due=0.0, ended=1.0, error="x")]])
    assert figures.gap_ms == {"p50": None, "p99": None, "max": None}
    assert figures.queue_ms == {"p50": None, "p99": None}
    assert Figures.of([[]]).tokens_per_s is None


NONSENSE = {
    "no tokens": (["--tokens", "0"], "--tokens"),
    "one token": (["--tokens", "1"], "--tokens"),
    "no prompt": (["--prompt-tokens", "0"], "--prompt-tokens"),
    "no streams": (["--streams", "0"], "--streams"),
    "streams that are no numbers": (["--streams", "1,x"], "--streams"),
    "the same twice": (["--streams", "4,4"], "--streams"),
    "an empty list": (["--streams", ""], "--streams"),
    "fewer requests than streams": (["--streams", "8", "--requests", "4"], "--requests"),
    "no rate": (["--rate", "0"], "--rate"),
    "a rate that is no number": (["--rate", "nan"], "--rate"),
    "no repeats": (["--repeats", "0"], "--repeats"),
    "another protocol": (["--url", "ftp://127.0.0.1"], "--url"),
    "half an address": (["--url", "http://["], "--url"),
    "a password in the address": (["--url", "http://a:b@127.0.0.1"], "--key-env"),
    "no key": (["--url", "http://127.0.0.1:9", "--key-env", "FORESHORE_NO_SUCH_KEY"], "FORESHORE_NO_SUCH_KEY"),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_refused_by_name(case: str) -> None:
    arguments, named = NONSENSE[case]
    result = bench("no-such-model", *arguments)
    assert result.exit_code == 2
    assert named in result.stderr


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    result = bench(str(tmp_path / "none.gguf"))
    assert result.exit_code == 2
    assert "none.gguf" in result.stderr


def test_a_prompt_longer_than_the_context(tiny: Path) -> None:
    result = bench(str(tiny), "--prompt-tokens", "5000")
    assert result.exit_code == 2
    assert "1024" in result.stderr


def test_an_answer_longer_than_the_context_leaves(tmp_path: Path) -> None:
    with fake_server(tmp_path) as (url, _):
        result = bench("auto", "--url", url, "--tokens", "900")
    assert result.exit_code == 2
    assert "8 of 900" in result.stderr


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    result = bench("auto", "--url", url)
    assert result.exit_code == 4
    assert "nothing answers" in result.stderr


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
BROKEN = {
    "no HTTP": (b"hello\r\n\r\n", 4, "broken"),
    "hung up": (b"", 4, "broken"),
    "not JSON": (HEAD + b"data: {oops\n\ndata: [DONE]\n\n", 4, "damaged"),
    "another shape": (HEAD + b"data: [1]\n\ndata: [DONE]\n\n", 4, "damaged"),
    "not UTF-8": (HEAD + b"data: \xff\n\n", 4, "damaged"),
    "no terminator": (HEAD + b'data: {"choices":[{"text":"a"}]}\n\n', 4, "truncated"),
    "no text": (HEAD + b'data: {"choices":[]}\n\ndata: [DONE]\n\n', 4, "empty"),
    "an error event": (HEAD + b'data: {"error":{"message":"went wrong"}}\n\n', 4, "went wrong"),
    "no such path": (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 2, "--endpoint chat"),
    "a page": (b"HTTP/1.1 500 Oops\r\ncontent-length: 12\r\n\r\n<h1>no!</h1>", 4, "<h1>no!</h1>"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_server_that_answers_otherwise_is_told_of(case: str) -> None:
    reply, code, named = BROKEN[case]
    with canned(reply) as url:
        result = bench("auto", "--url", url, "--streams", "1", "--repeats", "1")
    assert result.exit_code == code, result.output
    assert named in result.stderr


def test_a_server_that_counts_no_tokens_is_measured_by_its_pieces() -> None:
    events = b'data: {"choices":[{"text":"a","finish_reason":null}]}\n\n' * 5
    with canned(HEAD + events + b"data: [DONE]\n\n") as url:
        result = bench("auto", "--url", url, "--streams", "1", "--repeats", "1", "--tokens", "5", "--json")
    assert result.exit_code == 0, result.output
    assert "counts no tokens" in result.stderr
    assert json.loads(result.stdout)["levels"][0]["answer_tokens"] == 5


def test_refusals_are_counted_beside_answers(tmp_path: Path) -> None:
    with fake_server(tmp_path, EveryOther(ANSWER, name="edge")) as (url, _):
        arguments = ["--streams", "1", "--requests", "6", "--repeats", "1", "--tokens", "8", "--json"]
        result = bench("auto", "--url", url, *arguments)
    assert result.exit_code == 0, result.output
    (level,) = json.loads(result.stdout)["levels"]
    assert level["errors"] == {"429 overloaded": 3}
    assert level["answered"] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_gateway_too(tiny: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "foreshore.cli", "bench", "serve", str(tiny), "--repeats", "1000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        parent = psutil.Process(process.pid)
        eventually(lambda: len(parent.children(recursive=True)) >= 2)  # the gateway and its worker
        children = parent.children(recursive=True)
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert output == ""
    gone, left = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert not left
    assert len(gone) == len(children)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
