"""How a provider is reached: one streaming POST, its failures mapped to ours, its key kept out of them.

No retries here (the router owns them), no redirects (they would carry the key elsewhere), no compression (a small
body could unfold to a huge one).
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from foreshore.cloud.key import ApiKey
from foreshore.cloud.sse import EventTooLong, ServerSentEvent, SSEParser
from foreshore.errors import (
    BadRequest,
    DeadlineExceeded,
    ForeshoreError,
    Overloaded,
    Truncated,
    Unavailable,
    UpstreamError,
)

__all__ = ["Channel"]

MAX_ERROR_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_MESSAGE = 300  # characters of a provider's own words that we pass on
_KEY_LIKE = re.compile(r"\b(?:sk|pk|rk|gsk|key|Bearer)[-_ ][A-Za-z0-9_\-*.]{6,}")


class Channel:
    """Requests to one base URL on behalf of `target`. `timeout` is the longest silence between two events."""

    def __init__(
        self,
        base_url: str,
        *,
        target: str,
        auth: ApiKey | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        connect_timeout: float = 5.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._target, self._auth, self._timeout = target, auth, timeout
        self._client = httpx.AsyncClient(
            base_url=base_url + "/",
            auth=auth,
            headers={"accept-encoding": "identity", "user-agent": "foreshore", **(headers or {})},
            timeout=httpx.Timeout(timeout, connect=connect_timeout, pool=connect_timeout),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def events(
        self, path: str, body: Mapping[str, Any], deadline: float | None
    ) -> AsyncGenerator[ServerSentEvent, None]:
        """The events of a streamed answer, until the server ends the body."""
        async with self._post(path, body, deadline, accept="text/event-stream") as response:
            self._expect(response, "text/event-stream")
            parser = SSEParser()
            source = response.aiter_raw()
            patience = self._patience(deadline)
            while (raw := await self._within(patience, anext(source, None), deadline)) is not None:
                for event in self._parse(parser, raw):
                    yield event
                    patience = self._patience(deadline)

    async def document(self, path: str, body: Mapping[str, Any], deadline: float | None) -> Any:
        """The JSON document a plain request is answered with."""
        async with self._post(path, body, deadline, accept="application/json") as response:
            self._expect(response, "application/json")
            raw = await self._within(self._patience(deadline), _read(response.aiter_raw(), MAX_BODY_BYTES), deadline)
        if raw is None:
            raise self._broken(f"sent more than {MAX_BODY_BYTES} bytes")
        return self.decode(raw)

    def decode(self, text: str | bytes) -> Any:
        """JSON, or `UpstreamError`."""
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._broken("sent something that is not JSON") from error

    @asynccontextmanager
    async def _post(
        self, path: str, body: Mapping[str, Any], deadline: float | None, *, accept: str
    ) -> AsyncIterator[httpx.Response]:
        if self._client.is_closed:
            raise Unavailable(f"target {self._target!r} was closed", target=self._target, retryable=False)
        content = _encode(body)
        headers = {"content-type": "application/json", "accept": accept}
        request = self._client.build_request("POST", path, content=content, headers=headers)
        begun = False
        try:
            sending = self._client.send(request, stream=True)
            response = await self._within(self._patience(deadline), sending, deadline)
            begun = True
            try:
                if response.status_code != 200:
                    raise await self._refusal(response, deadline)
                yield response
            finally:
                await response.aclose()
        except httpx.ConnectTimeout as error:
            raise self._unavailable("did not accept a connection in time") from error
        except httpx.TimeoutException as error:
            raise self._unavailable(f"was silent for {self._timeout:g} s") from error
        except httpx.ConnectError as error:
            raise self._unavailable("cannot be reached") from error
        except (httpx.TransportError, httpx.StreamError) as error:
            broken = self._broken(f"broke the connection ({type(error).__name__})")
            raise (Truncated(broken.message, target=self._target) if begun else broken) from error

    def _patience(self, deadline: float | None) -> float:
        """The moment until which silence is borne."""
        limit = time.monotonic() + self._timeout
        return limit if deadline is None else min(limit, deadline)

    async def _within(self, patience: float, work: Any, deadline: float | None) -> Any:
        try:
            async with asyncio.timeout(patience - time.monotonic()):
                return await work
        except TimeoutError as error:
            if deadline is not None and time.monotonic() >= deadline:
                text = f"the request's deadline passed while target {self._target!r} was answering"
                raise DeadlineExceeded(text, target=self._target) from error
            raise self._unavailable(f"was silent for {self._timeout:g} s") from error

    def _parse(self, parser: SSEParser, raw: bytes) -> list[ServerSentEvent]:
        try:
            return list(parser.feed(raw))
        except UnicodeDecodeError as error:
            raise self._broken("sent bytes that are not UTF-8") from error
        except EventTooLong as error:
            raise self._broken(f"sent {error}") from error

    def _expect(self, response: httpx.Response, kind: str) -> None:
        found = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if found != kind:
            raise self._broken(f"answered with content type {found[:60]!r} instead of {kind!r}")

    async def _refusal(self, response: httpx.Response, deadline: float | None) -> ForeshoreError:
        raw = await self._within(self._patience(deadline), _read(response.aiter_raw(), MAX_ERROR_BYTES), deadline)
        return self.refusal(response.status_code, _message(raw or b""), retry_after=_retry_after(response.headers))

    def refusal(self, status: int, message: str, *, retry_after: float | None = None) -> ForeshoreError:
        """A provider's refusal as one of ours, by its HTTP status. 400 and 422 are about the request itself."""
        said = f"target {self._target!r} answered {status}" + (f": {self.clean(message)}" if message else "")
        if status in (400, 413, 422):
            return BadRequest(said)
        if status in (429, 529):
            return Overloaded(said, target=self._target, retry_after=retry_after)
        if status in (408, 409, 425) or status >= 500:
            return Unavailable(said, target=self._target, retry_after=retry_after)
        if status in (401, 403):
            named = f"check the key in {self._auth.env!r}" if self._auth else "does it need a key_env?"
            return UpstreamError(f"target {self._target!r} answered {status}", target=self._target, hint=named)
        if 300 <= status < 400:
            said = f"target {self._target!r} answered with a redirect ({status}), which is not followed"
        return UpstreamError(said, target=self._target, hint="check the target's base_url and model")

    def clean(self, message: str) -> str:
        """A provider's words in one short line, without our key or anything that looks like one."""
        text = self._auth.redact(message) if self._auth else message
        return _KEY_LIKE.sub("[key]", " ".join(text.split()))[:MAX_MESSAGE]

    def _broken(self, what: str) -> UpstreamError:
        return UpstreamError(f"target {self._target!r} {what}", target=self._target)

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(f"target {self._target!r} {what}", target=self._target)


def _encode(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, default=dict).encode()
    except ValueError as error:  # a lone surrogate, NaN
        raise BadRequest("the request holds text or numbers that JSON cannot carry") from error


async def _read(source: AsyncIterator[bytes], limit: int) -> bytes | None:
    """Everything, or None if it is more than `limit` bytes."""
    pieces, size = [], 0
    async for piece in source:
        size += len(piece)
        if size > limit:
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _message(raw: bytes) -> str:
    """The message in an error body of the usual shapes; nothing of an HTML page."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    error = body.get("error", body) if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds from `retry-after-ms`, or `Retry-After` as seconds or date (RFC 9110, 10.2.3)."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < 86_400:
            return seconds
    try:
        moment = email.utils.parsedate_to_datetime(headers["retry-after"])
        return max(0.0, moment.timestamp() - time.time())
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
