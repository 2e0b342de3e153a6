"""Any server that speaks OpenAI's HTTP API: OpenAI, vLLM, llama-server, another Foreshore."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import fields, replace
from typing import Any
from urllib.parse import urlsplit

import httpx

from foreshore import clearance
from foreshore.cloud.http import Channel
from foreshore.cloud.key import ApiKey
from foreshore.cloud.shapes import Garbage, items, number, part, text
from foreshore.errors import BadRequest, Overloaded, Truncated, Unavailable, UpstreamError
from foreshore.types import Chunk, FinishReason, Message, Request, Sampling, TokenLogprob, ToolCallDelta, Usage

__all__ = ["OpenAIBackend"]

FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


_PLAIN = Sampling()
_SPELLED_OTHERWISE = frozenset({"max_tokens", "logit_bias", "logprobs"})
_TASKS = ("chat", "completion", "embedding")


class OpenAIBackend:
    """`stream` sends only what was cleared for `name`; an answer is whole with a finish reason and `[DONE]`.

    `max_tokens_field` names the body field for the answer's limit: OpenAI's own models want `max_completion_tokens`,
    most compatible servers know `max_tokens` alone. Raises `ConfigError` if `key_env` names no key.
    """

    def __init__(
        self,
        model: str,
        *,
        name: str = "cloud",
        base_url: str = "https://api.openai.com/v1",
        key_env: str | None = None,
        timeout: float = 60.0,
        connect_timeout: float = 5.0,
        max_tokens_field: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name, self.model = name, model
        self._own = urlsplit(base_url).hostname == "api.openai.com"
        self._max_tokens_field = max_tokens_field or ("max_completion_tokens" if self._own else "max_tokens")
        self._channel = Channel(
            base_url.rstrip("/"),
            target=name,
            auth=ApiKey(key_env, header="authorization", prefix="Bearer ") if key_env else None,
            timeout=timeout,
            connect_timeout=connect_timeout,
            transport=transport,
        )

    async def close(self) -> None:
        await self._channel.close()

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        clearance.check(request, self.name)
        if request.task not in _TASKS:
            raise BadRequest(f"target {self.name!r} does not serve {request.task!r} requests", param="model")
        answer = self._embed(request) if request.task == "embedding" else self._generate(request)
        try:
            async with aclosing(answer) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Garbage as error:
            raise UpstreamError(f"target {self.name!r} sent {error}", target=self.name) from error

    async def _generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """Chunks as they come; the last is held until `[DONE]`, so that it can carry the usage."""
        path = "chat/completions" if request.task == "chat" else "completions"
        read = _chat_chunk if request.task == "chat" else _completion_chunk
        last: Chunk | None = None
        usage: Usage | None = None
        async with aclosing(self._channel.events(path, self._body(request), request.deadline)) as events:
            async for event in events:
                if event.data.strip() == "[DONE]":
                    if last is None:
                        raise Truncated(
                            f"target {self.name!r} ended its answer without a finish reason", target=self.name
                        )
                    yield replace(last, usage=usage)
                    return
                document = self._document(event.data)
                usage = _usage(document) or usage
                for choice in items(document, "choices"):
                    chunk = read(choice)
                    if chunk.finish_reason is not None:
                        last = last or chunk
                    elif last is None:
                        yield chunk
        raise Truncated(f"target {self.name!r} ended its answer without the terminator [DONE]", target=self.name)

    async def _embed(self, request: Request) -> AsyncGenerator[Chunk, None]:
        body = {"model": self.model, "input": list(request.inputs), "encoding_format": "float", **request.extra}
        document = await self._channel.document("embeddings", body, request.deadline)
        if not isinstance(document, dict):
            raise Garbage("body", document)
        vectors = {number(item, "index"): _vector(item) for item in items(document, "data")}
        if sorted(vectors) != list(range(len(request.inputs))):
            raise self._broken(f"answered {len(request.inputs)} inputs with {len(vectors)} embeddings")
        for index in range(len(vectors) - 1):
            yield Chunk(index=index, embedding=vectors[index])
        last = len(vectors) - 1
        yield Chunk(index=last, embedding=vectors.get(last), finish_reason="stop", usage=_usage(document))

    def _document(self, data: str) -> dict[str, Any]:
        document = self._channel.decode(data)
        if not isinstance(document, dict):
            raise Garbage("event", document)
        if error := document.get("error"):
            raise self._stream_error(error)
        return document

    def _stream_error(self, error: Any) -> Exception:
        """An error in the middle of a stream, where no HTTP status can say what kind it is."""
        kind, message = "", str(error)
        if isinstance(error, dict):
            kind, message = str(error.get("code") or error.get("type") or ""), str(error.get("message") or "")
        said = f"target {self.name!r} broke off its answer: {self._channel.clean(message)}"
        if "rate_limit" in kind or "overloaded" in kind or kind in ("429", "insufficient_quota"):
            return Overloaded(said, target=self.name)
        if "server_error" in kind or "unavailable" in kind or kind.startswith("5"):
            return Unavailable(said, target=self.name)
        return UpstreamError(said, target=self.name)

    def _broken(self, what: str) -> UpstreamError:
        return UpstreamError(f"target {self.name!r} {what}", target=self.name)

    def _message(self, message: Message) -> dict[str, Any]:
        """OpenAI's own API refuses the reasoning that other servers want to see again."""
        return {k: v for k, v in message.items() if not (self._own and k == "reasoning_content")}

    def _body(self, request: Request) -> dict[str, Any]:
        if request.task == "chat":
            content: dict[str, Any] = {
                "messages": [self._message(m) for m in request.messages],
                "tools": [dict(t) for t in request.tools] or None,
                "tool_choice": request.tool_choice,
                "response_format": request.response_format,
            }
        else:
            prompt = request.prompt if isinstance(request.prompt, str) else list(request.prompt)
            content = {"prompt": prompt}
        options = {**_sampling(request, self._max_tokens_field), **request.extra}
        fixed = {"model": self.model, "stream": True, "stream_options": {"include_usage": True}}
        return {k: v for k, v in {**options, **content, **fixed}.items() if v is not None}


def _sampling(request: Request, max_tokens_field: str) -> dict[str, Any]:
    """Only what the caller set: a server's own defaults are its model's."""
    s = request.sampling
    chat = request.task == "chat"
    names = (field.name for field in fields(Sampling) if field.name not in _SPELLED_OTHERWISE)
    plain = {name: value for name in names if (value := getattr(s, name)) != getattr(_PLAIN, name)}
    return {
        **{name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()},
        max_tokens_field if chat else "max_tokens": s.max_tokens,
        "logit_bias": {str(k): v for k, v in s.logit_bias.items()} or None,
        "logprobs": None if s.logprobs is None else (True if chat else s.logprobs),
        "top_logprobs": s.logprobs if chat else None,
    }


def _chat_chunk(choice: Mapping[str, Any]) -> Chunk:
    delta = part(choice, "delta")
    return Chunk(
        text=text(delta, "content") or text(delta, "refusal"),
        reasoning=text(delta, "reasoning_content") or text(delta, "reasoning"),
        tool_calls=tuple(_tool_call(item) for item in items(delta, "tool_calls")),
        logprobs=tuple(_logprob(item) for item in items(part(choice, "logprobs"), "content")),
        finish_reason=_finish_reason(choice),
    )


def _completion_chunk(choice: Mapping[str, Any]) -> Chunk:
    return Chunk(
        text=text(choice, "text"),
        logprobs=tuple(_legacy_logprobs(part(choice, "logprobs"))),
        finish_reason=_finish_reason(choice),
    )


def _finish_reason(choice: Mapping[str, Any]) -> FinishReason | None:
    found = text(choice, "finish_reason")
    return FINISH_REASONS.get(found, "stop") if found else None


def _tool_call(item: Mapping[str, Any]) -> ToolCallDelta:
    function = part(item, "function")
    return ToolCallDelta(
        index=number(item, "index"),
        id=text(item, "id") or None,
        name=text(function, "name") or None,
        arguments=text(function, "arguments"),
    )


def _logprob(item: Mapping[str, Any]) -> TokenLogprob:
    token = text(item, "token")
    return TokenLogprob(
        token=token,
        bytes=_bytes(item.get("bytes"), token),
        logprob=_float(item.get("logprob")),
        top=tuple(_logprob(other) for other in items(item, "top_logprobs")),
    )


def _legacy_logprobs(found: Mapping[str, Any]) -> list[TokenLogprob]:
    """The completions API's shape: parallel arrays, the alternatives as a dict of token to logprob."""
    tokens, values = found.get("tokens") or [], found.get("token_logprobs") or []
    tops = found.get("top_logprobs") or [None] * len(tokens)
    if not (isinstance(tokens, list) and isinstance(values, list) and isinstance(tops, list)):
        raise Garbage("logprobs", found)
    return [_legacy_logprob(t, v, top or {}) for t, v, top in zip(tokens, values, tops, strict=False)]


def _legacy_logprob(token: Any, value: Any, top: Any) -> TokenLogprob:
    if not isinstance(token, str) or not isinstance(top, dict):
        raise Garbage("logprobs", token)
    others = sorted(top.items(), key=lambda item: -_float(item[1]))
    best = tuple(TokenLogprob(token=t, bytes=t.encode("utf-8", "replace"), logprob=_float(v)) for t, v in others)
    return TokenLogprob(token=token, bytes=token.encode("utf-8", "replace"), logprob=_float(value), top=best)


def _bytes(value: Any, token: str) -> bytes:
    """The token's own bytes, which may be half a character; its text's where the server sends none."""
    if isinstance(value, list) and all(isinstance(b, int) and 0 <= b < 256 for b in value):
        return bytes(value)
    return token.encode("utf-8", "replace")


def _float(value: Any) -> float:
    if value is None:
        return 0.0
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise Garbage("logprob", value)
    return float(value)


def _vector(item: Mapping[str, Any]) -> tuple[float, ...]:
    found = item.get("embedding")
    if not isinstance(found, list) or not found:
        raise Garbage("embedding", found)
    return tuple(_float(value) for value in found)


def _usage(document: Mapping[str, Any]) -> Usage | None:
    found = part(document, "usage")
    if not found:
        return None
    return Usage(
        prompt_tokens=number(found, "prompt_tokens"),
        completion_tokens=number(found, "completion_tokens"),
        cached_tokens=number(part(found, "prompt_tokens_details"), "cached_tokens"),
        reasoning_tokens=number(part(found, "completion_tokens_details"), "reasoning_tokens"),
    )
