"""A stream's end in the parent: filled by the supervisor's thread, read by the consumer's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from foreshore.errors import ForeshoreError
from foreshore.types import Chunk

__all__ = ["Subscription"]

MERGE_AFTER = 32


class Subscription:
    """An iterator over one answer. A consumer that falls behind gets fewer, larger chunks, never a longer queue."""

    def __init__(self, request_id: str, key: str, cancel: Callable[[], None]) -> None:
        self.id = request_id
        self.key = key  # the same for requests with the same content
        self.loop = asyncio.get_running_loop()
        self.ended = False  # the last item is in the queue
        self._cancel = cancel
        self._lock = threading.Lock()
        self._items: deque[Chunk | ForeshoreError] = deque()
        self._waiter: asyncio.Future[None] | None = None  # of who waits for an item: the loop's own

    def offer(self, item: Chunk | ForeshoreError) -> None:
        """From the supervisor's thread; `wake` must follow in the loop's."""
        with self._lock:
            if self.ended:
                return
            last = self._items[-1] if len(self._items) >= MERGE_AFTER else None
            if isinstance(last, Chunk) and isinstance(item, Chunk) and _is_text(last) and _is_text(item):
                self._items[-1] = _merged(last, item)
            else:
                self._items.append(item)
            self.ended = isinstance(item, ForeshoreError) or item.finish_reason is not None

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def cancel(self) -> None:
        """Stop the work behind it; harmless once it has ended."""
        with self._lock:
            ended, self.ended = self.ended, True
        if not ended:
            self._cancel()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Chunk:
        while True:
            with self._lock:
                item = self._items.popleft() if self._items else None
                done = self.ended
            if isinstance(item, ForeshoreError):
                raise item
            if item is not None:
                return item
            if done:
                raise StopAsyncIteration
            self._waiter = self.loop.create_future()
            await self._waiter


def _is_text(chunk: Chunk) -> bool:
    return chunk.embedding is None and chunk.score is None


def _merged(first: Chunk, second: Chunk) -> Chunk:
    return replace(
        second,
        text=first.text + second.text,
        reasoning=first.reasoning + second.reasoning,
        tool_calls=first.tool_calls + second.tool_calls,
        logprobs=first.logprobs + second.logprobs,
    )
