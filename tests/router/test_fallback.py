"""The owner of retries: who is asked, how often, how long it waits, and when it stops."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from foreshore.backend import collect
from foreshore.clearance import grant
from foreshore.config import TargetConfig
from foreshore.errors import (
    BadRequest,
    ContextExceeded,
    DeadlineExceeded,
    ForeshoreError,
    ModelError,
    Overloaded,
    RoutingError,
    Unavailable,
    UpstreamError,
)
from foreshore.router.breaker import Breaker
from foreshore.router.fallback import Fallback
from foreshore.router.target import Target
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, Request

DOWN = Unavailable("down", target="a")


def ask(*targets: str, **fields: Any) -> Request:
    return grant(Request(messages=({"role": "user", "content": "hi"},), **fields), targets)


class Run:
    """A fallback over fakes; `waits` has every pause it wanted to make."""

    def __init__(self, scripts: dict[str, Any], **options: Any) -> None:
        self.waits: list[float] = []
        self.fakes = [FakeBackend(script, name=name) for name, script in scripts.items()]
        self.fallback = Fallback(self.fakes, sleep=self.sleep, **options)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def answer(self, request: Request | None = None) -> str:
        request = request or ask(*(f.name for f in self.fakes))
        return asyncio.run(collect(self.fallback, request)).text

    def error(self, request: Request | None = None) -> ForeshoreError:
        with pytest.raises(ForeshoreError) as caught:
            self.answer(request)
        return caught.value

    @property
    def asked(self) -> list[int]:
        return [len(f.requests) for f in self.fakes]


def test_the_first_that_answers_answers() -> None:
    run = Run({"a": [DOWN], "b": "from b", "c": "from c"})
    assert run.answer() == "from b"
    assert run.asked == [1, 1, 0]
    assert run.fallback.committed == "b"


def test_attempts_are_budgeted_over_all_targets() -> None:
    run = Run({"a": [DOWN], "b": [DOWN]}, attempts=3)
    assert isinstance(run.error(), Unavailable)
    assert run.asked == [2, 1]
    assert len(run.waits) == 1


def test_it_waits_as_long_as_the_target_asks() -> None:
    run = Run({"a": [Overloaded("full", target="a", retry_after=3.0)]}, attempts=2)
    assert isinstance(run.error(), Overloaded)
    assert run.waits == [3.0]


def test_it_does_not_wait_longer_than_the_deadline_or_ten_seconds() -> None:
    slow = Overloaded("full", target="a", retry_after=3.0)
    run = Run({"a": [slow]})
    assert run.error(ask("a", deadline=time.monotonic() + 1)) is slow
    assert run.waits == []
    assert Run({"a": [Overloaded("full", target="a", retry_after=60.0)]}).error().retry_after == 60.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "error", [BadRequest("no"), DeadlineExceeded("late", target="a"), RoutingError("no", reasons={})]
)
def test_what_no_other_target_can_mend_is_raised_at_once(error: ForeshoreError) -> None:
    run = Run({"a": [error], "b": "from b"})
    assert run.error() is error
    assert run.asked == [1, 0]


def test_a_broken_answer_is_not_repeated_by_the_same_target_but_another_may_try() -> None:
    broken = UpstreamError("odd", target="a")
    assert Run({"a": [broken], "b": "from b"}).answer() == "from b"
    alone = Run({"a": [broken]}, attempts=5)
    assert alone.error() is broken
    assert alone.asked == [1]


def test_a_target_whose_context_is_too_small_is_passed_over() -> None:
    small = ContextExceeded(prompt_tokens=9, context_tokens=5)
    assert Run({"a": [small], "b": "from b"}).answer() == "from b"
    assert Run({"a": [small]}).error() is small


def test_after_the_commit_point_nobody_takes_over() -> None:
    run = Run({"a": [Chunk(text="part"), DOWN], "b": "from b"})
    assert run.error() is DOWN
    assert run.asked == [1, 0]


def test_a_target_outside_the_clearance_is_never_asked() -> None:
    run = Run({"a": [DOWN], "b": "from b"})
    assert isinstance(run.error(ask("a")), RoutingError)
    assert run.asked == [1, 0]


def test_an_expired_request_is_never_started() -> None:
    run = Run({"a": "from a"})
    assert isinstance(run.error(ask("a", deadline=time.monotonic() - 1)), DeadlineExceeded)
    assert run.asked == [0]


def test_an_answer_ends_when_its_time_is_up_and_its_caller_goes_on() -> None:
    async def main() -> None:
        scripts: tuple[list[Chunk | asyncio.Event], ...] = ([asyncio.Event()], [Chunk(text="part"), asyncio.Event()])
        for script in scripts:
            fake = FakeBackend(script, name="a")
            with pytest.raises(DeadlineExceeded, match="'a'"):
                await collect(Fallback([fake]), ask("a", deadline=time.monotonic() + 0.05))
            assert fake.cancelled == 1
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0

    asyncio.run(main())


def test_who_is_cancelled_before_the_deadline_is_cancelled() -> None:
    async def main() -> None:
        fake = FakeBackend([Chunk(text="part"), asyncio.Event()], name="a")
        seen = asyncio.Event()

        async def read() -> None:
            async for _ in Fallback([fake]).stream(ask("a", deadline=time.monotonic() + 60)):
                seen.set()

        task = asyncio.create_task(read())
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fake.cancelled == 1

    asyncio.run(main())


def test_a_deadline_that_passes_between_two_chunks_is_noticed() -> None:
    async def main() -> None:
        fake = FakeBackend([Chunk(text="one"), Chunk(text="two")], name="a")
        deadline = time.monotonic() + 0.05
        stream = Fallback([fake]).stream(ask("a", deadline=deadline))
        assert (await anext(stream)).text == "one"
        while time.monotonic() <= deadline:
            pass
        with pytest.raises(DeadlineExceeded):
            await anext(stream)
        assert fake.cancelled == 1

    asyncio.run(main())


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_breaker_opens_probes_once_and_closes() -> None:
    clock = Clock()
    breaker = Breaker(threshold=3, wait=5.0, clock=clock)
    for _ in range(3):
        assert breaker.admit()
        breaker.fail()
    assert breaker.state == "open"
    assert not breaker.admit()
    assert breaker.retry_after == 5.0
    clock.now += 5.0
    assert breaker.retry_after == 0.0
    assert [breaker.admit(), breaker.admit(), breaker.admit()] == [True, False, False]
    breaker.release()  # the probe's client left: no verdict, so the next may probe
    assert breaker.admit()
    breaker.fail()
    assert breaker.retry_after == 10.0
    clock.now += 10.0
    assert breaker.admit()
    breaker.succeed()
    assert [breaker.admit(), breaker.admit()] == [True, True]


def test_a_later_hold_wins_over_an_earlier_one() -> None:
    clock = Clock()
    breaker = Breaker(clock=clock)
    breaker.hold(20.0)
    breaker.hold(5.0)
    assert breaker.retry_after == 20.0


LOCAL = TargetConfig(kind="local", model="x")
CLOUD = TargetConfig(kind="openai", model="x", base_url="http://127.0.0.1:9")


def outcome(spec: TargetConfig, *scripts: Any) -> tuple[Target, list[str]]:
    """A target, and what each script in turn came to."""

    async def run() -> tuple[Target, list[str]]:
        fake = FakeBackend(name="t")
        target = Target("t", spec, fake)
        seen = []
        for script in scripts:
            fake.script = FakeBackend(script).script
            try:
                await collect(target, ask("t"))
                seen.append("ok")
            except ForeshoreError as error:
                seen.append(error.code)
        await target.close()
        return target, seen

    return asyncio.run(run())


def test_a_target_rests_after_failures_in_a_row_and_not_after_refusals() -> None:
    target, seen = outcome(CLOUD, [DOWN], [DOWN], "fine", [DOWN], [DOWN], [DOWN], "fine")
    assert seen == ["unavailable"] * 2 + ["ok"] + ["unavailable"] * 4
    assert target.state == "resting"
    target, _ = outcome(CLOUD, *[[BadRequest("no")]] * 9)
    assert target.state == "ready"


def test_only_a_clouds_full_queue_rests_it() -> None:
    full = [Overloaded("full", target="t", retry_after=9.0)]
    assert outcome(CLOUD, full)[0].state == "resting"
    assert outcome(LOCAL, full)[0].state == "ready"


def test_a_damaged_model_is_the_targets_trouble_not_the_callers() -> None:
    assert outcome(LOCAL, [ModelError("not a GGUF")])[1] == ["unavailable"]


def test_the_meter_learns_from_whole_answers_alone() -> None:
    target, _ = outcome(LOCAL, "a whole answer", [Chunk(text="part"), DOWN])
    assert target.meter.first_token_s == 0.02
    assert target.meter.answer_tokens == 4
