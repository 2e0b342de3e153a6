"""Traces and speeds are read from files that people write: every mistake is named with its line."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from foreshore.card import Device, Speed, Spread
from foreshore.config import Config
from foreshore.errors import ConfigError, NotFound, UsageError
from foreshore.reliability.event import Event
from foreshore.reliability.ledger import Ledger, read_events
from foreshore.router.simulate.speed import CloudSpeed, LocalSpeed, complete, of_card, of_events, read_speeds
from foreshore.router.simulate.trace import Arrival, read_trace
from foreshore.types import Timings, Usage

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens"
ROWS = f"{HEAD}\n2023-11-16 18:17:04.0319600,3180,8\n2023-11-16 18:17:03.9799600,4808,10\n"


def written(folder: Path, content: str | bytes, name: str = "trace.csv") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def test_azure_s_columns_are_read_in_order_of_time(tmp_path: Path) -> None:
    found = read_trace(written(tmp_path, ROWS))
    assert [(round(a.at, 6), a.prompt_tokens, a.output_tokens) for a in found.arrivals] == [
        (0, 4808, 10),
        (0.052, 3180, 8),
    ]
    assert found.begun == pytest.approx(1700158623.97996)
    assert found.seconds == pytest.approx(0.052)
    assert read_trace(written(tmp_path, gzip.compress(ROWS.encode()), "t.csv.gz")) == found


def test_seconds_tenants_and_a_byte_order_mark_are_read_too(tmp_path: Path) -> None:
    text = f"\ufeff{HEAD},Tenant\n10,1,2,a\n12.5,3,4,\n"
    assert read_trace(written(tmp_path, text)).arrivals == (
        Arrival(at=0.0, prompt_tokens=1, output_tokens=2, tenant="a"),
        Arrival(at=2.5, prompt_tokens=3, output_tokens=4),
    )


def event(at: float | None, **more: Any) -> dict[str, Any]:
    facts = {"max_tokens": 64, "labels": [], "private": False, "deadline_s": 20.0, "surprise": 1}
    found = {"at": at, "task": "chat", "tenant": "t", "prompt_tokens": 9, "completion_tokens": 5, "facts": facts}
    return {**found, **more}


def test_events_as_json_lines(tmp_path: Path) -> None:
    events = [event(100.0), event(103.0, task="embedding"), event(104.0, completion_tokens=None), event(101.0)]
    found = read_trace(written(tmp_path, "\n".join(map(json.dumps, events)) + "\n\n", "traffic.jsonl"))
    facts = {"max_tokens": 64, "labels": (), "private": False, "deadline_s": 20.0}
    one = Arrival(at=0.0, prompt_tokens=9, output_tokens=5, tenant="t", facts=facts)
    assert found.arrivals == (one, Arrival(at=1.0, prompt_tokens=9, output_tokens=5, tenant="t", facts=facts))
    assert len(found.events) == 4


def test_a_ledger_is_a_trace(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", keep_days=36_500)
    usage = Usage(prompt_tokens=7, completion_tokens=3)
    ledger.append(
        Event(decision_id="a", terminal_state="complete", task="chat", usage=usage, at=5.0, facts={"stream": True})
    )
    ledger.append(Event(decision_id="b", terminal_state="policy_abort", task="chat", at=6.0))
    ledger.close()
    found = read_trace(tmp_path / "ledger.sqlite")
    assert found.arrivals == (Arrival(at=0.0, prompt_tokens=7, output_tokens=3, facts={"stream": True, "labels": ()}),)
    lines = "\n".join(json.dumps(e) for e in read_events(tmp_path / "ledger.sqlite"))
    assert read_trace(written(tmp_path, lines, "traffic.jsonl")).arrivals == found.arrivals


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is empty"),
        (f"{HEAD}\n", "no request"),
        ("TIMESTAMP,ContextTokens\n1,2\n", "no column 'GeneratedTokens'"),
        (f"{HEAD}\n1,2,3\nnever,2,3\n", ":3: TIMESTAMP is 'never'"),
        (f"{HEAD}\nnan,2,3\n", ":2: TIMESTAMP is 'nan'"),
        (f"{HEAD}\n1,-2,3\n", ":2: ContextTokens is '-2'"),
        (f"{HEAD}\n1,2,3.5\n", ":2: GeneratedTokens is '3.5'"),
        (f"{HEAD}\n1,2\n", ":2: GeneratedTokens is None"),
        (f"{HEAD}\n1,{'9' * 5000},3\n", ":2: ContextTokens"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
        (gzip.compress(ROWS.encode())[:-9], "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"SQLite format 3\x00 and nothing", "is no ledger"),
        ("{\n", ":1: not JSON"),
        ('{"at": 1}\n[]\n', ":2: an event is a mapping"),
        (json.dumps(event(None)), ":1: 'at' is None"),
        (json.dumps(event(1, prompt_tokens="9")), ":1: prompt_tokens is '9'"),
        (json.dumps(event(1, completion_tokens=True)), ":1: completion_tokens is True"),
        (json.dumps(event(1, facts=[1])), ":1: facts is"),
        (json.dumps(event(1, facts={"max_tokens": "9"})), ":1: facts.max_tokens is '9', not int"),
        (json.dumps(event(1, facts={"deadline_s": float("nan")})), ":1: facts.deadline_s is nan"),
        (json.dumps(event(1, facts={"labels": [1]})), ":1: facts.labels is [1]"),
        (json.dumps(event(1, task="rerank")), "no request"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, content: str | bytes, complaint: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_trace(written(tmp_path, content))
    assert complaint in str(refused.value)


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nowhere\.csv"):
        read_trace(tmp_path / "nowhere.csv")


def test_a_trace_can_be_replayed_faster_and_in_parts(tmp_path: Path) -> None:
    found = read_trace(written(tmp_path, f"{HEAD}\n0,1,1\n10,2,1\n20,3,1\n"))
    assert [a.at for a in found.faster(4).arrivals] == [0, 2.5, 5]
    assert [(a.at, a.prompt_tokens) for a in found.part(10, 30).arrivals] == [(0, 2), (10, 3)]
    assert found.part(10, 30).begun == 10
    assert found.part(30, 40).arrivals == ()
    for factor in (0.0, -1.0, 1e-9, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="factor"):
            found.faster(factor)


SPEEDS = """
edge: {kind: local, prefill_tokens_per_s: 300, decode_tokens_per_s: {1: 30, 4: 90}}
cloud: {kind: cloud, ttft_s: {median: 0.5, p95: 2}, tpot_s: {median: 0.02, p95: 0.04}, requests_per_minute: 60}
"""


def test_speeds_are_read(tmp_path: Path) -> None:
    found = read_speeds(written(tmp_path, SPEEDS, "speeds.yaml"))
    edge, cloud = found["edge"], found["cloud"]
    assert isinstance(edge, LocalSpeed)
    assert isinstance(cloud, CloudSpeed)
    assert (edge.slots, edge.queue_limit) == (8, 64)
    assert cloud.requests_per_minute == 60


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("edge: {kind: local}\n", "speeds.yaml:1: edge.prefill_tokens_per_s: Field required"),
        ("edge: {kind: slow}\n", "speeds.yaml:1: edge"),
        (SPEEDS.replace("300", ".inf"), "speeds.yaml:2: edge.prefill_tokens_per_s"),
        (SPEEDS.replace("{1: 30, 4: 90}", "{4: 90}"), "needs the rate of 1 stream"),
        (SPEEDS.replace("4: 90", "4: 130"), "cannot be shorter"),
        (SPEEDS.replace("p95: 2}", "p95: 0.1}"), "less than the median"),
        (SPEEDS.replace("requests_per_minute", "requests"), "speeds.yaml:3: cloud.requests"),
        ("a: [", "speeds.yaml"),
        ("- 1\n", "must be a mapping"),
        (b"\xff", "cannot be read"),
        ("#" * 300_000, "larger than"),
    ],
)
def test_speeds_that_cannot_be_are_refused(tmp_path: Path, content: str | bytes, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_speeds(written(tmp_path, content, "speeds.yaml"))
    assert complaint in str(refused.value)


def test_each_target_needs_a_speed_of_its_kind(tmp_path: Path) -> None:
    config = Config.model_validate({"targets": {"edge": {"kind": "local", "model": "m"}}})
    speeds = read_speeds(written(tmp_path, SPEEDS, "speeds.yaml"))
    assert list(complete(config, {"edge": speeds["edge"]})) == ["edge"]
    with pytest.raises(UsageError, match="that the config does not: 'cloud'"):
        complete(config, speeds)
    with pytest.raises(UsageError, match="nothing is known of the speed of target 'edge'"):
        complete(config, {})
    with pytest.raises(UsageError, match="of kind 'local', but its speeds are 'cloud'"):
        complete(config, {"edge": speeds["cloud"]})
    with pytest.raises(NotFound, match="file of speeds"):
        read_speeds(tmp_path / "nowhere.yaml")


def test_a_card_gives_speeds() -> None:
    def speed(date: str, prefill: float, decode: float) -> Speed:
        device = Device(fingerprint="f", cpu="c", cores=2, memory_bytes=1, system="s", engine="e")
        spreads = [Spread(median=v, low=v, high=v, runs=1) for v in (1.0, prefill, decode)]
        return Speed(
            device=device, date=date, threads=2, load_s=spreads[0], peak_bytes=1, prefill=spreads[1], decode=spreads[2]
        )

    found = of_card([speed("2026-01-02", 300.0, 32.0), speed("2026-01-01", 1.0, 1.0)], slots=4)
    assert found is not None
    assert (found.prefill_tokens_per_s, found.slots) == (300.0, 4)
    assert found.decode_tokens_per_s == pytest.approx({1: 32, 4: 98, 16: 164})
    assert of_card([]) is None


def test_a_cloud_s_answers_give_its_spread(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite", keep_days=36_500)
    for i in range(40):
        ledger.append(
            Event(
                decision_id=str(i),
                terminal_state="complete",
                target="cloud",
                usage=Usage(prompt_tokens=1, completion_tokens=9),
                timings=Timings(ttft_s=0.4, decode_s=0.16, decode_tokens=9),
                ttft_s=0.4 + 0.01 * i,
                at=float(i),
            )
        )
    ledger.close()
    events = list(read_events(tmp_path / "ledger.sqlite"))
    found = of_events(events, "cloud")
    assert found is not None
    assert found.ttft_s.median == pytest.approx(0.595)
    assert found.ttft_s.p95 == pytest.approx(0.78, abs=0.02)
    assert found.tpot_s.median == pytest.approx(0.02)
    assert of_events(events, "other") is None
    assert of_events(events[:5], "cloud") is None


@pytest.mark.parametrize("name", ["long.csv", "long.jsonl"])
def test_a_line_without_an_end_is_never_read_whole(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text('{"at": 1, "x": "' + "a" * 3_000_000 if name.endswith("jsonl") else "a" * 3_000_000)
    tracemalloc.start()
    with pytest.raises(UsageError, match=r"longer than 1048576 characters|there is no column"):
        read_trace(file)
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


def test_of_a_long_ledger_some_answers_of_each_target_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    event = {"prompt_tokens": 5, "completion_tokens": 7, "ttft_s": 0.5, "tpot_s": 0.01, "attempts": [{}]}
    lines = [{"at": i, "target": "cloud" if i % 3 else "far", **event} for i in range(4500)]
    file.write_text("\n".join(map(json.dumps, lines)))
    found = read_trace(file)
    assert len(found.arrivals) == 4500
    assert [sum(e["target"] == name for e in found.events) for name in ("cloud", "far")] == [2000, 1500]
