"""One answer's clock: what is learned from it goes to its target's meter."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from foreshore.router.ask import Ask
from foreshore.router.crowd import Crowd
from foreshore.router.fallback import has_content
from foreshore.router.latency.forecast import Work
from foreshore.router.meter import Meter
from foreshore.types import Chunk, Timings

__all__ = ["Watch", "timed"]


class Watch:
    """From asking, on time.monotonic. `work` is what the request found when it came, `limit` its most tokens."""

    __slots__ = ("_ask", "_begun", "_crowd", "_first", "_limit", "_meter", "_tokens", "_work")

    def __init__(self, meter: Meter, crowd: Crowd, ask: Ask, work: Work, *, limit: int | None) -> None:
        self._meter, self._crowd, self._ask, self._work, self._limit = meter, crowd, ask, work, limit
        self._begun, self._first = time.monotonic(), 0.0
        self._tokens = max(1, work.prompt_tokens - work.cached_tokens)
        crowd.wait(work.tenant, self._tokens)

    def see(self, chunk: Chunk) -> None:
        if not self._first and has_content(chunk):
            self._first = time.monotonic()
            self.heard()
        if chunk.finish_reason is not None and self._first:
            self._end(chunk)

    def heard(self) -> None:
        """It has a first token, or will never have one. Twice is harmless."""
        if self._tokens:
            self._crowd.hear(self._work.tenant, self._tokens)
            self._tokens = 0

    def _end(self, chunk: Chunk) -> None:
        """A whole answer. What it took after its first token is what the backend measured: the caller's pace is not
        the target's."""
        now = time.monotonic()
        decode_s = chunk.timings.decode_s if chunk.timings is not None else now - self._first
        cut = chunk.finish_reason == "length" and self._limit is not None
        ttft_s = self._first - self._begun
        total_s, estimate = ttft_s + decode_s, self._ask.prompt_tokens
        self._meter.learn(self._work, estimate, chunk.usage, ttft_s=ttft_s, total_s=total_s, cut=cut)


async def timed(chunks: AsyncIterator[Chunk]) -> AsyncGenerator[Chunk, None]:
    """`chunks`, the last with measured timings where the backend gave none."""
    begun = time.monotonic()
    first = 0.0
    async with aclosing(chunks) as source:  # type: ignore[type-var]
        async for chunk in source:
            now = time.monotonic()
            first = first or now
            if chunk.finish_reason is not None and chunk.timings is None:
                tokens = chunk.usage.completion_tokens if chunk.usage else 0
                timings = Timings(ttft_s=first - begun, decode_s=now - first, decode_tokens=tokens)
                chunk = replace(chunk, timings=timings)
            yield chunk
