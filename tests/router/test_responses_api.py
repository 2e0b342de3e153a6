"""The Responses API as the official `openai` client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from foreshore.errors import Overloaded, Truncated
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, TokenLogprob, Usage
from tests.router.serving import TWO_CALLS, Served, hello, serving_edge

USAGE = Usage(prompt_tokens=8, completion_tokens=5, cached_tokens=2, reasoning_tokens=1)
STOP = Chunk(finish_reason="stop", usage=USAGE)
TOOL: Any = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}, "strict": True}
CALLS = [
    Chunk(reasoning="hm"),
    Chunk(text="let me see"),
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


def test_text_in_text_out(served: Served, fake: FakeBackend) -> None:
    answer = served.openai().responses.create(
        model="auto", input="hi", instructions="Be short.", max_output_tokens=9, temperature=0.5, metadata={"a": "b"}
    )
    assert answer.output_text == "Hello"
    assert answer.status == "completed"
    assert answer.store is False  # type: ignore[attr-defined]
    assert answer.metadata == {"a": "b"}
    assert answer.instructions == "Be short."
    assert answer.usage is not None
    assert answer.usage.input_tokens == 8
    assert answer.usage.input_tokens_details.cached_tokens == 2
    assert answer.usage.output_tokens_details.reasoning_tokens == 1
    assert answer.usage.total_tokens == 13
    (request,) = fake.requests
    assert [dict(m) for m in request.messages] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "hi"},
    ]
    assert request.sampling.max_tokens == 9
    assert request.sampling.temperature == 0.5


def test_the_events_of_a_stream_come_in_the_documented_order(served: Served) -> None:
    events = list(served.openai().responses.create(model="auto", input="hi", stream=True))
    assert [e.type for e in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [e.sequence_number for e in events] == list(range(10))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "Hello"
    assert last.response.usage is not None


def test_the_clients_own_stream_helper_puts_it_together(served: Served, fake: FakeBackend) -> None:
    fake.script = list(CALLS)
    with served.openai().responses.stream(model="auto", input="hi", tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    calls = [item for item in final.output if item.type == "function_call"]
    assert [(c.call_id, c.name, c.arguments) for c in calls] == [("call_a", "add", '{"a":1}'), ("call_b", "add", "{}")]
    assert kinds.count("response.function_call_arguments.delta") == 3
    assert kinds.count("response.reasoning_text.delta") == 1


def test_whole_and_streamed_answers_are_equal(served: Served, fake: FakeBackend) -> None:
    fake.script = list(CALLS)
    client = served.openai().responses
    whole = client.create(model="auto", input="hi", tools=[TOOL])
    *_, last = client.create(model="auto", input="hi", tools=[TOOL], stream=True)
    assert last.type == "response.completed"

    def plain(response: Any) -> Any:
        return [{k: v for k, v in item.items() if k != "id"} for item in response.model_dump()["output"]]

    assert plain(whole) == plain(last.response)


def test_an_answer_goes_back_in_as_input(served: Served, fake: FakeBackend) -> None:
    fake.script = list(CALLS)
    client = served.openai().responses
    first = client.create(model="auto", input="hi", tools=[TOOL])
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}, *first.output]
    items += [{"type": "function_call_output", "call_id": c, "output": "1"} for c in ("call_a", "call_b")]
    client.create(model="auto", input=items, tools=[TOOL], tool_choice={"type": "function", "name": "add"})
    request = fake.requests[-1]
    assert [m["role"] for m in request.messages] == ["user", "assistant", "tool", "tool"]
    assistant = request.messages[1]
    assert assistant["reasoning_content"] == "hm"
    assert assistant["content"] == [{"type": "text", "text": "let me see"}]
    assert [c["id"] for c in assistant["tool_calls"]] == ["call_a", "call_b"]
    assert request.messages[3] == {"role": "tool", "tool_call_id": "call_b", "content": "1"}
    assert request.tool_choice == {"type": "function", "function": {"name": "add"}}
    assert request.tools[0]["function"] == {k: v for k, v in TOOL.items() if k != "type"}


def test_two_turns_of_the_assistant_stay_two(served: Served, fake: FakeBackend) -> None:
    says = [{"role": "assistant", "content": text} for text in ("one", "two")]
    items: Any = [*says, {"role": "user", "content": "hi"}]
    served.openai().responses.create(model="auto", input=items)
    assert [m["content"] for m in fake.requests[0].messages] == ["one", "two", "hi"]


class Animal(BaseModel):
    kind: str
    legs: int


def test_structured_output_is_parsed(served: Served, fake: FakeBackend) -> None:
    fake.script = [Chunk(text='{"kind":"cat","legs":4}'), STOP]
    answer = served.openai().responses.parse(model="auto", input="hi", text_format=Animal)
    assert answer.output_parsed == Animal(kind="cat", legs=4)
    form = fake.requests[0].response_format
    assert form is not None
    assert form["type"] == "json_schema"
    assert form["json_schema"]["name"] == "Animal"
    assert set(form["json_schema"]["schema"]["properties"]) == {"kind", "legs"}


def test_logprobs(served: Served, fake: FakeBackend) -> None:
    other = TokenLogprob(token="y", bytes=b"y", logprob=-1.0)
    fake.script = [Chunk(text="x", logprobs=(TokenLogprob(token="x", bytes=b"x", logprob=-0.5, top=(other,)),)), STOP]
    answer: Any = served.openai().responses.create(
        model="auto", input="hi", top_logprobs=1, include=["message.output_text.logprobs"]
    )
    (found,) = answer.output[0].content[0].logprobs
    assert (found.token, found.top_logprobs[0].token) == ("x", "y")
    assert fake.requests[0].sampling.logprobs == 1


def test_an_answer_cut_short_is_incomplete(served: Served, fake: FakeBackend) -> None:
    fake.script = [Chunk(text="Hel"), Chunk(finish_reason="length", usage=USAGE)]
    client = served.openai().responses
    answer = client.create(model="auto", input="hi")
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    *_, last = client.create(model="auto", input="hi", stream=True)
    assert last.type == "response.incomplete"


def test_a_stream_that_breaks_off_fails_and_an_early_failure_has_a_status(served: Served, fake: FakeBackend) -> None:
    client = served.openai().responses
    fake.script = [Chunk(text="part"), Truncated("broke", target="edge")]
    *_, last = client.create(model="auto", input="hi", stream=True)
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    fake.script = [Overloaded("full", target="edge", retry_after=3.0)]
    with pytest.raises(openai.RateLimitError):
        client.create(model="auto", input="hi", stream=True)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"store": True}, "store"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"max_tool_calls": 3}, "max_tool_calls"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"input": []}, "input"),
    ({"input": [{"type": ["message"]}]}, "input.0.type"),
    ({"input": [{"role": "user", "content": [{"type": ["input_text"]}]}]}, "input.0.content.0.type"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input.0.content.0.type"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input.0.content.0"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role"),
    ({"input": [{"role": "user"}]}, "input.0.content"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input.0"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0.call_id"),
    ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input.0.encrypted_content"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ({"include": ["file_search_call.results"]}, "include.0"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"n": 2}, "n"),
    ({"stop": ["x"]}, "stop"),
]


@pytest.mark.parametrize(("fields", "param"), BAD)
def test_what_is_not_honoured_is_refused_by_name(
    served: Served, fake: FakeBackend, fields: dict[str, Any], param: str
) -> None:
    answer = served.http.post("/v1/responses", json={"model": "auto", "input": "hi", **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert not fake.requests


def test_what_only_says_the_default_is_taken(served: Served) -> None:
    answer = served.openai().responses.create(
        model="auto", input="hi", store=False, background=False, previous_response_id=None, truncation="disabled",
        parallel_tool_calls=True, include=["reasoning.encrypted_content"], service_tier="auto",
    )  # fmt: skip
    assert answer.status == "completed"


def test_reasoning_effort_needs_a_target_that_honours_it(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="reasoning_effort"):
        served.openai().responses.create(model="auto", input="hi", reasoning={"effort": "low"})
