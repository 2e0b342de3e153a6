"""One measured request: a streamed answer over HTTP, and when its pieces arrived."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import httpx

from foreshore.cloud.sse import EventTooLong, SSEParser

__all__ = ["Endpoint", "Shooter", "Shot"]

Endpoint = Literal["completions", "chat"]
WORDS = "the cat sat on a mat and saw how many birds flew over our old house by the sea before noon".split()
_PATHS = {"completions": "completions", "chat": "chat/completions"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """What came of one request. Moments are seconds on `time.perf_counter`.

    `due` is when it was meant to be sent: waiting for a busy client counts as waiting for the answer.
    `text_at` has one moment for each event with text: a server may put several tokens into one.
    """

    due: float
    ended: float
    text_at: tuple[float, ...] = ()
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: str = ""
    queue_ms: float | None = None  # where the server tells
    error: str = ""  # a status and code, or what broke; "" for a whole answer
    detail: str = ""  # the server's own words

    @property
    def ttft_ms(self) -> float:
        return (self.text_at[0] - self.due) * 1e3

    @property
    def gaps_ms(self) -> list[float]:
        return [(after - before) * 1e3 for before, after in pairwise(self.text_at)]


@dataclass(slots=True, kw_only=True)
class Shooter:
    """Sends prompts of about `words` words, no two with the same beginning, so that no cache of prefixes can help."""

    client: httpx.AsyncClient  # its base URL ends in /v1
    model: str
    endpoint: Endpoint
    tokens: int
    words: int
    timeout: float
    ignore_eos: bool = True
    seed: int = 0
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def shoot(self, due: float | None = None) -> Shot:
        """Send one request now and read its answer to the end. Never raises for what the server or the network does."""
        due = time.perf_counter() if due is None else due
        pieces: list[tuple[float, bytes]] = []
        try:
            async with asyncio.timeout(self.timeout):
                refusal = await self._read(pieces)
        except TimeoutError:
            refusal = ("timeout", f"no whole answer within {self.timeout:g} s")
        except httpx.ConnectError as error:
            refusal = ("unreachable", str(error))
        except httpx.HTTPError as error:
            refusal = ("broken", f"{type(error).__name__}: {error}")
        ended = time.perf_counter()
        if refusal is not None:
            return Shot(due=due, ended=ended, error=refusal[0], detail=refusal[1])
        return _shot(pieces, due, ended)

    async def _read(self, pieces: list[tuple[float, bytes]]) -> tuple[str, str] | None:
        """The stream's bytes, each piece with its moment: parsing waits until the clock matters no more."""
        async with self.client.stream("POST", _PATHS[self.endpoint], json=self._body()) as response:
            if response.status_code != httpx.codes.OK:
                return _refusal(response.status_code, await response.aread())
            async for piece in response.aiter_raw():
                pieces.append((time.perf_counter(), piece))
        return None

    def _body(self) -> dict[str, Any]:
        number = next(self._numbers)
        words = random.Random(self.seed * 1_000_003 + number).choices(WORDS, k=self.words - 1)
        text = " ".join([str(number), *words])
        content = {"prompt": text} if self.endpoint == "completions" else {"messages": [_user(text)]}
        more = {"ignore_eos": True} if self.ignore_eos else {}
        options = {"stream": True, "stream_options": {"include_usage": True}, **more}
        return {"model": self.model, **content, "max_tokens": self.tokens, "temperature": 0, **options}


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _refusal(status: int, body: bytes) -> tuple[str, str]:
    """Status and code, and the message, of an error in OpenAI's shape; of another, its first characters."""
    try:
        error = json.loads(body)["error"]
        return f"{status} {error.get('code') or error.get('type') or ''}".strip(), str(error["message"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return str(status), body[:200].decode(errors="replace")


def _shot(pieces: Sequence[tuple[float, bytes]], due: float, ended: float) -> Shot:
    try:
        events, whole = _events(pieces)
        found = [(at, json.loads(data)) for at, data in events]
        return _measured(found, whole, due, ended)
    except (ValueError, LookupError, TypeError, AttributeError, EventTooLong) as error:
        return Shot(due=due, ended=ended, error="damaged", detail=f"not a stream of OpenAI's shape: {error!r:.120}")


def _events(pieces: Sequence[tuple[float, bytes]]) -> tuple[list[tuple[float, str]], bool]:
    """The events' data with their moments, and whether the terminator came."""
    parser = SSEParser()
    events = [(at, event.data) for at, piece in pieces for event in parser.feed(piece)]
    whole = any(data == "[DONE]" for _, data in events)
    return [(at, data) for at, data in events if data != "[DONE]"], whole


def _measured(events: list[tuple[float, dict[str, Any]]], whole: bool, due: float, ended: float) -> Shot:
    refused = [event["error"] for _, event in events if event.get("error")]
    if refused:
        return Shot(due=due, ended=ended, error="broken off", detail=str(refused[0])[:200])
    text_at = tuple(at for at, event in events if _has_text(event))
    if not whole or not text_at:
        what = "the terminator" if not whole else "any text"
        error = "truncated" if not whole else "empty"
        return Shot(due=due, ended=ended, error=error, detail=f"the stream ended without {what}")
    usage = _last(events, "usage")
    reasons = [choice.get("finish_reason") for _, event in events for choice in event.get("choices", ())]
    return Shot(
        due=due,
        ended=text_at[-1],
        text_at=text_at,
        tokens=int(usage.get("completion_tokens") or len(text_at)),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        finish_reason=next((reason for reason in reversed(reasons) if reason), ""),
        queue_ms=_last(events, "timings").get("queue_ms"),
    )


def _last(events: list[tuple[float, dict[str, Any]]], key: str) -> dict[str, Any]:
    return next((event[key] for _, event in reversed(events) if event.get(key)), {})


def _has_text(event: dict[str, Any]) -> bool:
    """Whether an event of a completion or of a chat adds to the answer."""
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if choice.get("text") or delta.get("content") or delta.get("reasoning_content"):
            return True
    return False
