"""Notices that the client has gone, and stops the work at once: an ASGI server only says so to one who listens."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

__all__ = ["ClientGone", "while_connected"]

T = TypeVar("T")


class ClientGone(Exception):
    """Nobody is there to answer."""


async def while_connected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result of `work`; cancels it and raises `ClientGone` when the client leaves. Call after the body is read."""
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        await _stop(listening)
        await _stop(working)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stop(task: asyncio.Future[Any]) -> None:
    """Cancel and wait, so that what the task holds is free when this returns."""
    if not task.done():
        task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # read, or asyncio complains that nobody did
