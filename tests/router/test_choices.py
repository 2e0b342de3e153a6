"""Several choices of one answer: told apart, counted once, and ended together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import openai
import pytest

from foreshore.errors import Truncated, Unavailable
from foreshore.reliability.ledger import read_events
from foreshore.router.choices import Choices
from foreshore.testing import CONTRACT, Check, FakeBackend
from foreshore.types import Chunk, Request, Sampling, Timings, Usage
from tests.router.serving import PATIENCE_S, TWO_TARGETS, Served, config_of, serving

HI: Any = [{"role": "user", "content": "hi"}]


class Counting:
    """Answers each stream with its seed, and waits before the end where it is told to."""

    name = "edge"

    def __init__(self, *, hang: bool = False) -> None:
        self.hang, self.running, self.ids = hang, 0, list[str]()

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        self.ids.append(request.id)
        self.running += 1
        try:
            yield Chunk(text=f"seed {request.sampling.seed}")
            if self.hang:
                await asyncio.Event().wait()
            usage = Usage(prompt_tokens=8, completion_tokens=3, cached_tokens=len(self.ids), reasoning_tokens=1)
            timings = Timings(ttft_s=0.1, decode_s=0.2, decode_tokens=3, prefill_tokens=8, gaps=(1, 2))
            yield Chunk(finish_reason="stop", usage=usage, timings=timings)
        finally:
            self.running -= 1

    async def close(self) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(config_of(TWO_TARGETS, tmp_path / "l.sqlite"), {"edge": Counting(), "cloud": Counting()}) as found:
        yield found


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_one_choice_keeps_the_contract(check: Check) -> None:
    asyncio.run(check(lambda: Choices(FakeBackend("hello"), 1)))


@pytest.mark.parametrize("model", ["edge", "cloud"])
def test_a_whole_answer_has_all_choices_and_counts_the_prompt_once(served: Served, model: str) -> None:
    answer = served.openai().chat.completions.create(model=model, messages=HI, n=3, seed=7)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert [c.message.content for c in answer.choices] == ["seed 7", "seed 8", "seed 9"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (8, 9)
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 3
    assert answer.timings["decode_tokens"] == 9  # type: ignore[attr-defined]


def test_a_stream_tells_choices_apart_and_ends_with_one_usage(served: Served) -> None:
    chunks = list(
        served.openai().chat.completions.create(
            model="auto", messages=HI, n=3, seed=7, stream=True, stream_options={"include_usage": True}
        )
    )  # fmt: skip
    texts = dict.fromkeys(range(3), "")
    ends: list[int] = []
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.index] if choice.finish_reason else []
    assert texts == {0: "seed 7", 1: "seed 8", 2: "seed 9"}
    assert sorted(ends) == [0, 1, 2]
    assert [c.usage.completion_tokens for c in chunks if c.usage] == [9]
    assert chunks[-1].usage is not None


def test_completions_too(served: Served) -> None:
    answer = served.openai().completions.create(model="auto", prompt="Once", n=2, seed=1)
    assert [c.text for c in answer.choices] == ["seed 1", "seed 2"]
    with pytest.raises(openai.BadRequestError, match="best_of"):
        served.openai().completions.create(model="auto", prompt="Once", n=2, best_of=3)


def test_each_choice_is_a_request_of_its_own() -> None:
    backend = Counting()

    async def run() -> None:
        async for _ in Choices(backend, 4).stream(Request(id="r", sampling=Sampling(seed=1))):
            pass

    asyncio.run(run())
    assert sorted(backend.ids) == ["r-0", "r-1", "r-2", "r-3"]


def test_leaving_ends_all_choices() -> None:
    backend = Counting(hang=True)

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            async with aclosing(Choices(backend, 3).stream(Request())) as chunks:  # type: ignore[type-var]
                seen = 0
                async for _ in chunks:
                    seen += 1
                    if seen == 3:
                        break
            assert backend.running == 0

    asyncio.run(run())


@pytest.mark.parametrize("script", [[Unavailable("down", target="edge")], [Chunk(text="part")]])
def test_one_that_fails_ends_the_answer(script: list[Any]) -> None:
    class Second(Counting):
        async def stream(self, request: Request) -> AsyncIterator[Chunk]:
            source = FakeBackend(script).stream(request) if request.id.endswith("-1") else super().stream(request)
            async for chunk in source:
                yield chunk

    backend = Second(hang=True)

    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises((Unavailable, Truncated)):
                async for _ in Choices(backend, 3).stream(Request()):
                    pass
        assert backend.running == 0

    asyncio.run(run())


def test_before_the_commit_point_another_target_takes_over_for_all(tmp_path: Path) -> None:
    edge = FakeBackend([Unavailable("down", target="edge")], name="edge")
    ledger = tmp_path / "l.sqlite"
    with serving(config_of(TWO_TARGETS, ledger), {"edge": edge, "cloud": Counting()}) as served:
        answer = served.chat(n=2)
        assert answer.headers["x-foreshore-target"] == "cloud"
        assert len(answer.json()["choices"]) == 2
        assert served.router.ledger.flush(PATIENCE_S)
    (event,) = read_events(ledger)
    assert event["terminal_state"] == "complete"
