"""An answer as Anthropic's Messages API tells it: content blocks that open, grow and stop; and its errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from foreshore.backend import join
from foreshore.errors import ForeshoreError
from foreshore.router.api.answers import timings_json
from foreshore.router.api.door import Frame, event
from foreshore.types import Chunk, ToolCallDelta, Usage, new_id

__all__ = ["MessageEvents", "error_json"]

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class MessageEvents:
    """A block of text or thinking stops when the next one starts; tool calls stop together at the end, since pieces of
    several may come in turn. The usage of a stream is known at its end: `message_delta` has all of it."""

    def __init__(self, frame: Frame) -> None:
        self._message: dict[str, Any] = {
            "id": new_id("msg"),
            "type": "message",
            "role": "assistant",
            "model": frame.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        self._blocks = 0
        self._open = ""  # the type of the text or thinking block that grows; "": none does
        self._calls: dict[int, int] = {}  # block by the index of the call in the answer

    def opening(self) -> bytes:
        return _event("message_start", {"message": {**self._message, "usage": _usage(None)}})

    def chunk(self, chunk: Chunk) -> bytes:
        events = b""
        if chunk.reasoning:
            events += self._grow("thinking", {"thinking": chunk.reasoning})
        if chunk.text:
            events += self._grow("text", {"text": chunk.text})
        for delta in chunk.tool_calls:
            events += self._call(delta)
        if chunk.finish_reason is not None:
            events += self._finish(chunk)
        return events

    def closing(self) -> bytes:
        return _event("message_stop", {})

    def error(self, error: ForeshoreError) -> bytes:
        return event(error_json(error), name="error")

    def whole(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        answer = join(list(chunks))
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
        if answer.text:
            content.append({"type": "text", "text": answer.text})
        for call in answer.tool_calls:
            content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call.arguments)})
        more = {"timings": timings_json(answer.timings, answer.usage)} if answer.timings is not None else {}
        reason = STOP_REASONS[answer.finish_reason]
        return {**self._message, "content": content, "stop_reason": reason, "usage": _usage(answer.usage), **more}

    def _grow(self, kind: str, delta: Mapping[str, str]) -> bytes:
        events = b""
        if self._open != kind:
            empty = {"signature": ""} if kind == "thinking" else {}
            events = self._stop() + self._start({"type": kind, kind: "", **empty})
            self._open = kind
        return events + _delta(self._blocks - 1, {"type": f"{kind}_delta", **delta})

    def _call(self, delta: ToolCallDelta) -> bytes:
        events = b""
        if delta.index not in self._calls:
            block = {"type": "tool_use", "id": delta.id or new_id("toolu"), "name": delta.name or "", "input": {}}
            events = self._stop() + self._start(block)
            self._calls[delta.index] = self._blocks - 1
        if not delta.arguments:
            return events
        piece = {"type": "input_json_delta", "partial_json": delta.arguments}
        return events + _delta(self._calls[delta.index], piece)

    def _start(self, block: Mapping[str, Any]) -> bytes:
        self._blocks += 1
        return _event("content_block_start", {"index": self._blocks - 1, "content_block": block})

    def _stop(self) -> bytes:
        """The end of the block that grows."""
        kind, self._open = self._open, ""
        return _event("content_block_stop", {"index": self._blocks - 1}) if kind else b""

    def _finish(self, chunk: Chunk) -> bytes:
        stops = [_event("content_block_stop", {"index": index}) for index in self._calls.values()]
        delta = {"stop_reason": STOP_REASONS[str(chunk.finish_reason)], "stop_sequence": None}
        more = {"timings": timings_json(chunk.timings, chunk.usage)} if chunk.timings is not None else {}
        last = _event("message_delta", {"delta": delta, "usage": _usage(chunk.usage), **more})
        return self._stop() + b"".join(stops) + last


def error_json(error: ForeshoreError) -> dict[str, Any]:
    """An error in Anthropic's shape."""
    message = error.to_openai()["error"]["message"]
    return {"type": "error", "error": {"type": _ERRORS.get(error.status, "api_error"), "message": message}}


def _event(name: str, fields: Mapping[str, Any]) -> bytes:
    return event({"type": name, **fields}, name=name)


def _delta(index: int, delta: Mapping[str, Any]) -> bytes:
    return _event("content_block_delta", {"index": index, "delta": delta})


def _input(arguments: str) -> dict[str, Any]:
    """A tool's input must be an object; what a model wrote instead is kept under `unparsed`."""
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"unparsed": arguments}


def _usage(usage: Usage | None) -> dict[str, Any]:
    """`input_tokens` are those that were computed: cached ones are counted beside them."""
    usage = usage or Usage(prompt_tokens=0, completion_tokens=0)
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    }
