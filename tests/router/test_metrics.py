"""What a scrape of a real gateway shows, read as Prometheus reads it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from foreshore.edge import EngineOptions, LocalBackend
from foreshore.gaps import gap_quantile
from foreshore.router.router import Router
from foreshore.testing import FakeBackend
from foreshore.types import GAP_BOUNDS, Chunk, Request, Timings, Usage
from tests.router.serving import PATIENCE_S, TWO_TARGETS, Served, config_of, serving

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
CANARY = "xylophone-canary"
KEY = "metrics-tenant-key-0123456789"
CLASSES = len(GAP_BOUNDS) + 1
GAPS = (0, 0, 0, 0, 3, 20, 0, 0, 1, 0, 0, 1)
MEASURED = Timings(
    queue_s=0.02, prefill_s=0.5, prefill_tokens=100, ttft_s=0.52, decode_s=3.0, decode_tokens=26, gaps=GAPS, parked=2
)
LAST = Chunk(
    finish_reason="stop",
    usage=Usage(prompt_tokens=130, completion_tokens=26, cached_tokens=30),
    timings=MEASURED,
)
EDGE = {"model": "tiny:q8_0", "target": "edge", "tenant": "default"}
ONE_LOCAL = "targets: {edge: {kind: local, model: 'tiny:q8_0'}}\n"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def scripted(*pieces: Chunk) -> dict[str, FakeBackend]:
    return {"edge": FakeBackend(pieces, name="edge"), "cloud": FakeBackend("cloud answers", name="cloud")}


def scrape(served: Served, **headers: str) -> list[Sample]:
    response = served.http.get("/metrics", headers=headers)
    assert response.status_code == 200
    return samples(response.text)


def samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value(found: list[Sample], name: str, **labels: str) -> float | None:
    """Of the one sample with that name and these labels among its own; None if there is none."""
    values = [s.value for s in found if s.name == name and labels.items() <= s.labels.items()]
    assert len(values) <= 1
    return values[0] if values else None


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_gaps_come_as_a_histogram_of_their_own_classes(ledger: Path) -> None:
    with serving(config_of(TWO_TARGETS, ledger), scripted(Chunk(text="a"), LAST)) as served:
        served.chat()
        served.chat(stream=True)
        found = scrape(served)
    buckets = {s.labels["le"]: s.value for s in found if s.name == "foreshore_gap_seconds_bucket"}
    assert [float(le) for le in buckets] == [*GAP_BOUNDS, float("inf")]
    assert list(buckets.values()) == [2 * sum(GAPS[: i + 1]) for i in range(CLASSES)]
    assert value(found, "foreshore_gap_seconds_count", **EDGE) == 50
    assert value(found, "foreshore_gap_seconds_sum", **EDGE) == pytest.approx(6.0)


def test_an_answer_is_measured_by_model_target_and_tenant(ledger: Path) -> None:
    with serving(config_of(TWO_TARGETS, ledger), scripted(Chunk(text="a"), LAST)) as served:
        served.chat()
        found = scrape(served)
    for name in ("queue_seconds", "ttft_seconds", "tpot_seconds"):
        assert value(found, f"foreshore_{name}_count", **EDGE) == 1
    assert value(found, "foreshore_queue_seconds_sum", **EDGE) == pytest.approx(0.02)
    assert value(found, "foreshore_prefill_tokens_per_second_sum", **EDGE) == pytest.approx(200)
    assert value(found, "foreshore_decode_tokens_per_second_sum", **EDGE) == pytest.approx(25 / 3)
    assert value(found, "foreshore_cached_prompt_tokens_total", **EDGE) == 30
    assert value(found, "foreshore_parked_answers_total", **EDGE) == 2
    assert value(found, "foreshore_tokens_total", kind="prompt", **EDGE) == 130
    assert value(found, "foreshore_tokens_total", kind="completion", **EDGE) == 26


def test_what_a_cloud_does_not_tell_is_not_counted_as_zero(ledger: Path) -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=2)
    backends = {**scripted(LAST), "cloud": FakeBackend([Chunk(text="a"), Chunk(finish_reason="stop", usage=usage)])}
    with serving(config_of(TWO_TARGETS, ledger), backends) as served:
        served.chat(model="cloud")
        found = scrape(served)
    assert value(found, "foreshore_ttft_seconds_count", target="cloud") == 1
    for name in ("queue_seconds", "gap_seconds", "prefill_tokens_per_second"):
        assert value(found, f"foreshore_{name}_count", target="cloud") is None


def test_a_prompt_that_the_cache_had_says_nothing_about_the_speed_of_prefill(ledger: Path) -> None:
    cached = Chunk(
        finish_reason="stop", timings=Timings(prefill_s=0.04, prefill_tokens=1, ttft_s=0.04, decode_tokens=1)
    )
    with serving(config_of(TWO_TARGETS, ledger), scripted(Chunk(text="a"), cached)) as served:
        served.chat()
        found = scrape(served)
    assert value(found, "foreshore_queue_seconds_count", **EDGE) == 1
    assert value(found, "foreshore_prefill_tokens_per_second_count") is None


def test_ttft_counts_where_the_reader_left_and_not_for_embeddings(ledger: Path) -> None:
    vectors = [Chunk(embedding=(1.0,)), LAST]
    router = Router(config_of(ONE_LOCAL, ledger), backends={"edge": FakeBackend([Chunk(text="a"), *vectors])})

    async def scenario() -> list[Sample]:
        async with aclosing(router.stream(Request(messages=({"role": "user", "content": "hi"},)))) as stream:  # type: ignore[type-var]
            await anext(stream)
        async for _ in router.stream(Request(task="embedding", inputs=("x",))):
            pass
        await router.close()
        return samples(router.metrics.render().decode())

    found = asyncio.run(scenario())
    assert value(found, "foreshore_ttft_seconds_count") == 1
    assert value(found, "foreshore_requests_total", terminal_state="cancelled") == 1
    assert value(found, "foreshore_prefill_tokens_per_second_count") == 1


def test_tenants_of_the_config_have_a_label_and_all_others_share_one(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALICE_KEY", KEY)
    config = config_of(ONE_LOCAL + "tenants: [{name: alice, key_env: ALICE_KEY}]", ledger)
    with serving(config, {"edge": FakeBackend([Chunk(text="a"), LAST])}) as served:
        served.chat(headers={"authorization": f"Bearer {KEY}"})

        async def embedded() -> None:
            for i in range(50):
                request = Request(messages=({"role": "user", "content": "hi"},), tenant=f"{CANARY}-{i}")
                async for _ in served.router.stream(request):
                    pass

        served.call(embedded())
        found = scrape(served, authorization=f"Bearer {KEY}")
    counts = {s.labels["tenant"]: s.value for s in found if s.name == "foreshore_ttft_seconds_count"}
    assert counts == {"alice": 1, "other": 50}
    assert all(CANARY not in label for sample in found for label in sample.labels.values())


def test_no_content_and_no_secret_reaches_a_scrape(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALICE_KEY", KEY)
    config = config_of(TWO_TARGETS + "tenants: [{name: alice, key_env: ALICE_KEY}]", ledger)
    headers = {"authorization": f"Bearer {KEY}", "x-team": CANARY}
    backends = scripted(Chunk(text=CANARY, reasoning=CANARY), LAST)
    with serving(config, backends) as served:
        for fields in ({}, {"stream": True}, {"model": CANARY}, {CANARY: CANARY}, {"user": CANARY}):
            served.chat(CANARY, headers=headers, **fields)
        served.http.post("/v1/embeddings", json={"model": CANARY, "input": CANARY}, headers=headers)
        text = served.http.get("/metrics", headers=headers).text
    assert "foreshore_ttft_seconds_count" in text
    assert CANARY not in text
    assert KEY not in text


def test_two_gateways_in_one_process_do_not_mix(tmp_path: Path) -> None:
    with (
        serving(config_of(ONE_LOCAL, tmp_path / "a"), {"edge": FakeBackend()}) as one,
        serving(config_of(ONE_LOCAL, tmp_path / "b"), {"edge": FakeBackend()}) as other,
    ):
        one.chat()
        assert value(scrape(one), "foreshore_ttft_seconds_count") == 1
        assert value(scrape(other), "foreshore_ttft_seconds_count") is None


def test_a_scrape_asks_the_worker_and_counts_its_replacements(ledger: Path, tiny: Path) -> None:
    backend = LocalBackend(tiny, name="edge", options=EngineOptions(threads=1))
    with serving(config_of(ONE_LOCAL, ledger), {"edge": backend}) as served:

        def worker(name: str) -> float | None:
            return value(scrape(served), f"foreshore_worker_{name}", model="tiny:q8_0", target="edge")

        assert worker("model_loaded") == 1
        assert worker("restarts_total") == 0
        assert worker("quarantined") == 0
        assert worker("threads") == 1
        assert worker("requests_running") == 0
        assert worker("requests_waiting") == 0
        assert (worker("kv_tokens") or 0) >= (worker("kv_used_tokens") or 0) >= 0
        assert (worker("memory_bytes") or 0) > 2**20
        assert backend.pid is not None
        assert backend.quarantine is not None
        os.kill(backend.pid, signal.SIGKILL)
        eventually(lambda: worker("restarts_total") == 1)
        backend.quarantine.blame({"a request"})
        backend.quarantine.blame({"a request"})
        assert worker("quarantined") == 1
        eventually(lambda: worker("model_loaded") == 1)


def test_a_target_that_is_no_worker_has_no_worker_samples(ledger: Path) -> None:
    with serving(config_of(TWO_TARGETS, ledger), scripted(LAST)) as served:
        assert not [s for s in scrape(served) if s.name.startswith("foreshore_worker")]


def test_the_answer_carries_its_timings_whole_and_streamed(ledger: Path) -> None:
    with serving(config_of(TWO_TARGETS, ledger), scripted(Chunk(text="a"), LAST)) as served:
        whole = served.chat().json()["timings"]
        events = served.chat(stream=True).text.split("\n\n")
    last = next(e for e in events if '"finish_reason":"stop"' in e)
    streamed = json.loads(last.removeprefix("data: "))["timings"]
    assert streamed == whole
    assert whole["queue_ms"] == pytest.approx(20)
    assert whole["cached_tokens"] == 30
    assert whole["parked"] == 2
    assert 20 < whole["gap_p50_ms"] <= 40
    assert whole["gap_p99_ms"] == pytest.approx(1280)  # one of 25 is beyond the last bound
    assert set(documented("Timings of an answer")) == set(whole)


def test_every_metric_is_documented_with_its_labels(ledger: Path, tiny: Path) -> None:
    backends: dict[str, Any] = {**scripted(Chunk(text="a"), LAST), "edge": LocalBackend(tiny, name="edge")}
    with serving(config_of(TWO_TARGETS, ledger), backends) as served:
        served.chat()
        text = served.http.get("/metrics").text
    families = {f.name: f for f in text_string_to_metric_families(text)}
    shown = {n.removesuffix("_total") for n in documented("Metrics")}
    assert shown == {name for name in families if not name.endswith("_created")}
    page = DOCS.read_text()
    for family in families.values():
        for label in {label for sample in family.samples for label in sample.labels} - {"le"}:
            assert f"`{label}`" in page


def documented(section: str) -> list[str]:
    """The names in the first column of the tables of a section of the page."""
    page = DOCS.read_text()
    (text,) = re.findall(rf"^## {section}$(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    return [name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]


@given(st.lists(st.floats(0, 2), min_size=1, max_size=200), st.floats(0.01, 1))
def test_an_estimated_quantile_lies_in_the_class_of_the_true_one(gaps: list[float], q: float) -> None:
    counts = [0] * CLASSES
    for gap in gaps:
        counts[class_of(gap)] += 1
    rank = next(n for n in range(1, len(gaps) + 1) if n >= q * len(gaps))
    truth = class_of(sorted(gaps)[rank - 1])
    estimate = gap_quantile(counts, q)
    lower, upper = (0.0, *GAP_BOUNDS)[truth], (*GAP_BOUNDS, GAP_BOUNDS[-1])[truth]
    assert lower <= estimate <= upper * (1 + 1e-9)


@given(st.lists(st.integers(0, 50), min_size=CLASSES, max_size=CLASSES), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_grow_with_their_share(counts: list[int], a: float, b: float) -> None:
    assert gap_quantile(counts, min(a, b)) <= gap_quantile(counts, max(a, b)) + 1e-12


def test_no_gaps_have_no_quantile() -> None:
    assert gap_quantile((), 0.5) == 0
    assert gap_quantile((0,) * CLASSES, 0.99) == 0


def class_of(gap: float) -> int:
    return next((i for i, bound in enumerate(GAP_BOUNDS) if gap <= bound), CLASSES - 1)
