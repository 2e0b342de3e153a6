"""Several choices from one target: `n` streams of the same request, told apart by `Chunk.index`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from itertools import zip_longest

from foreshore.backend import Backend
from foreshore.errors import Truncated
from foreshore.types import Chunk, Request, Timings, Usage

__all__ = ["Choices"]

_AHEAD = 4  # chunks that wait for a slow reader, for each choice
Item = Chunk | BaseException | None  # None: that choice's stream is over


class Choices:
    """A `Backend` over one other. A choice ends with a chunk that has its finish reason; the last one to end has usage
    and timings of all: the prompt counted once. One that fails ends the answer, and leaving it ends all."""

    def __init__(self, backend: Backend, count: int) -> None:
        self.name = backend.name
        self._backend, self._count = backend, count

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        arrived: asyncio.Queue[tuple[int, Item]] = asyncio.Queue(_AHEAD * self._count)
        tasks = [asyncio.create_task(self._run(request, i, arrived)) for i in range(self._count)]
        ended: list[Chunk] = []
        try:
            while len(ended) < self._count:
                index, item = await arrived.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    self._check_end(index, ended)
                    continue
                chunk = replace(item, index=index)
                if chunk.finish_reason is not None:
                    ended.append(chunk)
                    chunk = _with_totals(chunk, ended) if len(ended) == self._count else _bare(chunk)
                yield chunk
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _check_end(self, index: int, ended: list[Chunk]) -> None:
        if index not in {chunk.index for chunk in ended}:
            raise Truncated(f"target {self.name!r} ended a choice without a finish reason", target=self.name)

    async def close(self) -> None:
        await self._backend.close()

    async def _run(self, request: Request, index: int, arrived: asyncio.Queue[tuple[int, Item]]) -> None:
        try:
            async with aclosing(self._backend.stream(_variant(request, index))) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    await arrived.put((index, chunk))
        except Exception as error:
            await arrived.put((index, error))
        else:
            await arrived.put((index, None))


def _variant(request: Request, index: int) -> Request:
    """The same request under an id of its own, and with a seed of its own: equal seeds would give equal choices."""
    seed = request.sampling.seed
    sampling = request.sampling if seed is None else replace(request.sampling, seed=seed + index)
    return replace(request, id=f"{request.id}-{index}", sampling=sampling)


def _bare(chunk: Chunk) -> Chunk:
    return replace(chunk, usage=None, timings=None)


def _with_totals(last: Chunk, ended: list[Chunk]) -> Chunk:
    usage = _usage([c.usage for c in ended if c.usage is not None])
    return replace(last, usage=usage, timings=_timings([c.timings for c in ended if c.timings is not None]))


def _usage(found: list[Usage]) -> Usage | None:
    if not found:
        return None
    return Usage(
        prompt_tokens=max(u.prompt_tokens for u in found),
        completion_tokens=sum(u.completion_tokens for u in found),
        cached_tokens=min(u.cached_tokens for u in found),  # those that no choice computed
        reasoning_tokens=sum(u.reasoning_tokens for u in found),
    )


def _timings(found: list[Timings]) -> Timings | None:
    """Work of all choices added up, so that rates and TPOT are those of one stream; TTFT is the first one's."""
    if not found:
        return None
    return Timings(
        queue_s=min(t.queue_s for t in found),
        prefill_s=sum(t.prefill_s for t in found),
        prefill_tokens=sum(t.prefill_tokens for t in found),
        ttft_s=min(t.ttft_s for t in found),
        decode_s=sum(t.decode_s for t in found),
        decode_tokens=sum(t.decode_tokens for t in found),
        gaps=tuple(map(sum, zip_longest(*(t.gaps for t in found), fillvalue=0))),
        parked=sum(t.parked for t in found),
    )
