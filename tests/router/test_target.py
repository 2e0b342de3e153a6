"""A target's facts: its queue, its state, and what it foretells, learned from the answers that were whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foreshore import native
from foreshore.backend import Backend, collect
from foreshore.card import Card, Device, Speed, Spread
from foreshore.config import TargetConfig
from foreshore.edge.options import Load
from foreshore.errors import BackendError, Unavailable
from foreshore.manifest import FileRecord, Manifest, Source
from foreshore.router.breaker import Breaker
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.target import Ask, Target, describe
from foreshore.testing import FakeBackend, Step
from foreshore.types import Chunk, Request, Timings, Usage

CLOUD = TargetConfig.model_validate({
    "kind": "openai", "model": "big", "base_url": "http://127.0.0.1:9", "tags": ["eu"],
    "price": {"input": 1, "output": 2},
})  # fmt: skip
LOCAL = TargetConfig(kind="local", model="tiny:q8_0", context_tokens=512)
ASKED = RequestFacts(prompt_tokens=100, tenant="t", deadline_s=60.0)
HELLO = Request(messages=({"role": "user", "content": "x" * 400},), tenant="t")


class Busy(FakeBackend):
    """A local backend that says how busy it is."""

    state = "ready"

    def __init__(self, *arguments: Any, busy: Load | None = None) -> None:
        super().__init__(*arguments)
        self.busy = busy or Load()

    def load(self) -> Load:
        return self.busy


def ended(tokens: int, *, ttft_s: float = 0.1, decode_s: float = 0.9, cached: int = 0) -> list[Step]:
    """An answer of so many tokens, as its backend timed it."""
    usage = Usage(prompt_tokens=100, completion_tokens=tokens, cached_tokens=cached)
    timings = Timings(ttft_s=ttft_s, decode_s=decode_s, decode_tokens=tokens)
    return [Chunk(text="a"), Chunk(finish_reason="stop", usage=usage, timings=timings)]


def made(script: Sequence[Step] | Backend, spec: TargetConfig = LOCAL) -> Target:
    return Target("t", spec, script if isinstance(script, Backend) else FakeBackend(script))


async def ask(target: Target, facts: RequestFacts = ASKED, times: int = 1) -> None:
    for _ in range(times):
        with suppress(BackendError):
            await collect(target.asked(facts), HELLO)


def after(target: Target, facts: RequestFacts = ASKED, times: int = 1) -> TargetFacts:
    """What it says of one more such request."""
    asyncio.run(ask(target, facts, times))
    return target.facts_for(facts)


# --- what it is ---


def test_it_is_what_the_config_says() -> None:
    found = made([], CLOUD).facts_for(ASKED)
    assert (found.kind, found.local, found.tags, found.input_price) == ("openai", False, ("eu",), 1.0)
    cost = (100 * 1.0 + 128 * 2.0) / 1e6  # an answer of typical length
    assert found == replace(describe("t", CLOUD), cost=cost)
    assert made([]).facts_for(ASKED).context_tokens == 512


@pytest.mark.parametrize(("kind", "json", "images"), [
    ("local", True, False), ("openai", True, True), ("anthropic", False, True),
])  # fmt: skip
def test_it_can_do_what_its_kind_can(kind: str, json: bool, images: bool) -> None:
    key = {} if kind == "local" else {"key_env": "KEY"}
    found = describe("t", TargetConfig.model_validate({"kind": kind, "model": "m", **key}))
    assert (found.tools, found.json, found.images) == (True, json, images)


def test_nothing_is_foretold_before_anything_is_known() -> None:
    found = made([]).facts_for(ASKED)
    assert (found.ttft_s, found.total_s, found.p90_s, found.on_time) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(("state", "loaded", "healthy"), [
    ("ready", True, True), ("idle", False, True), ("starting", False, False), ("failed", False, False),
])  # fmt: skip
def test_a_model_is_loaded_or_it_is_not(state: str, loaded: bool, healthy: bool) -> None:
    backend = Busy([])
    backend.state = state
    found = made(backend).facts_for(ASKED)
    assert (found.loaded, found.healthy) == (loaded, healthy)


def test_the_breaker_shows() -> None:
    now = [0.0]
    target = Target("t", CLOUD, FakeBackend([]), breaker=Breaker(threshold=1, wait=5.0, clock=lambda: now[0]))
    seen = [target.facts_for(ASKED)]
    target.breaker.fail()
    seen.append(target.facts_for(ASKED))
    now[0] = 6.0
    seen.append(target.facts_for(ASKED))
    assert [(f.breaker, f.healthy) for f in seen] == [("closed", True), ("open", False), ("half_open", True)]


# --- what it foretells ---


def test_it_foretells_what_it_has_seen() -> None:
    found = after(made(ended(40)), times=30)
    assert 0 < found.ttft_s <= found.ttft_p90_s < 0.2
    assert found.total_s == pytest.approx(0.9, rel=0.2)
    assert found.p90_s >= found.total_s
    assert found.on_time > 0.95
    assert found.answer_tokens == pytest.approx(40, rel=0.2)


def test_a_deadline_that_is_too_soon_is_improbable() -> None:
    target = made(ended(40))
    asyncio.run(ask(target, times=30))
    assert target.facts_for(replace(ASKED, deadline_s=0.2)).on_time < 0.05
    assert target.facts_for(replace(ASKED, deadline_s=0.0)).on_time == 1.0


def test_what_failed_or_was_left_teaches_nothing() -> None:
    scripts: list[list[Step]] = [
        [Unavailable("down", target="t")], [Chunk(text="part")], [Chunk(text="a"), Unavailable("x")]
    ]  # fmt: skip
    for script in scripts:
        found = after(made(script))
        assert (found.ttft_s, found.total_s) == (0.0, 0.0)

    async def leave(target: Target) -> None:
        async with aclosing(target.asked(ASKED).stream(HELLO)) as chunks:  # type: ignore[type-var]
            await anext(chunks)

    target = made(ended(5))
    asyncio.run(leave(target))
    assert target.facts_for(ASKED).ttft_s == 0.0


def test_without_facts_the_request_itself_is_looked_at() -> None:
    target = made(ended(40))

    async def stream() -> None:
        for _ in range(30):
            await collect(target, HELLO)

    asyncio.run(stream())
    assert target.facts_for(ASKED).total_s == pytest.approx(0.9, rel=0.3)


def test_a_vector_is_whole_when_it_begins() -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=0)
    target = made([Chunk(embedding=(1.0,)), Chunk(finish_reason="stop", usage=usage)])
    found = after(target, replace(ASKED, task="embedding"), times=60)
    assert found.total_s < 2 * found.ttft_s + 0.01


def test_routes_have_lengths_of_their_own() -> None:
    short, long = made(ended(4, decode_s=0.04)), FakeBackend(ended(400, decode_s=4.0))

    async def both() -> None:
        for _ in range(30):
            await collect(short.asked(ASKED, "short"), HELLO)
            short.backend, other = long, short.backend
            await collect(short.asked(ASKED, "long"), HELLO)
            short.backend = other

    asyncio.run(both())
    assert short.facts_for(ASKED, "short").total_s < 0.5
    assert short.facts_for(ASKED, "long").total_s > 2.0


def test_kinds_of_requests_are_routes_where_none_is_named() -> None:
    target = made(ended(10, decode_s=0.1))
    tools = replace(ASKED, has_tools=True)

    async def both() -> None:
        for _ in range(30):
            target.backend = FakeBackend(ended(10, decode_s=0.1))
            await ask(target)
            target.backend = FakeBackend(ended(300, decode_s=3.0))
            await ask(target, tools)

    asyncio.run(both())
    assert target.facts_for(ASKED).answer_tokens < 50 < 200 < target.facts_for(tools).answer_tokens


def test_what_a_cache_has_is_not_computed_again() -> None:
    cold, warm = made(ended(10)), made(ended(10, cached=90))
    asyncio.run(ask(cold, times=20))
    asyncio.run(ask(warm, times=20))
    facts = replace(ASKED, prompt_tokens=1000)
    assert warm.work(Ask.of(facts)).cached_tokens > 800
    assert cold.work(Ask.of(facts)).cached_tokens == 0


def test_estimates_are_put_right_by_what_prompts_came_to() -> None:
    target = made(ended(10))  # each of 100 tokens
    asyncio.run(ask(target, replace(ASKED, prompt_tokens=50), times=20))
    assert target.work(Ask.of(replace(ASKED, prompt_tokens=50))).prompt_tokens == 100


def test_a_successor_at_the_same_place_goes_on_with_what_was_learned() -> None:
    old = made(ended(40))
    asyncio.run(ask(old, times=5))
    dearer = made([], LOCAL.model_copy(update={"context_tokens": 256}))
    dearer.inherit(old)
    assert dearer.facts_for(ASKED).total_s > 0
    other = made([], LOCAL.model_copy(update={"model": "tiny:q4_0"}))
    other.inherit(old)
    assert other.facts_for(ASKED).total_s == 0


# --- its queue ---


class Slow:
    """Answers when it is let: `first` before the first token, `rest` before the end."""

    name = "slow"

    def __init__(self) -> None:
        self.first, self.rest = asyncio.Event(), asyncio.Event()
        self.entered = asyncio.Semaphore(0)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        self.entered.release()
        await self.first.wait()
        yield Chunk(text="a")
        self.entered.release()
        await self.rest.wait()
        for step in ended(5)[1:]:
            assert isinstance(step, Chunk)
            yield step

    async def close(self) -> None: ...


def test_who_is_there_before_counts_from_the_moment_it_is_sent() -> None:
    async def scenario() -> None:
        slow = Slow()
        target = Target("t", CLOUD, slow)

        def queue() -> tuple[int, int, int]:
            work = target.work(Ask.of(ASKED))
            return work.waiting, work.waiting_tokens, work.running

        assert queue() == (0, 0, 0)
        tasks = [asyncio.create_task(collect(target.asked(ASKED), HELLO)) for _ in range(3)]
        for _ in tasks:
            await slow.entered.acquire()
        assert queue() == (3, 300, 0)
        assert target.facts_for(ASKED).running == 3
        other = target.work(Ask.of(replace(ASKED, tenant="other")))
        assert (other.waiting_tokens, other.rival_tokens) == (300, 300)
        assert target.work(Ask.of(ASKED)).rival_tokens == 0
        slow.first.set()
        for _ in tasks:
            await slow.entered.acquire()
        assert queue() == (0, 0, 3)
        tasks.pop().cancel()
        slow.rest.set()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)
        assert queue() == (0, 0, 0)
        assert target.crowd.here == 0

    asyncio.run(scenario())


def test_a_local_queue_is_what_the_runtime_says() -> None:
    load = Load(waiting=4, running=2, waiting_tokens=900, prefill_tokens_per_s=1000.0)
    found = made(Busy([], busy=load)).facts_for(ASKED)
    assert (found.waiting, found.running, found.waiting_tokens) == (4, 2, 900)


def test_the_runtimes_own_speed_counts_until_something_was_answered() -> None:
    load = Load(prefill_tokens_per_s=50.0)
    assert made(Busy([], busy=load)).facts_for(ASKED).ttft_s == pytest.approx(2.0, rel=0.1)


# --- before the first answer ---


def spread(value: float) -> Spread:
    return Spread(median=value, low=value, high=value, runs=5)


def speed(cpu: str, prefill: float, date: str) -> Speed:
    device = Device(fingerprint="f", cpu=cpu, cores=2, memory_bytes=1 << 33, system="any", engine="any")
    return Speed(
        device=device, date=date, threads=2, load_s=spread(1.0), peak_bytes=1, prefill=spread(prefill),
        decode=spread(10.0),
    )  # fmt: skip


def store(home: Path, *speeds: Speed) -> None:
    manifest = Manifest(
        name="tiny", variant="q8_0", created="2026-01-01T00:00:00Z", source=Source(kind="gguf", id="tiny"),
        files={"model.gguf": FileRecord(sha256="0" * 64, bytes=1)}, recipe={"type": "q8_0"}, tools={},
        architecture="llama", parameters=1, bits_per_weight=8.0, context_length=512, seconds=1.0,
        card=Card(speeds=speeds),
    )  # fmt: skip
    folder = home / "models" / "tiny" / "q8_0"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(manifest.dump())


def test_a_measured_variant_is_foretold_from_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path))
    here = native.cpu_name()
    store(tmp_path, speed(here, 7.0, "2026-01-01"), speed(here, 100.0, "2026-02-01"), speed("Z80", 1.0, "2026-03-01"))
    found = made([]).facts_for(ASKED)
    assert found.ttft_s == pytest.approx(1.0, rel=0.05)
    assert found.total_s > 2.0
    unloaded = Busy([])
    unloaded.state = "idle"
    assert made(unloaded).facts_for(ASKED).ttft_s == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("text", ["", "{}", "[1", '{"card": 3}'])
def test_a_damaged_card_is_none(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path))
    store(tmp_path)
    (tmp_path / "models" / "tiny" / "q8_0" / "manifest.json").write_text(text)
    assert made([]).facts_for(ASKED).ttft_s == 0.0
