"""A provider on a real socket that answers with exactly the bytes a test gives it, cut where the test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

Step = bytes | asyncio.Event


class Upstream:
    """Plays `script` for each request: bytes are sent, an event is waited for, then the connection is closed."""

    def __init__(self, script: Sequence[Step]) -> None:
        self.script = list(script)
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.gone = asyncio.Event()  # a client left before the script had ended
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.requests.append((head[0], headers, json.loads(body) if body else None))
            await self._play(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()

    async def _play(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for step in self.script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
                await asyncio.sleep(0)  # lets each piece travel alone
                continue
            left = asyncio.ensure_future(reader.read())  # ends when the client closes
            waited = asyncio.ensure_future(step.wait())
            await asyncio.wait({left, waited}, return_when=asyncio.FIRST_COMPLETED)
            if left.done():
                self.gone.set()
            for task in (left, waited):
                task.cancel()
            await asyncio.gather(left, waited, return_exceptions=True)


@asynccontextmanager
async def upstream(*script: Step) -> AsyncIterator[Upstream]:
    played = Upstream(script)
    server = await asyncio.start_server(played.handle, "127.0.0.1", 0)
    played.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield played
    finally:
        server.close()


def head(status: str = "200 OK", kind: str = "text/event-stream", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def event(data: Any, kind: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {kind}\n" if kind else "").encode() + f"data: {text}\n\n".encode()


def delta(finish_reason: str | None = None, **fields: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}})
DONE = event("[DONE]")
HELLO = (delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo"), delta("stop"), USAGE, DONE)
