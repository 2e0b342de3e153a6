"""For tests, ours and yours: a `Backend` that follows a script, and the contract every `Backend` must keep.

backend = FakeBackend([Chunk(text="Hi"), Chunk(finish_reason="stop", usage=Usage(...))])

@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_my_backend_keeps_the_contract(check):
    asyncio.run(check(lambda: MyBackend(...)))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import Any

from foreshore.backend import Backend, collect
from foreshore.errors import BackendError, Unavailable
from foreshore.types import Chunk, Request, Sampling, Timings, Usage

__all__ = ["CONTRACT", "Check", "FakeBackend", "chunks_of"]

Step = Chunk | BaseException | asyncio.Event
Check = Callable[[Callable[[], Backend]], Coroutine[Any, Any, None]]
PATIENCE_S = 60.0


def chunks_of(text: str, *, size: int = 4) -> list[Chunk]:
    """A whole answer: `text` in pieces of `size` characters, then the finish with plausible numbers."""
    pieces = [Chunk(text=text[i : i + size]) for i in range(0, len(text), size)]
    usage = Usage(prompt_tokens=8, completion_tokens=len(pieces))
    timings = Timings(
        prefill_s=0.01, prefill_tokens=8, ttft_s=0.02, decode_s=0.01 * len(pieces), decode_tokens=len(pieces)
    )
    return [*pieces, Chunk(finish_reason="stop", usage=usage, timings=timings)]


class FakeBackend:
    """Yields chunks, raises errors and waits for events, in the order of `script`; a string stands for its chunks.

    Each stream plays the whole script anew. `requests` has what was asked, `cancelled` counts streams left early.
    """

    def __init__(self, script: str | Iterable[Step] = "ok", *, name: str = "fake") -> None:
        self.name = name
        self.script: list[Step] = list(chunks_of(script)) if isinstance(script, str) else list(script)
        self.requests: list[Request] = []
        self.cancelled = 0
        self.running = 0
        self.closed = False

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        if self.closed:
            raise Unavailable(f"target {self.name!r} was closed", target=self.name, retryable=False)
        self.requests.append(request)
        self.running += 1
        ended = False
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, BaseException):
                    ended = True
                    raise step
                else:
                    ended = step.finish_reason is not None
                    yield step
            ended = True
        finally:
            self.running -= 1
            self.cancelled += not ended

    async def close(self) -> None:
        self.closed = True


def _ask(text: str = "Say hello.", **sampling: Any) -> Request:
    options = {"max_tokens": 8, "temperature": 0.0, **sampling}
    return Request(messages=({"role": "user", "content": text},), sampling=Sampling(**options))


async def _first(stream: AsyncIterator[Chunk]) -> Chunk:
    return await anext(stream)


async def it_has_a_name_and_is_a_backend(make: Callable[[], Backend]) -> None:
    backend = make()
    assert isinstance(backend, Backend)
    assert backend.name
    await backend.close()


async def nothing_happens_before_the_first_chunk_is_asked_for(make: Callable[[], Backend]) -> None:
    backend = make()
    await backend.close()
    stream = backend.stream(_ask())  # a closed backend refuses, but not before it is asked
    refusal = (await asyncio.gather(_first(stream), return_exceptions=True))[0]
    assert isinstance(refusal, BackendError), f"a closed backend gave {refusal!r}"
    assert refusal.target == backend.name, f"the error names target {refusal.target!r}"


async def only_the_last_chunk_finishes_and_it_has_usage(make: Callable[[], Backend]) -> None:
    backend = make()
    chunks = [chunk async for chunk in backend.stream(_ask())]
    assert chunks, "no chunk came"
    assert [c.finish_reason is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage is not None
    await backend.close()


async def collecting_equals_streaming(make: Callable[[], Backend]) -> None:
    backend = make()
    streamed = [chunk async for chunk in backend.stream(_ask())]
    answer = await collect(backend, _ask())
    assert answer.text == "".join(c.text for c in streamed)
    assert answer.finish_reason == streamed[-1].finish_reason
    await backend.close()


async def streams_run_side_by_side(make: Callable[[], Backend]) -> None:
    backend = make()
    async with asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(*(collect(backend, _ask()) for _ in range(6)))
    assert len({a.text for a in answers}) == 1, "the same greedy request gave different answers"
    await backend.close()


async def leaving_early_is_harmless_and_the_next_request_works(make: Callable[[], Backend]) -> None:
    backend = make()
    async with aclosing(backend.stream(_ask())) as stream:  # type: ignore[type-var]
        async for _ in stream:
            break
    async with asyncio.timeout(PATIENCE_S):
        assert (await collect(backend, _ask())).finish_reason is not None
    await backend.close()


async def a_cancelled_task_ends_at_once_and_the_next_request_works(make: Callable[[], Backend]) -> None:
    backend = make()
    await collect(backend, _ask())
    task = asyncio.create_task(collect(backend, _ask(max_tokens=64)))
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.wait([task])
        assert task.cancelled() or task.result().finish_reason is not None  # it may have been faster
        assert (await collect(backend, _ask())).finish_reason is not None
    await backend.close()


async def closing_twice_is_harmless(make: Callable[[], Backend]) -> None:
    backend = make()
    await collect(backend, _ask())
    await backend.close()
    await backend.close()


CONTRACT: tuple[Check, ...] = (
    it_has_a_name_and_is_a_backend,
    nothing_happens_before_the_first_chunk_is_asked_for,
    only_the_last_chunk_finishes_and_it_has_usage,
    collecting_equals_streaming,
    streams_run_side_by_side,
    leaving_early_is_harmless_and_the_next_request_works,
    a_cancelled_task_ends_at_once_and_the_next_request_works,
    closing_twice_is_harmless,
)
