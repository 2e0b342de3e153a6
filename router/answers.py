"""Answers in OpenAI's shapes, streamed and whole."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

from foreshore.backend import Answer
from foreshore.errors import ForeshoreError
from foreshore.types import Chunk, Task, Timings, TokenLogprob, ToolCallDelta, Usage, new_id

__all__ = ["DONE", "Encoder", "error_event", "timings_json", "usage_json"]

DONE = b"data: [DONE]\n\n"


class Encoder:
    """The frame around one answer: its id, its moment and the model's name stay the same in every piece."""

    def __init__(self, task: Task, *, model: str, fingerprint: str, wants_usage: bool = False) -> None:
        self._task, self._wants_usage = task, wants_usage
        self._frame: dict[str, Any] = {
            "id": new_id("chatcmpl" if task == "chat" else "cmpl"),
            "object": {"chat": "chat.completion", "completion": "text_completion"}.get(task, "list"),
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }
        self._offset = 0  # characters of completion text so far, for the legacy logprobs

    # --- streamed ---

    def opening(self) -> bytes:
        """The first event of a chat stream: the role, nothing else."""
        if self._task != "chat":
            return b""
        return self._event({"role": "assistant", "content": ""}, None, None)

    def chunk(self, chunk: Chunk) -> bytes:
        """The events of one chunk. The last carries timings, and usage follows it if asked for."""
        events = b""
        if chunk.text or chunk.reasoning or chunk.tool_calls or chunk.logprobs:
            events = self._content(chunk)
        if chunk.finish_reason is not None:
            events += self._closing(chunk)
        return events

    def _content(self, chunk: Chunk) -> bytes:
        if self._task != "chat":
            return self._event(chunk.text, self._logprobs(chunk.logprobs), None)
        delta: dict[str, Any] = {}
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.text or not (chunk.reasoning or chunk.tool_calls):
            delta["content"] = chunk.text
        if chunk.tool_calls:
            delta["tool_calls"] = [_tool_delta(call) for call in chunk.tool_calls]
        return self._event(delta, self._logprobs(chunk.logprobs), None)

    def _closing(self, chunk: Chunk) -> bytes:
        more = {"timings": timings_json(chunk.timings)} if chunk.timings else {}
        last = self._event({} if self._task == "chat" else "", None, chunk.finish_reason, **more)
        if self._wants_usage:
            last += _data({**self._streamed(), "choices": [], "usage": usage_json(chunk.usage)})
        return last

    def _event(self, delta: Any, logprobs: Any, finish_reason: str | None, **more: Any) -> bytes:
        field = "delta" if self._task == "chat" else "text"
        choice = {"index": 0, field: delta, "logprobs": logprobs, "finish_reason": finish_reason}
        usage = {"usage": None} if self._wants_usage else {}
        return _data({**self._streamed(), "choices": [choice], **usage, **more})

    def _streamed(self) -> dict[str, Any]:
        return {**self._frame, "object": "chat.completion.chunk"} if self._task == "chat" else self._frame

    def _logprobs(self, found: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not found:
            return None
        if self._task == "chat":
            return {"content": [_logprob(lp) for lp in found], "refusal": None}
        legacy = _legacy_logprobs(found, self._offset)
        self._offset += sum(len(lp.token) for lp in found)
        return legacy

    # --- whole ---

    def whole(self, answer: Answer) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": answer.finish_reason}
        choice["logprobs"] = self._logprobs(answer.logprobs)
        if self._task == "chat":
            choice["message"] = _message(answer)
        else:
            choice["text"] = answer.text
        body = {**self._frame, "choices": [choice], "usage": usage_json(answer.usage)}
        return body if answer.timings is None else {**body, "timings": timings_json(answer.timings)}

    def vectors(self, answer: Answer, *, packed: bool) -> dict[str, Any]:
        """The body of an embedding answer; `packed`: base64 of little-endian float32, as OpenAI's client asks for."""
        data = [
            {"object": "embedding", "index": i, "embedding": _pack(v) if packed else list(v)}
            for i, v in enumerate(answer.embeddings)
        ]
        usage = usage_json(answer.usage) or {"prompt_tokens": 0, "total_tokens": 0}
        counts = {k: usage[k] for k in ("prompt_tokens", "total_tokens")}
        return {"object": "list", "data": data, "model": self._frame["model"], "usage": counts}


def error_event(error: ForeshoreError) -> bytes:
    """An error in the middle of a stream: OpenAI's clients raise on it."""
    return _data(error.to_openai())


def usage_json(usage: Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def timings_json(timings: Timings) -> dict[str, float]:
    """Measured durations in milliseconds and rates in tokens per second; 0 is not measured."""
    return {
        "queue_ms": timings.queue_s * 1000,
        "prefill_ms": timings.prefill_s * 1000,
        "prefill_tokens": timings.prefill_tokens,
        "prefill_tokens_per_s": timings.prefill_tokens_per_s,
        "ttft_ms": timings.ttft_s * 1000,
        "tpot_ms": timings.tpot_s * 1000,
        "decode_ms": timings.decode_s * 1000,
        "decode_tokens": timings.decode_tokens,
        "decode_tokens_per_s": timings.decode_tokens_per_s,
    }


def _message(answer: Answer) -> dict[str, Any]:
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for c in answer.tool_calls
    ]
    message: dict[str, Any] = {"role": "assistant", "content": answer.text if answer.text or not calls else None}
    message["refusal"] = None
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    return {**message, "tool_calls": calls} if calls else message


def _tool_delta(call: ToolCallDelta) -> dict[str, Any]:
    function = {"arguments": call.arguments} if call.name is None else {"name": call.name, "arguments": call.arguments}
    opening = {} if call.id is None else {"id": call.id, "type": "function"}
    return {"index": call.index, **opening, "function": function}


def _logprob(found: TokenLogprob) -> dict[str, Any]:
    top = [{"token": t.token, "logprob": t.logprob, "bytes": list(t.bytes)} for t in found.top]
    return {"token": found.token, "logprob": found.logprob, "bytes": list(found.bytes), "top_logprobs": top}


def _legacy_logprobs(found: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    offsets = [offset + sum(len(lp.token) for lp in found[:i]) for i in range(len(found))]
    return {
        "tokens": [lp.token for lp in found],
        "token_logprobs": [lp.logprob for lp in found],
        "top_logprobs": [{t.token: t.logprob for t in lp.top} for lp in found],
        "text_offset": offsets,
    }


def _pack(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _data(body: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"
