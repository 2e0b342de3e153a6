"""The one seam. Whatever can answer a request is a `Backend`: the local worker, a cloud provider,
a fake, and every composite of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from foreshore.errors import Truncated
from foreshore.types import Chunk, FinishReason, Request, Timings, TokenLogprob, Usage

__all__ = ["Answer", "Backend", "ToolCall", "collect"]


@runtime_checkable
class Backend(Protocol):
    """`stream` yields chunks; the last one has a `finish_reason`. `close` frees everything, twice is harmless.

    - Nothing happens before the first `__anext__`.
    - Closing the iterator (`aclose`, or leaving the task) cancels the work behind it within one step.
    - Failures are `BackendError`s that name the target; a request nobody could serve is a `BadRequest`.
    - A stream that ends without a finish reason is broken, whatever it yielded before.
    """

    name: str

    def stream(self, request: Request) -> AsyncIterator[Chunk]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    id: str
    name: str
    arguments: str  # JSON text, as the model wrote it


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A collected stream. `embeddings` is set for embedding requests only, in the order of the inputs."""

    text: str
    finish_reason: FinishReason
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    embeddings: tuple[tuple[float, ...], ...] = ()
    usage: Usage | None = None
    timings: Timings | None = None


async def collect(backend: Backend, request: Request) -> Answer:
    """The non-streamed answer: the stream, put together. Raises `Truncated` if it broke off."""
    chunks: list[Chunk] = []
    stream = backend.stream(request)
    async with aclosing(stream) as source:  # type: ignore[type-var]
        async for chunk in source:
            chunks.append(chunk)
    return join(chunks, target=backend.name)


def join(chunks: list[Chunk], *, target: str = "") -> Answer:
    """Put the chunks of one finished stream together."""
    if not chunks or chunks[-1].finish_reason is None:
        raise Truncated(f"target {target!r} ended its answer without a finish reason", target=target)
    last = chunks[-1]
    assert last.finish_reason is not None
    vectors = {c.index: c.embedding for c in chunks if c.embedding is not None}
    return Answer(
        text="".join(c.text for c in chunks),
        reasoning="".join(c.reasoning for c in chunks),
        tool_calls=_tool_calls(chunks),
        logprobs=tuple(lp for c in chunks for lp in c.logprobs),
        embeddings=tuple(vectors[i] for i in sorted(vectors)),
        finish_reason=last.finish_reason,
        usage=last.usage,
        timings=last.timings,
    )


def _tool_calls(chunks: list[Chunk]) -> tuple[ToolCall, ...]:
    parts: dict[int, tuple[str, str, str]] = {}
    for delta in (d for c in chunks for d in c.tool_calls):
        call_id, name, arguments = parts.get(delta.index, ("", "", ""))
        parts[delta.index] = (call_id or delta.id or "", name or delta.name or "", arguments + delta.arguments)
    return tuple(ToolCall(id=i, name=n, arguments=a) for _, (i, n, a) in sorted(parts.items()))
