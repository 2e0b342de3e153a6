"""The cascade: whose answer the caller gets, what it sees of it, and what is recorded."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.backend import Answer, Backend, collect
from foreshore.clearance import grant
from foreshore.errors import (
    BadRequest,
    DeadlineExceeded,
    ForeshoreError,
    Overloaded,
    RoutingError,
    Unavailable,
    UpstreamError,
)
from foreshore.quality.confidence import Confidence
from foreshore.router.cascade import Cascade
from foreshore.router.choices import Choices
from foreshore.testing import CONTRACT, Check, FakeBackend
from foreshore.types import Chunk, Request, Sampling, TokenLogprob, Usage

DOWN = Unavailable("down", target="cloud")
SPENT = Usage(prompt_tokens=10, completion_tokens=2)


def token(share: float) -> TokenLogprob:
    best = TokenLogprob(token="x", bytes=b"x", logprob=math.log(share))
    other = TokenLogprob(token="y", bytes=b"y", logprob=math.log(max(1 - share, 1e-9)))
    return TokenLogprob(token="x", bytes=b"x", logprob=best.logprob, top=(best, other))


def says(text: str, share: float | None) -> list[Chunk]:
    """A whole answer of two tokens of probability `share`; None: without log-probabilities."""
    entry = () if share is None else (token(share),)
    return [
        Chunk(text=text[:2], logprobs=entry),
        Chunk(text=text[2:], logprobs=entry),
        Chunk(finish_reason="stop", usage=SPENT),
    ]


class Run:
    """A cascade over fakes, its threshold 0.8, its confidence the mean probability of a token."""

    def __init__(self, scripts: dict[str, Any], **options: Any) -> None:
        self.waits: list[float] = []
        self.fakes = [FakeBackend(script, name=name) for name, script in scripts.items()]
        options = {"threshold": 0.8, "confidence": Confidence.default(), **options}
        self.cascade = Cascade(self.fakes, sleep=self.sleep, **options)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def request(self, **fields: Any) -> Request:
        targets = [fake.name for fake in self.fakes]
        return grant(Request(messages=({"role": "user", "content": "hi"},), **fields), targets)

    def collect(self, **fields: Any) -> Answer:
        return asyncio.run(collect(self.cascade, self.request(**fields)))

    def error(self, **fields: Any) -> ForeshoreError:
        with pytest.raises(ForeshoreError) as caught:
            self.collect(**fields)
        return caught.value

    @property
    def asked(self) -> list[int]:
        return [len(fake.requests) for fake in self.fakes]

    @property
    def attempts(self) -> list[tuple[str, str]]:
        return [(a.target, a.error) for a in self.cascade.attempts]


def test_an_answer_that_inspires_confidence_is_passed_on() -> None:
    run = Run({"edge": says("from edge", 0.9), "cloud": "from cloud"})
    assert run.collect().text == "from edge"
    assert run.asked == [1, 0]
    assert run.cascade.committed == "edge"
    (attempt,) = run.cascade.attempts
    assert attempt.error == ""
    assert attempt.confidence == pytest.approx(0.9)


def test_one_that_does_not_is_thrown_away_and_its_tokens_are_counted() -> None:
    run = Run({"edge": says("from edge", 0.5), "cloud": "from cloud"})
    assert run.collect().text == "from cloud"
    assert run.cascade.committed == "cloud"
    assert run.attempts == [("edge", "low_confidence"), ("cloud", "")]
    thrown, kept = run.cascade.attempts
    assert (thrown.prompt_tokens, thrown.completion_tokens) == (10, 2)
    assert thrown.confidence == pytest.approx(0.5)
    assert (kept.prompt_tokens, kept.confidence) == (8, None)


def test_the_last_target_streams_as_it_comes() -> None:
    gate = asyncio.Event()
    run = Run({"edge": says("no", 0.1), "cloud": [Chunk(text="first"), gate, Chunk(finish_reason="stop")]})

    async def first() -> str:
        stream = run.cascade.stream(run.request())
        async for chunk in stream:
            gate.set()
            return chunk.text
        return ""

    assert asyncio.run(first()) == "first"


def test_the_caller_sees_no_log_probabilities_that_it_did_not_ask_for() -> None:
    run = Run({"edge": says("from edge", 0.9), "cloud": ""})
    assert run.collect().logprobs == ()
    assert run.fakes[0].requests[0].sampling.logprobs == 5


@pytest.mark.parametrize(("asked", "sent", "shown"), [(0, 5, 0), (1, 5, 1), (9, 9, 2)])
def test_the_caller_sees_those_that_it_did_ask_for(asked: int, sent: int, shown: int) -> None:
    run = Run({"edge": says("from edge", 0.9), "cloud": ""})
    answer = run.collect(sampling=Sampling(logprobs=asked))
    assert [len(entry.top) for entry in answer.logprobs] == [shown, shown]
    assert run.fakes[0].requests[0].sampling.logprobs == sent
    low = Run({"edge": says("from edge", 0.1), "cloud": [DOWN]})
    assert [len(e.top) for e in low.collect(sampling=Sampling(logprobs=asked)).logprobs] == [shown, shown]


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        UpstreamError("odd", target="cloud"),
        BadRequest("no"),
        DeadlineExceeded("late", target="cloud"),
        Overloaded("full", target="cloud", retry_after=1.0),
    ],
)
def test_where_the_next_fails_the_answer_held_back_is_passed_on(error: ForeshoreError) -> None:
    run = Run({"edge": says("from edge", 0.5), "cloud": [error]})
    answer = run.collect()
    assert (answer.text, answer.usage, answer.logprobs) == ("from edge", SPENT, ())
    assert run.cascade.committed == "edge"
    assert run.attempts == [("edge", "low_confidence"), ("cloud", error.code)]
    assert run.waits == [], "nobody waits while an answer is at hand"


def test_after_the_next_ones_first_content_there_is_no_way_back() -> None:
    run = Run({"edge": says("from edge", 0.5), "cloud": [Chunk(text="part"), DOWN]})
    assert run.error() is DOWN
    assert run.cascade.committed == "cloud"


def test_of_several_held_back_the_surest_is_passed_on() -> None:
    scripts = {"a": says("a", 0.3), "b": says("bb", 0.6), "c": [DOWN]}
    run = Run(scripts)
    assert run.collect().text == "bb"
    assert run.attempts == [("a", "low_confidence"), ("b", "low_confidence"), ("c", "unavailable")]
    assert Run({**scripts, "b": says("bb", 0.9)}).collect().text == "bb"
    assert Run({**scripts, "c": "from c"}).collect().text == "from c"


def test_a_deadline_without_room_for_the_next_target_is_met_with_the_answer_at_hand() -> None:
    scripts = {"edge": says("from edge", 0.5), "cloud": "from cloud"}
    soon = time.monotonic() + 60
    run = Run(scripts, expected={"cloud": 90.0})
    assert run.collect(deadline=soon).text == "from edge"
    assert run.asked == [1, 0]
    assert [a.note for a in run.cascade.attempts] == ["", "not asked: no time is left for it"]
    assert Run(scripts, expected={"cloud": 1.0}).collect(deadline=soon).text == "from cloud"


def test_a_deadline_that_passes_meanwhile_is_met_with_the_answer_at_hand() -> None:
    run = Run({"edge": says("from edge", 0.5), "cloud": [asyncio.Event()]})
    assert run.collect(deadline=time.monotonic() + 1.5).text == "from edge"
    assert run.attempts[-1] == ("cloud", "deadline_exceeded")


@pytest.mark.parametrize("task", ["chat", "embedding"])
def test_an_answer_without_log_probabilities_is_kept_and_says_so(task: Any) -> None:
    script: Any = says("from edge", None)
    if task == "embedding":
        script = [Chunk(embedding=(1.0,), finish_reason="stop")]
    run = Run({"edge": script, "cloud": "from cloud"})
    run.collect(task=task)
    (attempt,) = run.cascade.attempts
    assert (attempt.target, attempt.error, attempt.confidence) == ("edge", "", None)
    assert attempt.note == "kept unjudged: it came without log-probabilities"


def test_an_empty_answer_inspires_no_confidence() -> None:
    run = Run({"edge": [Chunk(finish_reason="stop", usage=SPENT)], "cloud": "from cloud"})
    assert run.collect().text == "from cloud"
    assert run.cascade.attempts[0].confidence == 0.0


def test_a_server_that_refuses_log_probabilities_is_passed_over() -> None:
    run = Run({"edge": [BadRequest("logprobs are not supported")], "cloud": "from cloud"})
    assert run.collect().text == "from cloud"
    both = Run({"edge": [BadRequest("bad")], "cloud": [BadRequest("bad")]})
    assert isinstance(both.error(), BadRequest)


def test_a_first_target_that_is_down_is_passed_over_and_rounds_go_on_as_in_a_fallback() -> None:
    assert Run({"edge": [DOWN], "cloud": "from cloud"}).collect().text == "from cloud"
    run = Run({"edge": [DOWN], "cloud": [DOWN]}, attempts=4)
    assert run.error() is DOWN
    assert run.asked == [2, 2]
    assert len(run.waits) == 1


def test_a_broken_answer_is_not_judged() -> None:
    run = Run({"edge": [Chunk(text="part", logprobs=(token(0.99),))], "cloud": "from cloud"})
    assert run.collect().text == "from cloud"
    assert run.attempts == [("edge", "truncated"), ("cloud", "")]


def test_a_target_outside_the_clearance_is_never_asked() -> None:
    run = Run({"edge": says("from edge", 0.5), "cloud": "from cloud"})
    request = grant(Request(messages=({"role": "user", "content": "hi"},)), ["edge"])
    assert asyncio.run(collect(run.cascade, request)).text == "from edge"
    assert run.asked == [1, 0]
    first = Run({"edge": says("from edge", 0.5), "cloud": "from cloud"})
    with pytest.raises(RoutingError):
        asyncio.run(collect(first.cascade, grant(Request(), ["cloud"])))


def test_each_target_may_have_a_confidence_of_its_own() -> None:
    sure = Confidence(
        mean=(0.0,) * 14, scale=(1.0,) * 14, weights=(0.0,) * 14, scores=(0.0,), shares=(0.95,), calibrated=True
    )
    scripts = {"edge": says("from edge", 0.1), "cloud": "from cloud"}
    assert Run(scripts, confidence={"edge": sure}).collect().text == "from edge"
    assert Run(scripts, confidence={"cloud": sure}).collect().text == "from cloud"


def test_several_choices_are_as_sure_as_the_least_sure() -> None:
    edge = FakeBackend(says("from edge", 0.9), name="edge")
    odd = FakeBackend(says("from edge", None), name="edge")

    def committed(fake: FakeBackend) -> tuple[str, float | None]:
        cascade = Cascade(
            [Choices(fake, 2), FakeBackend("from cloud", name="cloud")], threshold=0.8, confidence=Confidence.default()
        )
        request = grant(Request(messages=({"role": "user", "content": "hi"},)), ["edge", "cloud"])

        async def whole() -> list[Chunk]:
            return [chunk async for chunk in cascade.stream(request)]

        chunks = asyncio.run(whole())
        assert {chunk.index for chunk in chunks} == {0, 1}
        return cascade.committed, cascade.attempts[0].confidence

    assert committed(edge)[1] == pytest.approx(0.9)
    assert committed(odd) == ("edge", None)


OUTCOMES = st.lists(st.sampled_from(["broken", "unjudged"]) | st.floats(0.05, 0.95), min_size=1, max_size=5)


def expected(outcomes: list[str | float]) -> int | None:
    """Whose answer the caller should get: a target's number, or None for an error."""
    held: list[tuple[float, int]] = []
    for number, outcome in enumerate(outcomes):
        if outcome == "broken":
            continue
        if isinstance(outcome, str) or outcome >= 0.8 or number == len(outcomes) - 1:
            return number
        held.append((outcome, -number))
    return -max(held)[1] if held else None


@settings(max_examples=80, deadline=None)
@given(OUTCOMES)
def test_the_first_good_answer_wins_else_the_surest(outcomes: list[str | float]) -> None:
    broken = UpstreamError("odd", target="x")
    scripts = {
        f"t{n}": [broken] if o == "broken" else says(f"from {n}", None if isinstance(o, str) else o)
        for n, o in enumerate(outcomes)
    }
    run, wanted = Run(scripts, attempts=10), expected(outcomes)
    if wanted is None:
        assert run.error() is broken
    else:
        assert run.collect().text == f"from {wanted}"
        assert run.cascade.committed == f"t{wanted}"
    assert max(run.asked) == 1
    assert [a.target for a in run.cascade.attempts] == [f"t{n}" for n in range(sum(run.asked))]


class Cleared:
    """A cascade as an app would hold it: every request is cleared, and each has a cascade of its own."""

    name = "edge"

    def __init__(self) -> None:
        self.edge, self.cloud = FakeBackend(says("from edge", 0.9), name="edge"), FakeBackend(name="cloud")

    async def stream(self, request: Request) -> Any:
        cascade = Cascade([self.edge, self.cloud], threshold=0.5, confidence=Confidence.default())
        async for chunk in cascade.stream(grant(request, ["edge", "cloud"])):
            yield chunk

    async def close(self) -> None:
        await Cascade([self.edge, self.cloud], threshold=0.5, confidence=Confidence.default()).close()


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_it_keeps_the_contract_of_backends(check: Check) -> None:
    make: Callable[[], Backend] = Cleared
    asyncio.run(check(make))
