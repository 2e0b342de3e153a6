"""The serving benchmark's machinery: that it measures what it says, on real parts where it can. No time is asserted."""

from __future__ import annotations

import asyncio
import json
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import throughput
from benchmarks.capacity import overcommit, shared_prefix
from benchmarks.gaps import measure as measure_gaps
from benchmarks.load import Stream, completion, open_stream, tokens_per_s
from benchmarks.models import NAMES, Shape, digits, write
from benchmarks.row import Row, Target, failed, of_pairs, of_values, percentile, worst
from benchmarks.scale import QUICK
from benchmarks.serving import GROUPS, TARGETS, Group, measure
from foreshore.backend import collect
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.errors import SetupError, Truncated, UpstreamError
from foreshore.types import Request, Sampling
from tests.project.benchmark_command import check_refused, run

SMALL = Shape(layers=2, width=64, heads=4, kv_heads=2, inner=128, vocab=600, context=1024)
SCALE = replace(
    QUICK, rounds=1, slow_rounds=1, tokens=8, decode_tokens=8, kv_tokens=96, kv_request=(16, 32), prefix=128, sharers=3
)

# As llama-server and llama-bench look from outside; `TOKENS` short of what is asked for where that is set.
FAKE_SERVER = f"""#!{sys.executable}
import http.server, json, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["max_tokens"]
        count = asked - int(os.environ.get("TOKENS_SHORT", "0"))
        self.send_response(200)
        self.end_headers()
        for _ in range(count):
            self.wfile.write(b'data: {{"choices": [{{"text": "x"}}]}}\\n\\n')
        usage = {{"choices": [], "usage": {{"completion_tokens": count}}}}
        self.wfile.write(b"data: " + json.dumps(usage).encode() + b"\\n\\ndata: [DONE]\\n\\n")
    def log_message(self, *arguments):
        pass
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
FAKE_BENCH = f"""#!{sys.executable}
print('[{{"avg_ts": 1000.0}}]')
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("models") / "small.gguf", SMALL)


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLAMA_SERVER names a fake, beside which lies a fake llama-bench."""
    for name, script in (("llama-server", FAKE_SERVER), ("llama-bench", FAKE_BENCH)):
        path = tmp_path / name
        path.write_text(script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("LLAMA_SERVER", str(tmp_path / "llama-server"))


# --- rows ---


def test_every_row_of_the_issue_is_measured_once() -> None:
    assert sorted(key for group in GROUPS for key in group.keys) == sorted(TARGETS)
    assert len(TARGETS) == 17


def test_a_row_is_the_median_of_paired_ratios() -> None:
    row = of_pairs("aggregate_vs_llama_server_4", [12, 10, 30], [10, 10, 10])
    assert (row.value, row.low, row.high) == (1.2, 1.0, 3.0)
    shown = TARGETS[row.key].to_json(row)
    assert shown | {"details": {}} == {
        "value": 1.2, "low": 1.0, "high": 3.0, "target": 1.1, "side": ">=", "ok": True, "details": {},
    }  # fmt: skip


@pytest.mark.parametrize(("key", "value", "ok"), [
    ("decode_vs_llama_bench", 0.97, True), ("decode_vs_llama_bench", 0.96, False),
    ("own_us_per_token_greedy", 60, True), ("own_us_per_token_greedy", 61, False),
])  # fmt: skip
def test_a_target_bounds_from_its_side(key: str, value: float, ok: bool) -> None:
    assert TARGETS[key].met(Row(key=key, value=value)) is ok


def test_the_worst_model_decides_and_an_error_is_worse_than_any_number() -> None:
    def rows(*values: float | None) -> dict[str, Row]:
        return {str(i): Row(key="any", value=value) for i, value in enumerate(values)}

    more, less = Target(bound=0.5, side=">=", what=""), Target(bound=9, side="<=", what="")
    assert worst(rows(1.0, 0.9), more).value == 0.9
    assert worst(rows(2.0, 7.0), less).value == 7.0
    assert worst(rows(2.0, None), less).value is None
    assert not TARGETS["gap_p99_vs_undisturbed"].met(Row(key="gap_p99_vs_undisturbed", value=None))


def test_a_model_that_is_not_sure_of_its_target_is_worse_than_one_that_is() -> None:
    target = Target(bound=0.3, side="<=", high=0.4, what="")
    rows = {"sure": Row(key="any", value=0.29, high=0.33), "unsure": Row(key="any", value=0.2, high=0.45)}
    assert worst(rows, target).details["model"] == "unsure"
    assert not target.met(worst(rows, target))


def test_percentiles_are_nearest_ranks() -> None:
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0


def test_what_fails_is_reported_in_its_row_and_the_others_run(tmp_path: Path) -> None:
    def breaks(scale: object, path: Path) -> dict[str, Row]:
        raise ExceptionGroup("side by side", [SetupError("it broke", hint="mend it")])

    def works(scale: object, path: Path) -> dict[str, Row]:
        return {"rss_overhead_mb": of_values("rss_overhead_mb", [1.0])}

    for name in NAMES[:2]:
        (tmp_path / f"{name}.gguf").touch()
    groups = [
        Group(keys=("decode_vs_llama_bench",), run=breaks, every_model=True),
        Group(keys=("rss_overhead_mb",), run=works),
    ]
    rows = measure(groups, replace(SCALE, models=NAMES[:2]), tmp_path)
    assert rows["decode_vs_llama_bench"].error == "it broke (mend it)"
    assert rows["decode_vs_llama_bench"].value is None
    assert rows["rss_overhead_mb"].value == 1.0
    assert failed("rss_overhead_mb", ValueError("no")).error == "ValueError: no"


# --- gaps ---


def test_gaps_count_while_they_overlap_with_the_prefill() -> None:
    steady = [i * 0.01 for i in range(11)]  # to 0.1
    run = measure_gaps([[*steady, 0.2, 0.5, 0.51], [*steady, 0.51]], sent=0.15, first=0.45, settle=4)
    assert run.gaps == 3  # 0.1 to 0.2 and 0.2 to 0.5; 0.1 to 0.51
    assert run.p99 == pytest.approx(0.41)
    assert run.undisturbed == pytest.approx(0.01)
    assert run.ttft == pytest.approx(0.3)


def test_tokens_in_lumps_measure_nothing() -> None:
    with pytest.raises(UpstreamError, match="in lumps"):
        measure_gaps([[0.0, 0.1, 0.1, 0.1, 0.1, 0.5]], sent=0.2, first=0.4, settle=2)


def test_a_runner_that_ends_too_early_measures_nothing() -> None:
    with pytest.raises(UpstreamError, match="ended before the long prompt was read"):
        measure_gaps([[0.0, 0.1, 0.2]], sent=0.15, first=0.45, settle=2)


# --- the client ---


@asynccontextmanager
async def serving(answer: bytes) -> AsyncIterator[str]:
    """A server that gives every request the same bytes, two at a time, and hangs up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for i in range(0, len(answer), 2):
            writer.write(answer[i : i + 2])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def fetch(answer: bytes) -> Stream:
    async def run() -> Stream:
        async with serving(answer) as url:
            return await open_stream(url, completion("1", 2))

    return asyncio.run(run())


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\n"


PLAIN = b"HTTP/1.1 200 OK\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@pytest.mark.parametrize("answer", [
    PLAIN + b": ping\n\n" + event("a") + event("") + event("b") + b"data: [DONE]\n\n",
    CHUNKED + chunk(event("a") + event("b")[:9]) + chunk(event("b")[9:] + b"data: [DONE]\r\n\r\n") + chunk(b""),
])  # fmt: skip
def test_an_answer_is_read_however_it_is_cut(answer: bytes) -> None:
    stream = fetch(answer)
    stream.check(2)
    assert len(stream.token_times) == 2
    assert tokens_per_s([stream]) > 0


def test_the_servers_count_of_tokens_wins() -> None:
    usage = b'data: {"choices": [], "usage": {"completion_tokens": 5, "prompt_tokens": 1}}\n\n'
    stream = fetch(PLAIN + event("abcde") + usage + b"data: [DONE]\n\n")
    stream.check(5)
    assert stream.usage["prompt_tokens"] == 1
    with pytest.raises(UpstreamError, match="has 5 tokens, and 6"):
        stream.check(6)


@pytest.mark.parametrize("answer", [PLAIN + event("a") + event("b"), CHUNKED + chunk(event("a")) + b"ff\r\nda"])
def test_an_answer_without_its_end_is_no_answer(answer: bytes) -> None:
    with pytest.raises(Truncated):
        fetch(answer).check(2)


def test_errors_are_told_apart_from_answers() -> None:
    with pytest.raises(UpstreamError, match="out of memory"):
        fetch(PLAIN + b'data: {"error": {"message": "out of memory"}}\n\ndata: [DONE]\n\n').check(2)
    with pytest.raises(UpstreamError, match="answered 429"):
        fetch(b"HTTP/1.1 429 Too Many Requests\r\n\r\nlater")


# --- on a real engine ---


def test_a_prompt_has_as_many_tokens_and_an_answer_too(model: Path) -> None:
    async def run() -> list[tuple[int, int]]:
        backend = LocalBackend(model, options=EngineOptions(slots=2, threads=1, context_tokens=256))
        try:
            requests = [
                Request(task="completion", prompt=digits(100, seed), sampling=Sampling(max_tokens=seed, temperature=0))
                for seed in (40, 41)
            ]
            answers = await asyncio.gather(*(collect(backend, request) for request in requests))
        finally:
            await backend.close()
        return [(a.usage.prompt_tokens, a.usage.completion_tokens) for a in answers if a.usage]

    assert asyncio.run(run()) == [(100, 40), (100, 41)]


def test_prompts_differ_from_their_first_token_on() -> None:
    prompts = [digits(20, seed) for seed in range(10)]
    assert len({prompt[0] for prompt in prompts}) == 10
    assert {len(prompt) for prompt in prompts} == {20}


def test_demand_beyond_the_cache_is_counted(model: Path) -> None:
    row = overcommit(SCALE, model)["overcommit_completed"]
    assert row.value == 1.0
    assert row.details["requests"] * 48 >= 3 * SCALE.kv_tokens
    assert not row.details["errors"]


def test_shared_prompts_are_compared_with_one(model: Path) -> None:
    row = shared_prefix(SCALE, model)["shared_prefix_prefill"]
    assert row.value is not None
    assert row.details["one"] > SCALE.prefix
    assert row.value == pytest.approx(sum(row.details["computed"]) / row.details["one"])


@pytest.mark.usefixtures("peer")
def test_both_sides_get_the_same_requests(model: Path) -> None:
    (row,) = throughput.aggregate(SCALE, model, 2).values()
    assert row.key == "aggregate_vs_llama_server_2"
    assert len(row.details["ours"]) == len(row.details["theirs"]) == SCALE.rounds
    assert [command.split()[0] for command in row.details["servers"]] == ["foreshore", "llama-server"]
    (decode,) = throughput.decode(SCALE, model).values()
    assert decode.details["theirs"] == [1000.0]


@pytest.mark.usefixtures("peer")
def test_a_side_that_generates_too_little_has_no_speed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENS_SHORT", "1")
    with pytest.raises(UpstreamError, match="has 7 tokens, and 8 were asked for"):
        throughput.aggregate(SCALE, model, 1)


# --- the command ---


def test_the_quick_command_prints_one_object(tmp_path: Path) -> None:
    keys = "overcommit_completed,rss_overhead_mb,own_us_per_token_sampled,decode_vs_llama_bench"
    done = run("serving", "--quick", "--json", "--only", keys, FORESHORE_HOME=str(tmp_path), LLAMA_SERVER="")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result) == [*keys.split(","), "machine"]
    assert all({"value", "low", "high", "target", "ok"} <= result[key].keys() for key in keys.split(","))
    measured = [key for key in keys.split(",") if "error" not in result[key]]
    assert measured == keys.split(",")[:3], done.stderr
    assert "LLAMA_SERVER" in result["decode_vs_llama_bench"]["error"]


@pytest.mark.parametrize("arguments", [
    ("--only", "speed"), ("--only", ","), ("--models", "7b"), ("--models", ""),
])  # fmt: skip
def test_a_name_that_does_not_exist_is_refused_with_those_that_do(arguments: tuple[str, str]) -> None:
    check_refused(run("serving", *arguments))
