"""The Messages API as the official `anthropic` client sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest

from foreshore.errors import ContextExceeded, Overloaded, Truncated, Unavailable
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, ToolCallDelta, Usage
from tests.router.serving import TWO_CALLS, Served, config_of, hello, serving, serving_edge

USAGE = Usage(prompt_tokens=8, completion_tokens=5, cached_tokens=2)
HI: Any = [{"role": "user", "content": "hi"}]
TOOL: Any = {"name": "add", "description": "adds", "input_schema": {"type": "object", "properties": {}}}
CALLS = [
    Chunk(reasoning="h"),
    Chunk(reasoning="m"),
    Chunk(text="see"),
    *TWO_CALLS,
    Chunk(finish_reason="tool_calls", usage=USAGE),
]


@pytest.fixture
def fake() -> FakeBackend:
    return hello(USAGE)


@pytest.fixture
def served(fake: FakeBackend, tmp_path: Path) -> Iterator[Served]:
    with serving_edge(fake, tmp_path / "l.sqlite") as found:
        yield found


def test_a_whole_answer(served: Served, fake: FakeBackend) -> None:
    answer = served.anthropic().messages.create(
        model="auto", max_tokens=9, messages=HI, system="Be short.", stop_sequences=["END"],
        extra_body={"temperature": 0.5, "top_k": 4},
    )  # fmt: skip
    assert [(b.type, b.text) for b in answer.content if b.type == "text"] == [("text", "Hello")]
    assert answer.role == "assistant"
    assert answer.model == "tiny"
    assert answer.stop_reason == "end_turn"
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (6, 2, 5)
    (request,) = fake.requests
    assert [dict(m) for m in request.messages] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "hi"},
    ]
    assert (request.sampling.max_tokens, request.sampling.stop, request.sampling.top_k) == (9, ("END",), 4)


def test_the_events_of_a_stream_come_in_the_documented_order(served: Served) -> None:
    events = list(served.anthropic().messages.create(model="auto", max_tokens=9, messages=HI, stream=True))
    assert [e.type for e in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_thinking_text_and_tools_streamed_and_whole_are_equal(served: Served, fake: FakeBackend) -> None:
    fake.script = list(CALLS)
    ask: Any = {
        "model": "auto", "max_tokens": 2048, "messages": HI, "tools": [TOOL],
        "tool_choice": {"type": "any"}, "thinking": {"type": "enabled", "budget_tokens": 1024},
    }  # fmt: skip
    client = served.anthropic().messages
    whole = client.create(**ask)
    with client.stream(**ask) as stream:
        streamed = stream.get_final_message()
    for answer in (whole, streamed):
        found = [
            block.model_dump(include={"type", "thinking", "text", "id", "name", "input"}) for block in answer.content
        ]
        assert found == [
            {"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "see"},
            {"type": "tool_use", "id": "call_a", "name": "add", "input": {"a": 1}},
            {"type": "tool_use", "id": "call_b", "name": "add", "input": {}},
        ]
        assert answer.stop_reason == "tool_use"
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (6, 5)
    request = fake.requests[0]
    assert request.tool_choice == "required"
    assert request.tools[0]["function"]["parameters"] == TOOL["input_schema"]
    assert request.extra["thinking"] == {"type": "enabled", "budget_tokens": 1024}


def test_an_answer_goes_back_in_with_the_results_of_its_tools(served: Served, fake: FakeBackend) -> None:
    fake.script = list(CALLS)
    client = served.anthropic().messages
    first = client.create(model="auto", max_tokens=9, messages=HI, tools=[TOOL])
    results: Any = [
        {"type": "tool_result", "tool_use_id": "call_a", "content": "1"},
        {"type": "tool_result", "tool_use_id": "call_b", "content": [{"type": "text", "text": "no"}], "is_error": True},
        {"type": "text", "text": "go on"},
    ]
    turns: Any = [*HI, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    client.create(model="auto", max_tokens=9, messages=turns, tools=[TOOL])
    messages = fake.requests[-1].messages
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert messages[1]["content"] == "see"
    assert messages[1]["reasoning_content"] == "hm"
    assert [json.loads(c["function"]["arguments"]) for c in messages[1]["tool_calls"]] == [{"a": 1}, {}]
    assert messages[2] == {"role": "tool", "tool_call_id": "call_a", "content": "1"}
    assert messages[3]["content"] == "Error: no"
    assert messages[4]["content"] == [{"type": "text", "text": "go on"}]


def test_images_and_a_json_format_travel_on(served: Served, fake: FakeBackend) -> None:
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    schema: Any = {"type": "object", "properties": {"a": {"type": "integer"}}}
    served.anthropic().messages.create(
        model="auto",
        max_tokens=9,
        messages=[{"role": "user", "content": [image, {"type": "text", "text": "what is it?"}]}],
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    (request,) = fake.requests
    assert request.messages[0]["content"][0]["image_url"]["url"] == "data:image/png;base64,AA=="
    assert request.response_format is not None
    assert request.response_format["json_schema"]["schema"] == schema


def test_tokens_are_counted(served: Served, fake: FakeBackend) -> None:
    fake.script = [Chunk(tokens=(1, 2, 3), finish_reason="stop", usage=USAGE)]
    found = served.anthropic().messages.count_tokens(model="auto", messages=HI, system="x", tools=[TOOL])
    assert found.input_tokens == 3
    assert fake.requests[0].task == "tokenize"
    assert [m["role"] for m in fake.requests[0].messages] == ["system", "user"]


def test_a_cut_answer_says_max_tokens(served: Served, fake: FakeBackend) -> None:
    fake.script = [Chunk(text="Hel"), Chunk(finish_reason="length", usage=USAGE)]
    assert served.anthropic().messages.create(model="auto", max_tokens=1, messages=HI).stop_reason == "max_tokens"


def test_arguments_that_are_no_object_are_kept(served: Served, fake: FakeBackend) -> None:
    call = ToolCallDelta(index=0, id="c", name="add", arguments='{"a":')
    fake.script = [Chunk(tool_calls=(call,)), Chunk(finish_reason="tool_calls", usage=USAGE)]
    (block,) = served.anthropic().messages.create(model="auto", max_tokens=9, messages=HI, tools=[TOOL]).content
    assert block.type == "tool_use"
    assert block.input == {"unparsed": '{"a":'}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (Overloaded("full", target="edge", retry_after=3.0), anthropic.RateLimitError, "rate_limit_error"),
        (Unavailable("down", target="edge"), anthropic.InternalServerError, "overloaded_error"),
        (ContextExceeded(prompt_tokens=9, context_tokens=5), anthropic.BadRequestError, "invalid_request_error"),
        (ValueError("secret"), anthropic.InternalServerError, "api_error"),
    ],
)
def test_errors_have_anthropics_shape(
    served: Served, fake: FakeBackend, error: Exception, kind: type[Exception], name: str, stream: bool
) -> None:
    fake.script = [error]
    with pytest.raises(kind) as caught:
        served.anthropic().messages.create(model="auto", max_tokens=9, messages=HI, stream=stream)
    body: Any = caught.value.body  # type: ignore[attr-defined]
    assert body["type"] == "error"
    assert body["error"]["type"] == name
    assert "secret" not in str(body)


def test_a_stream_that_breaks_off_raises(served: Served, fake: FakeBackend) -> None:
    fake.script = [Chunk(text="part"), Truncated("broke", target="edge")]
    with (
        pytest.raises(anthropic.APIStatusError, match="broke"),
        served.anthropic().messages.stream(model="auto", max_tokens=9, messages=HI) as stream,
    ):
        stream.until_done()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [*HI, {"role": "assistant", "content": "I"}]}, "end with the assistant"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages.0.content.0.type"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}, *HI]}, "messages.0.content.0"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice"),
    ({"thinking": {"type": "between_tools"}}, "thinking.type"),
    ({"output_config": {"effort": "low"}}, "output_config.effort"),
    ({"container": "c"}, "container"),
    ({"mcp_servers": []}, "mcp_servers"),
    ({"temperature": 1.5}, "temperature"),
    ({"n": 2}, "n"),
    ({"stop": "x"}, "stop"),
]


@pytest.mark.parametrize(("fields", "said"), BAD)
def test_what_is_not_honoured_is_refused_by_name(
    served: Served, fake: FakeBackend, fields: dict[str, Any], said: str
) -> None:
    body = {"model": "auto", "max_tokens": 9, "messages": HI, **fields}
    answer = served.http.post("/v1/messages", json={k: v for k, v in body.items() if v is not None})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert said in answer.json()["error"]["message"]
    assert not fake.requests


def test_no_such_method_or_path_in_the_same_shape(served: Served) -> None:
    for answer in (served.http.get("/v1/messages"), served.http.post("/v1/messages/batches", json={})):
        assert answer.status_code in (404, 405)
        assert answer.json()["type"] == "error"


def test_a_key_may_come_in_anthropics_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", "k" * 20)
    text = "targets: {edge: {kind: local, model: tiny}}\ntenants: [{name: team, key_env: TEAM_KEY}]"
    fake = FakeBackend("hello", name="edge")
    with serving(config_of(text, tmp_path / "l.sqlite"), {"edge": fake}) as served:
        served.anthropic("k" * 20).messages.create(model="auto", max_tokens=9, messages=HI)
        assert fake.requests[0].tenant == "team"
        with pytest.raises(anthropic.AuthenticationError):
            served.anthropic("x" * 20).messages.create(model="auto", max_tokens=9, messages=HI)
        client = anthropic.Anthropic(base_url=served.url, auth_token="k" * 20, max_retries=0)
        with client:
            client.messages.create(model="auto", max_tokens=9, messages=HI)
