"""Answers in the shapes of OpenAI's chat, completions and embeddings, streamed and whole."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Sequence
from typing import Any

from foreshore.backend import Answer, join
from foreshore.errors import ForeshoreError
from foreshore.gaps import gap_quantile
from foreshore.router.api.door import Frame, Unstreamed, event
from foreshore.types import Chunk, Task, Timings, TokenLogprob, ToolCallDelta, Usage, new_id

__all__ = ["Answers", "Vectors", "input_usage", "logprob_json", "timings_json"]

DONE = b"data: [DONE]\n\n"
_MARK = "\0"  # a text, where an event is cut into what stands before and after its text
_quoted = json.encoder.encode_basestring  # as `event` writes a text, without an encoder around it


class Answers:
    """One chat or completion answer of `choices` choices: id, moment and model stay the same in every piece."""

    def __init__(self, task: Task, frame: Frame, *, wants_usage: bool = False, choices: int = 1) -> None:
        self._chat, self._wants_usage, self._choices = task == "chat", wants_usage, choices
        self._frame: dict[str, Any] = {
            "id": new_id("chatcmpl" if self._chat else "cmpl"),
            "object": "chat.completion" if self._chat else "text_completion",
            "created": int(time.time()),
            "model": frame.model,
            "system_fingerprint": frame.fingerprint,
        }
        if self._chat:
            self._frame["service_tier"] = frame.service_tier
        self._around: dict[int, tuple[bytes, bytes]] = {}  # the text of a choice's usual event
        self._offsets = [0] * choices  # characters of completion text so far, for the legacy logprobs
        self._open = choices

    # --- streamed ---

    def opening(self) -> bytes:
        """The first event of each choice of a chat stream: the role, nothing else."""
        if not self._chat:
            return b""
        return b"".join(self._event(i, {"role": "assistant", "content": ""}, None, None) for i in range(self._choices))

    def chunk(self, chunk: Chunk) -> bytes:
        """The events of one chunk. The last of all choices carries timings, and usage follows it if asked for."""
        more = chunk.reasoning or chunk.tool_calls or chunk.logprobs
        events = self._content(chunk) if more else self._text(chunk) if chunk.text else b""
        if chunk.finish_reason is not None:
            events += self._closing(chunk)
        return events

    def closing(self) -> bytes:
        return DONE

    def error(self, error: ForeshoreError) -> bytes:
        """An error in the middle of a stream: OpenAI's clients raise on it."""
        return event(error.to_openai())

    def _text(self, chunk: Chunk) -> bytes:
        """What `_content` gives for text alone: one for each token, so only the text is written anew."""
        around = self._around.get(chunk.index)
        if around is None:
            before, _, after = self._content(Chunk(text=_MARK, index=chunk.index)).rpartition(_quoted(_MARK).encode())
            around = self._around[chunk.index] = before, after
        return around[0] + _quoted(chunk.text).encode("utf-8", "replace") + around[1]

    def _content(self, chunk: Chunk) -> bytes:
        logprobs = self._logprobs(chunk.logprobs, chunk.index)
        if not self._chat:
            return self._event(chunk.index, chunk.text, logprobs, None)
        delta: dict[str, Any] = {}
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.text or not (chunk.reasoning or chunk.tool_calls):
            delta["content"] = chunk.text
        if chunk.tool_calls:
            delta["tool_calls"] = [_tool_delta(call) for call in chunk.tool_calls]
        return self._event(chunk.index, delta, logprobs, None)

    def _closing(self, chunk: Chunk) -> bytes:
        self._open -= 1
        more = {"timings": timings_json(chunk.timings, chunk.usage)} if chunk.timings else {}
        last = self._event(chunk.index, {} if self._chat else "", None, chunk.finish_reason, **more)
        if self._wants_usage and self._open == 0:
            last += event({**self._streamed(), "choices": [], "usage": usage_json(chunk.usage)})
        return last

    def _event(self, index: int, delta: Any, logprobs: Any, finish_reason: str | None, **more: Any) -> bytes:
        field = "delta" if self._chat else "text"
        choice = {"index": index, field: delta, "logprobs": logprobs, "finish_reason": finish_reason}
        usage = {"usage": None} if self._wants_usage else {}
        return event({**self._streamed(), "choices": [choice], **usage, **more})

    def _streamed(self) -> dict[str, Any]:
        return {**self._frame, "object": "chat.completion.chunk"} if self._chat else self._frame

    def _logprobs(self, found: Sequence[TokenLogprob], index: int) -> dict[str, Any] | None:
        if not found:
            return None
        if self._chat:
            return {"content": [logprob_json(lp) for lp in found], "refusal": None}
        legacy = _legacy_logprobs(found, self._offsets[index])
        self._offsets[index] += sum(len(lp.token) for lp in found)
        return legacy

    # --- whole ---

    def whole(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        """The body of an answer that is not streamed. `chunks` are those of all choices, in any order between them."""
        choices = [self._choice(i, join([c for c in chunks if c.index == i])) for i in range(self._choices)]
        last = chunks[-1]
        body = {**self._frame, "choices": choices, "usage": usage_json(last.usage)}
        return body if last.timings is None else {**body, "timings": timings_json(last.timings, last.usage)}

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "finish_reason": answer.finish_reason}
        choice["logprobs"] = self._logprobs(answer.logprobs, index)
        if self._chat:
            choice["message"] = _message(answer)
        else:
            choice["text"] = answer.text
        return choice


class Vectors(Unstreamed):
    """An embedding answer; `packed`: base64 of little-endian float32, as OpenAI's client asks for."""

    def __init__(self, frame: Frame, *, packed: bool) -> None:
        self._model, self._packed = frame.model, packed

    def whole(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        answer = join(list(chunks))
        data = [
            {"object": "embedding", "index": i, "embedding": _pack(v) if self._packed else list(v)}
            for i, v in enumerate(answer.embeddings)
        ]
        return {"object": "list", "data": data, "model": self._model, "usage": input_usage(answer.usage)}


def input_usage(usage: Usage | None) -> dict[str, int]:
    """The counts of an answer that writes no tokens."""
    tokens = usage.prompt_tokens if usage is not None else 0
    return {"prompt_tokens": tokens, "total_tokens": tokens}


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


def timings_json(timings: Timings, usage: Usage | None = None) -> dict[str, float]:
    """Milliseconds, tokens, and tokens per second, as docs/metrics.md lists them; 0 is not measured."""
    return {
        "queue_ms": timings.queue_s * 1000,
        "prefill_ms": timings.prefill_s * 1000,
        "prefill_tokens": timings.prefill_tokens,
        "cached_tokens": usage.cached_tokens if usage else 0,
        "prefill_tokens_per_s": timings.prefill_tokens_per_s,
        "ttft_ms": timings.ttft_s * 1000,
        "tpot_ms": timings.tpot_s * 1000,
        "gap_p50_ms": gap_quantile(timings.gaps, 0.5) * 1000,
        "gap_p99_ms": gap_quantile(timings.gaps, 0.99) * 1000,
        "decode_ms": timings.decode_s * 1000,
        "decode_tokens": timings.decode_tokens,
        "decode_tokens_per_s": timings.decode_tokens_per_s,
        "parked": timings.parked,
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


def logprob_json(found: TokenLogprob) -> dict[str, Any]:
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
