"""The embeddable runtime: `AsyncRuntime`, and `Runtime` for code without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

from foreshore.backend import Answer, collect
from foreshore.edge.backend import LocalBackend
from foreshore.edge.loop_thread import LoopThread
from foreshore.edge.options import EngineOptions, Load, ModelInfo
from foreshore.edge.scoped import Scoped
from foreshore.errors import BadRequest
from foreshore.types import Chunk, Message, Request, Sampling

__all__ = ["AsyncRuntime", "Runtime"]

_SAMPLING = frozenset(f.name for f in fields(Sampling))
_CONTENT = {"task", "messages", "prompt", "inputs", "sampling", "clearance"}
_REQUEST = frozenset(f.name for f in fields(Request)) - _CONTENT


class AsyncRuntime:
    """One model on this machine. Options of a call are the fields of `Sampling` and those of `Request` (`tools`,
    `response_format`, `tenant`, `service_tier`, `deadline`, ...); a string stands for one user message."""

    def __init__(self, model: str | Path, *, options: EngineOptions | None = None) -> None:
        self.backend = LocalBackend(model, options=options)

    @property
    def info(self) -> ModelInfo | None:
        return self.backend.info

    def load(self) -> Load:
        return self.backend.load()

    async def start(self) -> ModelInfo:
        return await self.backend.start()

    async def chat(self, messages: str | Sequence[Message], **options: Any) -> Answer:
        return await collect(self.backend, chat_request(messages, options))

    def stream_chat(self, messages: str | Sequence[Message], **options: Any) -> AsyncIterator[Chunk]:
        return self.backend.stream(chat_request(messages, options))

    async def complete(self, prompt: str | Sequence[int], **options: Any) -> Answer:
        return await collect(self.backend, completion_request(prompt, options))

    def stream_complete(self, prompt: str | Sequence[int], **options: Any) -> AsyncIterator[Chunk]:
        return self.backend.stream(completion_request(prompt, options))

    async def embed(self, inputs: str | Sequence[str], **options: Any) -> tuple[tuple[float, ...], ...]:
        """One unit-length vector for each input."""
        return (await collect(self.backend, embedding_request(inputs, options))).embeddings

    async def close(self) -> None:
        await self.backend.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Runtime(Scoped):
    """The same for synchronous code, from any number of threads; an event loop runs in a thread of its own.

    `KeyboardInterrupt`, or closing a stream's iterator, stops the work behind that call.
    """

    def __init__(self, model: str | Path, *, options: EngineOptions | None = None) -> None:
        self._runtime = AsyncRuntime(model, options=options)
        self._thread = LoopThread("foreshore-runtime")

    @property
    def backend(self) -> LocalBackend:
        return self._runtime.backend

    @property
    def info(self) -> ModelInfo | None:
        return self._runtime.info

    def load(self) -> Load:
        return self._runtime.load()

    def start(self) -> ModelInfo:
        return self._thread.call(self._runtime.start())

    def chat(self, messages: str | Sequence[Message], **options: Any) -> Answer:
        return self._thread.call(self._runtime.chat(messages, **options))

    def stream_chat(self, messages: str | Sequence[Message], **options: Any) -> Iterator[Chunk]:
        return self._iterate(chat_request(messages, options))

    def complete(self, prompt: str | Sequence[int], **options: Any) -> Answer:
        return self._thread.call(self._runtime.complete(prompt, **options))

    def stream_complete(self, prompt: str | Sequence[int], **options: Any) -> Iterator[Chunk]:
        return self._iterate(completion_request(prompt, options))

    def embed(self, inputs: str | Sequence[str], **options: Any) -> tuple[tuple[float, ...], ...]:
        return self._thread.call(self._runtime.embed(inputs, **options))

    def close(self) -> None:
        """Free the model; twice is harmless."""
        self._thread.close(self._runtime.close())

    def _iterate(self, request: Request) -> Iterator[Chunk]:
        stream = self._runtime.backend.stream(request)
        turn = asyncio.Lock()  # an interrupted `_next` must have ended before the stream can be closed
        try:
            while (chunk := self._thread.call(_next(stream, turn))) is not None:
                yield chunk
        finally:
            if self._thread.current:  # collected as garbage there: waiting would be for ever
                self._thread.start(_close(stream, turn))
            elif not self._thread.closed:
                self._thread.call(_close(stream, turn))


def chat_request(messages: str | Sequence[Message], options: Mapping[str, Any]) -> Request:
    if isinstance(messages, str):
        messages = ({"role": "user", "content": messages},)
    return _request({"task": "chat", "messages": tuple(messages)}, options)


def completion_request(prompt: str | Sequence[int], options: Mapping[str, Any]) -> Request:
    return _request({"task": "completion", "prompt": prompt if isinstance(prompt, str) else tuple(prompt)}, options)


def embedding_request(inputs: str | Sequence[str], options: Mapping[str, Any]) -> Request:
    return _request({"task": "embedding", "inputs": (inputs,) if isinstance(inputs, str) else tuple(inputs)}, options)


def _request(content: dict[str, Any], options: Mapping[str, Any]) -> Request:
    unknown = sorted(set(options) - _SAMPLING - _REQUEST)
    if unknown:
        raise BadRequest(
            f"unknown option {unknown[0]!r}", hint="one of " + ", ".join(sorted(_SAMPLING | _REQUEST)), param=unknown[0]
        )
    sampling = {name: value for name, value in options.items() if name in _SAMPLING}
    if "stop" in sampling:
        stop = sampling["stop"] or ()
        sampling["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    rest = {name: value for name, value in options.items() if name in _REQUEST}
    if "tools" in rest:
        rest["tools"] = tuple(rest["tools"] or ())
    return Request(**content, **rest, sampling=Sampling(**sampling))


async def _next(stream: AsyncIterator[Chunk], turn: asyncio.Lock) -> Chunk | None:
    async with turn:
        return await anext(stream, None)


async def _close(stream: Any, turn: asyncio.Lock) -> None:
    async with turn:
        await stream.aclose()
