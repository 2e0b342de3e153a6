"""A light client: streamed answers over HTTP/1.1, each event with the moment it arrived.

It shares the machine's cores with the server it measures, so it reads bytes and notes the time, and parses an answer's
JSON when the run is over. Both sides of a comparison get this client and the same requests.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from foreshore.errors import Truncated, UpstreamError

__all__ = ["Stream", "completion", "open_stream", "tokens_per_s"]

PATH = "/v1/completions"
LIMIT_S = 1800.0  # for one answer; whoever needs longer hangs
LINE_LIMIT = 1 << 20


@dataclass(slots=True, kw_only=True)
class Stream:
    """One answer. Times are seconds on `time.perf_counter`."""

    sent: float
    ended: bool = False  # the terminator was seen
    arrivals: list[tuple[float, bytes]] = field(default_factory=list)  # an event's moment and its JSON

    @property
    def events(self) -> list[tuple[float, dict[str, Any]]]:
        return [(at, json.loads(raw)) for at, raw in self.arrivals]

    @property
    def token_times(self) -> list[float]:
        """When text came. A server may put several tokens into one event."""
        return [at for at, event in self.events if _text(event)]

    @property
    def tokens(self) -> int:
        """Tokens generated: what the server counted, else the events with text."""
        counted = [event["usage"]["completion_tokens"] for _, event in self.events if event.get("usage")]
        return int(counted[-1]) if counted else len(self.token_times)

    @property
    def usage(self) -> dict[str, Any]:
        found = [event["usage"] for _, event in self.events if event.get("usage")]
        return dict(found[-1]) if found else {}

    @property
    def ttft(self) -> float:
        return self.token_times[0] - self.sent

    def check(self, tokens: int) -> None:
        """Raises `UpstreamError` or `Truncated` unless the answer is whole and has `tokens` tokens."""
        errors = [event["error"] for _, event in self.events if event.get("error")]
        if errors:
            raise UpstreamError(f"the server answered with an error: {errors[0]!r:.300}")
        if not self.ended:
            raise Truncated(f"the answer broke off after {self.tokens} of {tokens} tokens")
        if self.tokens != tokens:
            raise UpstreamError(f"the answer has {self.tokens} tokens, and {tokens} were asked for")


def completion(prompt: str, tokens: int, **more: Any) -> dict[str, Any]:
    """The body of a streamed, greedy completion that every server here takes."""
    return {
        "model": "auto",
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }


def tokens_per_s(streams: Sequence[Stream]) -> float:
    """All tokens of the streams, over the time from the first request to the last token: prompts included."""
    begun = min(s.sent for s in streams)
    ended = max(s.token_times[-1] for s in streams if s.token_times)
    return sum(s.tokens for s in streams) / (ended - begun)


async def open_stream(
    url: str,
    body: dict[str, Any],
    *,
    until: Callable[[Stream], bool] = lambda stream: False,
    watch: Callable[[Stream], None] = lambda stream: None,
) -> Stream:
    """Send `body` and read the answer to its end, or drop the connection once `until` holds after an event.

    `watch` sees the stream while it grows, from its first byte on. Raises `UpstreamError` for a refusal or a silence.
    """
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=LINE_LIMIT)
    try:
        async with asyncio.timeout(LIMIT_S):
            stream = Stream(sent=time.perf_counter())
            writer.write(_request(parts.netloc, json.dumps(body).encode()))
            status, chunked = await _head(reader)
            if status != 200:
                raise UpstreamError(f"{url}{PATH} answered {status}: {await reader.read(600)!r}")
            watch(stream)
            with suppress(asyncio.IncompleteReadError, ConnectionError):  # it broke off: `ended` stays false
                await _read_events(reader, chunked, stream, until)
        return stream
    except TimeoutError as error:
        raise UpstreamError(f"{url}{PATH} did not end its answer within {LIMIT_S:g} s") from error
    finally:
        writer.transport.abort()


def _request(host: str, body: bytes) -> bytes:
    lines = [
        f"POST {PATH} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status, and whether the body comes in chunks."""
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), b"transfer-encoding: chunked" in head.lower()


async def _read_events(
    reader: asyncio.StreamReader, chunked: bool, stream: Stream, until: Callable[[Stream], bool]
) -> None:
    rest = b""
    while piece := await (_chunk(reader) if chunked else reader.read(1 << 16)):
        now = time.perf_counter()
        *blocks, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in blocks:
            if block == b"data: [DONE]":
                stream.ended = True
            elif block.startswith(b"data: "):
                stream.arrivals.append((now, block[6:]))
        if blocks and until(stream):
            return


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
    data = await reader.readexactly(size + 2)
    return data[:-2]


def _text(event: dict[str, Any]) -> str:
    """What an event adds to the answer."""
    choices = event.get("choices") or [{}]
    return choices[0].get("text") or ""
