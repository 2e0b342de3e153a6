"""Anthropic's Messages API: chat with tools, system prompt and thinking, translated from and to OpenAI's shapes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from foreshore import clearance
from foreshore.cloud.http import Channel
from foreshore.cloud.key import ApiKey
from foreshore.cloud.shapes import Garbage, number, part, text
from foreshore.errors import BadRequest, Overloaded, Truncated, Unavailable, UpstreamError
from foreshore.types import Chunk, FinishReason, Message, Request, ToolCallDelta, Usage

__all__ = ["AnthropicBackend"]

VERSION = "2023-06-01"  # of the API; its newest
MAX_TOKENS = 4096  # the API demands a limit; this one where the caller sets none
FINISH_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
TOOL_CHOICES = {"auto": {"type": "auto"}, "required": {"type": "any"}, "none": {"type": "none"}}
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.S)


class AnthropicBackend:
    """`stream` sends only what was cleared for `name`; an answer is whole with a stop reason and `message_stop`.

    Raises `ConfigError` if `key_env` names no key. A request it cannot express is a `BadRequest`.
    """

    def __init__(
        self,
        model: str,
        *,
        key_env: str,
        name: str = "cloud",
        base_url: str = "https://api.anthropic.com/v1",
        timeout: float = 60.0,
        connect_timeout: float = 5.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name, self.model = name, model
        self._channel = Channel(
            base_url.rstrip("/"),
            target=name,
            auth=ApiKey(key_env, header="x-api-key"),
            headers={"anthropic-version": VERSION},
            timeout=timeout,
            connect_timeout=connect_timeout,
            transport=transport,
        )

    async def close(self) -> None:
        await self._channel.close()

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        clearance.check(request, self.name)
        if request.task != "chat":
            raise BadRequest(f"target {self.name!r} answers chat requests, not {request.task!r}", param="model")
        try:
            async with aclosing(self._generate(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except Garbage as error:
            raise UpstreamError(f"target {self.name!r} sent {error}", target=self.name) from error

    async def _generate(self, request: Request) -> AsyncGenerator[Chunk, None]:
        reading = _Reading()
        try:
            body = to_anthropic(request, self.model)
        except (KeyError, TypeError, AttributeError) as error:
            raise BadRequest("the messages or tools do not have OpenAI's shape", param="messages") from error
        async with aclosing(self._channel.events("messages", body, request.deadline)) as events:
            async for event in events:
                document = self._channel.decode(event.data)
                if not isinstance(document, dict):
                    raise Garbage("event", document)
                if document.get("type") == "error":
                    raise self._stream_error(part(document, "error"))
                chunk = reading.take(document)
                if chunk is not None:
                    yield chunk
                if document.get("type") == "message_stop":
                    return
        raise Truncated(f"target {self.name!r} ended its answer without message_stop", target=self.name)

    def _stream_error(self, error: Mapping[str, Any]) -> Exception:
        said = f"target {self.name!r} broke off its answer: {self._channel.clean(text(error, 'message'))}"
        kind = text(error, "type")
        if kind in ("overloaded_error", "rate_limit_error"):
            return Overloaded(said, target=self.name)
        if kind in ("api_error", "timeout_error"):
            return Unavailable(said, target=self.name)
        return UpstreamError(said, target=self.name)


@dataclass(slots=True)
class _Reading:
    """One answer's events so far: which tool call each content block is, what was counted."""

    tool_calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: FinishReason | None = None

    def take(self, document: Mapping[str, Any]) -> Chunk | None:
        kind = document.get("type")
        if kind == "message_start":
            self._count(part(part(document, "message"), "usage"))
        elif kind == "content_block_start":
            return self._start(part(document, "content_block"))
        elif kind == "content_block_delta":
            return self._delta(part(document, "delta"))
        elif kind == "message_delta":
            self._count(part(document, "usage"))
            reason = text(part(document, "delta"), "stop_reason")
            self.finish_reason = FINISH_REASONS.get(reason, "stop") if reason else self.finish_reason
        elif kind == "message_stop":
            return self._stop()
        return None

    def _start(self, block: Mapping[str, Any]) -> Chunk | None:
        if block.get("type") == "tool_use":
            self.tool_calls += 1
            call = ToolCallDelta(index=self.tool_calls - 1, id=text(block, "id"), name=text(block, "name"))
            return Chunk(tool_calls=(call,))
        if block.get("type") == "text" and block.get("text"):
            return Chunk(text=text(block, "text"))
        return None

    def _delta(self, delta: Mapping[str, Any]) -> Chunk | None:
        kind = delta.get("type")
        if kind == "text_delta":
            return Chunk(text=text(delta, "text"))
        if kind == "thinking_delta":
            return Chunk(reasoning=text(delta, "thinking"))
        if kind == "input_json_delta" and self.tool_calls:
            call = ToolCallDelta(index=self.tool_calls - 1, arguments=text(delta, "partial_json"))
            return Chunk(tool_calls=(call,))
        return None  # signatures and citations have no place in OpenAI's shape

    def _count(self, usage: Mapping[str, Any]) -> None:
        """Counts are cumulative; cached tokens are counted beside `input_tokens`, not within."""
        if "input_tokens" in usage:
            self.cached_tokens = number(usage, "cache_read_input_tokens")
            written = number(usage, "cache_creation_input_tokens")
            self.prompt_tokens = number(usage, "input_tokens") + self.cached_tokens + written
        self.completion_tokens = number(usage, "output_tokens") or self.completion_tokens

    def _stop(self) -> Chunk | None:
        if self.finish_reason is None:
            raise Garbage("stop_reason", None)
        usage = Usage(
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            cached_tokens=self.cached_tokens,
        )
        return Chunk(finish_reason=self.finish_reason, usage=usage)


def to_anthropic(request: Request, model: str) -> dict[str, Any]:
    """The Messages API body for `request`. System messages move to `system`, tool results into user turns."""
    s = request.sampling
    system = [_plain(m) for m in request.messages if m.get("role") in ("system", "developer")]
    body = {
        "model": model,
        "max_tokens": s.max_tokens or MAX_TOKENS,
        "system": "\n\n".join(system) or None,
        "messages": _turns([m for m in request.messages if m.get("role") not in ("system", "developer")]),
        "tools": [_tool(t) for t in request.tools] or None,
        "tool_choice": _tool_choice(request.tool_choice) if request.tools else None,
        "stop_sequences": list(s.stop) or None,
        "temperature": s.temperature,
        "top_p": s.top_p,
        "top_k": s.top_k or None,
        "thinking": request.extra.get("thinking"),
        "stream": True,
    }
    return {k: v for k, v in body.items() if v is not None}


def _turns(messages: list[Message]) -> list[dict[str, Any]]:
    """User and assistant turns, alternating: neighbours of one role are put together."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.get("role") == "assistant" else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.get("role") == "tool":
        result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": _plain(message)}
        return [result]
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    blocks = [_block(p) for p in parts if p.get("type") != "text" or p.get("text")]
    return blocks + [_tool_use(call) for call in message.get("tool_calls") or []]


def _block(item: Mapping[str, Any]) -> dict[str, Any]:
    if item.get("type") == "text":
        return {"type": "text", "text": item["text"]}
    if item.get("type") == "image_url":
        url = str(item["image_url"]["url"])
        data = _DATA_URL.fullmatch(url)
        if data:
            return {"type": "image", "source": {"type": "base64", "media_type": data[1], "data": data[2]}}
        return {"type": "image", "source": {"type": "url", "url": url}}
    raise BadRequest(f"an Anthropic target takes no content part of type {item.get('type')!r}", param="messages")


def _tool_use(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError as error:
        raise BadRequest("a tool call's arguments are not JSON", param="messages") from error
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool.get("function")
    if tool.get("type", "function") != "function" or not isinstance(function, Mapping):
        raise BadRequest(f"an Anthropic target takes no tool of type {tool.get('type')!r}", param="tools")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    found = {"name": function.get("name"), "description": function.get("description"), "input_schema": schema}
    return {k: v for k, v in found.items() if v is not None}


def _tool_choice(choice: str | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if choice is None:
        return None
    if isinstance(choice, str):
        if choice not in TOOL_CHOICES:
            raise BadRequest(f"unknown tool_choice {choice!r}", param="tool_choice")
        return TOOL_CHOICES[choice]
    return {"type": "tool", "name": (choice.get("function") or {}).get("name")}


def _plain(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(str(p.get("text") or "") for p in content or () if isinstance(p, Mapping))
