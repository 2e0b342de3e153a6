"""AnthropicBackend: OpenAI's shapes in and out, the Messages API on the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from foreshore.backend import Answer, collect
from foreshore.clearance import grant
from foreshore.cloud.anthropic import AnthropicBackend
from foreshore.errors import BadRequest, ForeshoreError, Overloaded, RoutingError, UpstreamError
from foreshore.types import Request, Sampling
from tests.cloud.upstream import Upstream, event, head, upstream

KEY = "canary-key-0123456789"


def typed(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


START = typed("message_start", message={"usage": {"input_tokens": 5, "cache_read_input_tokens": 3, "output_tokens": 1}})
STOP = (
    typed("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 9}),
    typed("message_stop"),
)
ANSWER = (
    START,
    typed("ping"),
    typed("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
    typed("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hmm"}),
    typed("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "x"}),
    typed("content_block_start", index=1, content_block={"type": "text", "text": ""}),
    typed("content_block_delta", index=1, delta={"type": "text_delta", "text": "Let me look."}),
    typed("content_block_start", index=2, content_block={"type": "tool_use", "id": "t1", "name": "f", "input": {}}),
    typed("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": '{"a"'}),
    typed("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": ":1}"}),
    *STOP,
)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_CLOUD_KEY", KEY)


async def answered(*script: bytes, request: Request) -> tuple[Answer, Upstream]:
    async with upstream(*script) as server:
        cloud = AnthropicBackend("claude", key_env="TEST_CLOUD_KEY", base_url=server.url)
        try:
            return await collect(cloud, request), server
        finally:
            await cloud.close()


def ask(*messages: dict[str, Any], **fields: Any) -> Request:
    found = messages or ({"role": "user", "content": "hi"},)
    return grant(Request(messages=found, **fields), ["cloud"])


def refused(*script: bytes, request: Request | None = None) -> ForeshoreError:
    with pytest.raises(ForeshoreError) as caught:
        asyncio.run(answered(*script, request=request or ask()))
    assert KEY not in f"{caught.value!r}"
    return caught.value


def test_text_thinking_tool_calls_and_usage_are_read() -> None:
    answer, server = asyncio.run(answered(head(), *ANSWER, request=ask()))
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("Let me look.", "hmm", "tool_calls")
    assert (answer.tool_calls[0].id, answer.tool_calls[0].name, answer.tool_calls[0].arguments) == (
        "t1",
        "f",
        '{"a":1}',
    )
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.cached_tokens, answer.usage.completion_tokens) == (8, 3, 9)
    line, headers, _ = server.requests[0]
    assert line.startswith("POST /v1/messages")
    assert headers["x-api-key"] == KEY
    assert headers["anthropic-version"]


def test_a_conversation_with_tools_is_translated() -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    request = ask(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "look"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "42"},
        {"role": "user", "content": "so?"},
        tools=({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},),
        tool_choice={"type": "function", "function": {"name": "f"}},
        sampling=Sampling(max_tokens=7, temperature=0.5, stop=("x",)),
    )
    _, server = asyncio.run(answered(head(), *ANSWER, request=request))
    assert server.requests[0][2] == {
        "model": "claude",
        "max_tokens": 7,
        "stream": True,
        "system": "Be brief.",
        "temperature": 0.5,
        "stop_sequences": ["x"],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": "f"},
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "look"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
                ],
            },
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "42"},
                    {"type": "text", "text": "so?"},
                ],
            },
        ],
    }


def test_thinking_is_sent_as_it_was_asked_for() -> None:
    thinking = {"type": "enabled", "budget_tokens": 2048}
    _, server = asyncio.run(answered(head(), *ANSWER, request=ask(extra={"thinking": thinking})))
    assert server.requests[0][2]["thinking"] == thinking
    _, server = asyncio.run(answered(head(), *ANSWER, request=ask()))
    assert "thinking" not in server.requests[0][2]


@pytest.mark.parametrize("length", range(len(ANSWER)))
def test_a_stream_cut_anywhere_is_never_a_success(length: int) -> None:
    assert isinstance(refused(head(), *ANSWER[:length]), UpstreamError)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ((head("529 Overloaded", "application/json"), b'{"type":"error","error":{"message":"busy"}}'), Overloaded),
        ((head(), START, typed("error", error={"type": "overloaded_error", "message": "busy"})), Overloaded),
        ((head(), START, typed("error", error={"type": "invalid_request_error", "message": "no"})), UpstreamError),
        ((head(), START, typed("message_stop")), UpstreamError),
        ((head(), START, typed("content_block_delta", delta="x")), UpstreamError),
        ((head("400 Bad Request", "application/json"), b'{"error":{"message":"no"}}'), BadRequest),
    ],
)
def test_every_wrong_answer_is_one_of_our_errors(script: tuple[bytes, ...], kind: type[ForeshoreError]) -> None:
    assert type(refused(*script)) is kind


@pytest.mark.parametrize(
    "request_",
    [
        Request(task="completion", prompt="x"),
        Request(messages=({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},)),
        Request(messages=({"role": "user", "content": [{"type": "image_url"}]},)),
        Request(messages=({"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]},)),
        Request(messages=({"role": "user", "content": "x"},), tools=({"type": "web_search"},)),
    ],
)
def test_what_it_cannot_express_is_a_bad_request(request_: Request) -> None:
    assert isinstance(refused(head(), *ANSWER, request=grant(request_, ["cloud"])), BadRequest)


def test_nothing_is_sent_without_a_clearance() -> None:
    assert isinstance(
        refused(head(), *ANSWER, request=Request(messages=({"role": "user", "content": "x"},))), RoutingError
    )
