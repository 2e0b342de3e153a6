"""An answer as the Responses API tells it: items that open, grow and close, and at last the whole response."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from foreshore.errors import ForeshoreError
from foreshore.router.api.answers import logprob_json, timings_json
from foreshore.router.api.door import Frame, event
from foreshore.types import Chunk, ToolCallDelta, Usage, new_id

__all__ = ["ResponseEvents"]

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ResponseEvents:
    """`echo` is what the response repeats of its request.

    A reasoning or message item closes when the next item opens. Function calls stay open until the end, since pieces
    of several may come in turn.
    """

    def __init__(self, frame: Frame, echo: Mapping[str, Any]) -> None:
        self._response: dict[str, Any] = {
            "id": new_id("resp"),
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "model": frame.model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "background": False,
            "store": False,
            "previous_response_id": None,
            "service_tier": frame.service_tier,
            "system_fingerprint": frame.fingerprint,
            "usage": None,
            **echo,
        }
        self._number = 0
        self._growing: _Item | None = None  # the reasoning or message that is open
        self._calls: dict[int, _Call] = {}  # by the index of the call in the answer

    def opening(self) -> bytes:
        return self._whole_event("response.created") + self._whole_event("response.in_progress")

    def chunk(self, chunk: Chunk) -> bytes:
        events = b""
        if chunk.reasoning:
            events += self._grow(_Reasoning, chunk.reasoning, ())
        if chunk.text or chunk.logprobs:
            events += self._grow(_Text, chunk.text, chunk.logprobs)
        for delta in chunk.tool_calls:
            events += self._call(delta)
        if chunk.finish_reason is not None:
            events += self._finish(chunk)
        return events

    def closing(self) -> bytes:
        return b""

    def error(self, error: ForeshoreError) -> bytes:
        """The stream's last event where an answer broke off."""
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        message = error.to_openai()["error"]["message"]
        self._response |= {"status": "failed", "error": {"code": code, "message": message}}
        return self._whole_event("response.failed")

    def whole(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        for chunk in chunks:
            self.chunk(chunk)
        return self._response

    def _grow(self, kind: type[_Item], text: str, logprobs: Sequence[Any]) -> bytes:
        events = b""
        if type(self._growing) is not kind:
            events = self._settle()
            self._growing = kind(len(self._response["output"]))
            events += self._open(self._growing)
        assert self._growing is not None
        return events + self._event(*self._growing.grow(text, [logprob_json(lp) for lp in logprobs]))

    def _call(self, delta: ToolCallDelta) -> bytes:
        events = b""
        call = self._calls.get(delta.index)
        if call is None:
            events = self._settle()
            call = self._calls[delta.index] = _Call(len(self._response["output"]), delta)
            events += self._open(call)
        return events + (self._event(*call.grow(delta.arguments, [])) if delta.arguments else b"")

    def _open(self, item: _Item) -> bytes:
        self._response["output"].append(item.json())
        return b"".join(self._event(*found) for found in item.opening())

    def _settle(self) -> bytes:
        growing, self._growing = self._growing, None
        return b"" if growing is None else self._close(growing, "completed")

    def _close(self, item: _Item, status: str) -> bytes:
        item.status = status
        self._response["output"][item.place] = item.json()
        return b"".join(self._event(*found) for found in item.closing())

    def _finish(self, chunk: Chunk) -> bytes:
        reason = _INCOMPLETE.get(str(chunk.finish_reason))
        status = "incomplete" if reason else "completed"
        left = [*([self._growing] if self._growing else []), *self._calls.values()]
        events = b"".join(self._close(item, status) for item in left)
        self._growing, self._calls = None, {}
        self._response |= {"status": status, "usage": _usage(chunk.usage)}
        if reason:
            self._response["incomplete_details"] = {"reason": reason}
        else:
            self._response["completed_at"] = int(time.time())
        if chunk.timings is not None:
            self._response["timings"] = timings_json(chunk.timings, chunk.usage)
        return events + self._whole_event(f"response.{status}")

    def _whole_event(self, name: str) -> bytes:
        return self._event(name, {"response": self._response})

    def _event(self, name: str, fields: Mapping[str, Any]) -> bytes:
        number, self._number = self._number, self._number + 1
        return event({"type": name, "sequence_number": number, **fields}, name=name)


class _Item(ABC):
    """One item of the output, at its `place` there. Its events are pairs of a name and fields."""

    part = ""  # the type of its one content part
    prefix = ""

    def __init__(self, place: int) -> None:
        self.place, self.status, self.text = place, "in_progress", ""
        self.id = new_id(self.prefix)
        self._logprobs: list[Any] = []

    @abstractmethod
    def json(self) -> dict[str, Any]: ...

    def opening(self) -> list[tuple[str, dict[str, Any]]]:
        return [
            ("response.output_item.added", {"output_index": self.place, "item": self.json()}),
            ("response.content_part.added", {**self._where(), "part": self._part()}),
        ]

    def grow(self, text: str, logprobs: list[Any]) -> tuple[str, dict[str, Any]]:
        self.text += text
        self._logprobs += logprobs
        return f"response.{self.part}.delta", {**self._where(), "delta": text, **self._with(logprobs)}

    def closing(self) -> list[tuple[str, dict[str, Any]]]:
        return [
            (f"response.{self.part}.done", {**self._where(), "text": self.text, **self._with(self._logprobs)}),
            ("response.content_part.done", {**self._where(), "part": self._part()}),
            ("response.output_item.done", {"output_index": self.place, "item": self.json()}),
        ]

    def _where(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.place, "content_index": 0}

    def _part(self) -> dict[str, Any]:
        return {"type": self.part, "text": self.text}

    def _with(self, logprobs: list[Any]) -> dict[str, Any]:
        return {}

    def _content(self) -> list[dict[str, Any]]:
        return [] if self.status == "in_progress" else [self._part()]


class _Text(_Item):
    part, prefix = "output_text", "msg"

    def json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "status": self.status,
            "role": "assistant",
            "content": self._content(),
        }

    def _part(self) -> dict[str, Any]:
        return {**super()._part(), "annotations": [], "logprobs": self._logprobs}

    def _with(self, logprobs: list[Any]) -> dict[str, Any]:
        return {"logprobs": logprobs}


class _Reasoning(_Item):
    part, prefix = "reasoning_text", "rs"

    def json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "reasoning",
            "status": self.status,
            "summary": [],
            "content": self._content(),
        }


class _Call(_Item):
    """A function call: it has no content part, its arguments grow instead."""

    prefix = "fc"

    def __init__(self, place: int, delta: ToolCallDelta) -> None:
        super().__init__(place)
        self._call_id, self._name = delta.id or new_id("call"), delta.name or ""

    def json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function_call",
            "status": self.status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": self.text,
        }

    def opening(self) -> list[tuple[str, dict[str, Any]]]:
        return [("response.output_item.added", {"output_index": self.place, "item": self.json()})]

    def grow(self, text: str, logprobs: list[Any]) -> tuple[str, dict[str, Any]]:
        self.text += text
        where = {"item_id": self.id, "output_index": self.place}
        return "response.function_call_arguments.delta", {**where, "delta": text}

    def closing(self) -> list[tuple[str, dict[str, Any]]]:
        where = {"item_id": self.id, "output_index": self.place}
        done = {**where, "name": self._name, "arguments": self.text}
        return [
            ("response.function_call_arguments.done", done),
            ("response.output_item.done", {"output_index": self.place, "item": self.json()}),
        ]


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
