"""Embedding and ranking: several requests in one batch, fair between tenants, out of running streams' way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.backend import collect
from foreshore.edge import EngineOptions, LocalBackend
from foreshore.edge.embedding import BUSY_TOKENS, EmbeddingQueue
from foreshore.edge.engine import Engine
from foreshore.edge.prepare import Prepared
from foreshore.errors import BadRequest, ContextExceeded, DeadlineExceeded, Overloaded
from foreshore.types import Chunk, Request, Sampling
from tests.edge.tiny_ranker import torch_ranker, torch_score, write_ranker

QUERY = "the cat"
DOCUMENTS = ("hello world", "dog", "the dog ran", "cat sat")


@pytest.fixture(scope="module")
def engine(tiny_encoder: Path) -> Iterator[Engine]:
    engine = Engine(tiny_encoder, EngineOptions(threads=1, queue_limit=3))
    yield engine
    engine.close()


@pytest.fixture
def queue(engine: Engine) -> Iterator[EmbeddingQueue]:
    queue = EmbeddingQueue(engine, clock=lambda: 5.0)
    yield queue
    queue.close()


def job(
    name: str, sizes: list[int], *, tenant: str = "a", weight: float = 1.0, deadline: float | None = None
) -> Prepared:
    request = Request(task="embedding", id=name, tenant=tenant, weight=weight, deadline=deadline)
    inputs = tuple([2, *([5 + i % 7] * (size - 2)), 3] for i, size in enumerate(sizes))
    return Prepared(request=request, arrived=0.0, tokens=[], max_tokens=0, sampling=Sampling(), inputs=inputs)


def vectors(events: list[Any]) -> list[tuple[str, int]]:
    """Which texts were computed: request and place."""
    return [(name, c.index) for name, c in events if isinstance(c, Chunk) and c.embedding is not None]


def test_texts_of_several_requests_share_a_batch(queue: EmbeddingQueue) -> None:
    for name in ("x", "y", "z"):
        queue.submit(job(name, [5, 6]))
    events = queue.step(1.0)
    assert sorted(vectors(events)) == [(n, i) for n in "xyz" for i in (0, 1)]
    assert queue.idle
    ends = {name: c for name, c in events if isinstance(c, Chunk) and c.finish_reason is not None}
    assert set(ends) == {"x", "y", "z"}
    assert ends["x"].usage is not None
    assert ends["x"].usage.prompt_tokens == 11
    assert ends["x"].timings is not None
    assert ends["x"].timings.queue_s == 1.0


def test_a_text_has_the_same_vector_whatever_stands_beside_it(queue: EmbeddingQueue) -> None:
    queue.submit(job("alone", [9]))
    (alone,) = [c.embedding for _, c in queue.step(1.0) if isinstance(c, Chunk) and c.embedding]
    queue.submit(job("x", [40, 5]))
    queue.submit(job("y", [9], tenant="b"))
    together = {name: c.embedding for name, c in queue.step(1.0) if isinstance(c, Chunk) and c.embedding}
    assert together["y"] == pytest.approx(alone, abs=1e-5)
    assert math.isclose(sum(v * v for v in alone), 1.0, abs_tol=1e-6)


def test_while_streams_run_a_batch_stays_small(queue: EmbeddingQueue) -> None:
    queue.submit(job("long", [60] * 12))
    while not queue.idle:
        done = vectors(queue.step(1.0, busy=True))
        assert 0 < len(done) * 60 <= BUSY_TOKENS
    queue.submit(job("long", [60] * 12))
    assert len(vectors(queue.step(1.0))) == 12


def test_tenants_take_turns_by_tokens_and_weight(queue: EmbeddingQueue) -> None:
    queue.submit(job("bulk", [60] * 30, tenant="bulk"))
    queue.step(1.0, busy=True)
    queue.submit(job("small", [10], tenant="small"))
    assert ("small", 0) in vectors(queue.step(1.0, busy=True))
    queue.submit(job("heavy", [60] * 30, tenant="heavy", weight=3.0))
    counts = {"bulk": 0, "heavy": 0}
    for _ in range(4):
        for name, _ in vectors(queue.step(1.0, busy=True)):
            counts[name] += 1
    assert counts == {"bulk": 4, "heavy": 12}


def test_a_tenant_that_was_away_has_earned_nothing(queue: EmbeddingQueue) -> None:
    queue.submit(job("one", [60] * 8, tenant="a"))
    queue.step(1.0, busy=True)
    queue.submit(job("two", [60] * 8, tenant="b"))
    names = [name for name, _ in vectors(queue.step(1.0, busy=True))]
    assert sorted(names) == ["one", "one", "two", "two"]


def test_what_is_late_or_cancelled_is_not_computed(queue: EmbeddingQueue) -> None:
    queue.submit(job("late", [5], deadline=0.5))
    queue.submit(job("gone", [5]))
    queue.submit(job("fine", [5], deadline=9.0))
    queue.cancel("gone")
    queue.cancel("never was")
    events = queue.step(1.0)
    assert vectors(events) == [("fine", 0)]
    ((name, error),) = [e for e in events if not isinstance(e[1], Chunk)]
    assert name == "late"
    assert isinstance(error, DeadlineExceeded)
    assert queue.idle
    assert queue.step(1.0) == []


def test_a_full_queue_names_a_time_to_come_back(queue: EmbeddingQueue) -> None:
    for i in range(4):
        queue.submit(job(str(i), [5]))
    assert (queue.waiting, queue.waiting_tokens) == (4, 20)
    with pytest.raises(Overloaded) as caught:
        queue.submit(job("more", [5]))
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(2, 64), min_size=1, max_size=9)), min_size=1, max_size=4
    ),
    st.booleans(),
    st.data(),
)
def test_every_text_is_computed_once_and_every_request_ends_once(
    tiny_encoder: Path, requests: list[tuple[str, list[int]]], busy: bool, data: st.DataObject
) -> None:
    engine = _engine(tiny_encoder)
    queue = EmbeddingQueue(engine, clock=lambda: 1.0)
    for i, (tenant, sizes) in enumerate(requests):
        queue.submit(job(str(i), sizes, tenant=tenant, weight=data.draw(st.sampled_from([0.01, 1.0, 100.0]))))
    events: list[Any] = []
    for _ in range(sum(len(sizes) for _, sizes in requests)):
        events += queue.step(1.0, busy)
    assert queue.idle
    assert sorted(vectors(events)) == sorted((str(i), j) for i, (_, s) in enumerate(requests) for j in range(len(s)))
    ends = [name for name, c in events if c.finish_reason is not None]
    assert sorted(ends) == sorted(str(i) for i in range(len(requests)))
    queue.close()


_ENGINES: dict[Path, Engine] = {}


def _engine(path: Path) -> Engine:
    """One engine for all of a property's examples."""
    if path not in _ENGINES:
        _ENGINES[path] = Engine(path, EngineOptions(threads=1))
    return _ENGINES[path]


@pytest.fixture(scope="module")
def model() -> Any:
    return torch_ranker()


@pytest.fixture(scope="module")
def ranker(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ranker(tmp_path_factory.mktemp("ranker") / "ranker.gguf", model)


def test_scores_are_those_of_transformers(model: Any, ranker: Path) -> None:
    async def run() -> dict[int, float]:
        backend = LocalBackend(ranker, options=EngineOptions(threads=1))
        chunks = [c async for c in backend.stream(Request(task="rerank", query=QUERY, inputs=DOCUMENTS))]
        await backend.close()
        last = chunks[-1]
        assert last.usage is not None
        assert last.usage.prompt_tokens == sum(3 + len(f"{QUERY} {d}".split()) for d in DOCUMENTS)
        return {c.index: c.score for c in chunks if c.score is not None}

    scores = asyncio.run(run())
    expected = [torch_score(model, QUERY.split(), d.split()) for d in DOCUMENTS]
    # llama.cpp looks GELU up in a table of half precision.
    assert [scores[i] for i in range(len(DOCUMENTS))] == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(task="embedding", inputs=("hello",)), "only ranks"),
        (Request(task="chat", messages=({"role": "user", "content": "hi"},)), "writes no answers"),
        (Request(task="rerank", query="", inputs=("hello",)), "query is empty"),
        (Request(task="rerank", query="hello", inputs=()), "at least one text"),
        (Request(task="rerank", query="hello", inputs=("hello", "")), "none may be empty"),
    ],
)
def test_a_ranker_says_what_it_cannot_do(ranker: Path, request_: Request, said: str) -> None:
    async def run() -> None:
        backend = LocalBackend(ranker, options=EngineOptions(threads=1))
        with pytest.raises(BadRequest, match=said):
            await collect(backend, request_)
        await backend.close()

    asyncio.run(run())


def test_a_model_without_a_ranking_head_does_not_rank(tiny_encoder: Path) -> None:
    async def run() -> None:
        backend = LocalBackend(tiny_encoder, options=EngineOptions(threads=1))
        with pytest.raises(BadRequest, match="does not rank"):
            await collect(backend, Request(task="rerank", query="hello", inputs=("world",)))
        await backend.close()

    asyncio.run(run())


def test_a_pair_longer_than_the_context_names_both_numbers(ranker: Path) -> None:
    async def run() -> None:
        backend = LocalBackend(ranker, options=EngineOptions(threads=1))
        with pytest.raises(ContextExceeded) as caught:
            await collect(backend, Request(task="rerank", query=QUERY, inputs=("dog", "dog " * 100)))
        assert (caught.value.prompt_tokens, caught.value.context_tokens) == (105, 64)
        await backend.close()

    asyncio.run(run())
