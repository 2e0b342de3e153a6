"""An answer on its way out as server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from foreshore.errors import ForeshoreError, Unavailable
from foreshore.router.api.disconnect import ClientGone, while_connected
from foreshore.router.api.door import Encoder
from foreshore.router.api.mishap import defect
from foreshore.router.exchange import Exchange
from foreshore.types import Chunk

__all__ = ["EventStream"]

GRACE_S = 1.0  # for the last bytes to be taken


class EventStream(Response):
    """Sends an answer as server-sent events. When the client leaves, the stream is closed before this returns.

    So it is when the client stops reading: `GRACE_S` after the request's deadline, which says why to one who reads.
    """

    def __init__(
        self, first: Chunk, stream: Any, exchange: Exchange, encoder: Encoder, headers: Mapping[str, str]
    ) -> None:
        super().__init__(status_code=200, headers=headers, media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"
        self._first, self._stream, self._exchange, self._encoder = first, stream, exchange, encoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        deadline = self._exchange.request.deadline
        try:
            async with asyncio.timeout(deadline and deadline + GRACE_S - time.monotonic()):
                await while_connected(self._send_all(send), receive)
        except (ClientGone, OSError):  # TimeoutError too: uvicorn then cuts the connection
            return
        except asyncio.CancelledError:  # the server ends: an answer that just stops looks like a fault on the way
            with suppress(Exception):
                async with asyncio.timeout(GRACE_S):
                    await self._end(send, self._encoder.error(Unavailable("the gateway is shutting down")))
        finally:
            await self._stream.aclose()
            self._exchange.close()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await _piece(send, self._encoder.opening() + self._encoder.chunk(self._first))
        try:
            async for chunk in self._stream:
                if piece := self._encoder.chunk(chunk):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await _piece(send, self._encoder.closing())
        except ForeshoreError as error:
            await _piece(send, self._encoder.error(error))
        except Exception as error:
            await _piece(send, self._encoder.error(defect(error)))
        await self._end(send)

    async def _end(self, send: Send, last: bytes = b"") -> None:
        await send({"type": "http.response.body", "body": last, "more_body": False})


async def _piece(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})
