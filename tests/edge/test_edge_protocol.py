"""Messages between parent and worker survive the way, and damaged ones are told apart."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore import errors
from foreshore.edge.options import EngineOptions, Load
from foreshore.edge.protocol import Cancel, Failure, Message, Ping, Results, Start, Submit, decode, encode, unframe
from foreshore.errors import BadRequest, ContextExceeded, Overloaded, UpstreamError
from foreshore.types import Chunk, Request, Sampling, Timings, TokenLogprob, ToolCallDelta, Usage

REQUEST = Request(
    messages=({"role": "user", "content": "é \ud800", "parts": [1, None, True]},),
    tools=({"type": "function"},),
    tool_choice={"type": "function"},
    response_format={"type": "text"},
    sampling=Sampling(max_tokens=3, temperature=0, stop=("a", "b"), logit_bias={5: -1.5}, logprobs=0),
    deadline=12.5,
    extra={"n": 1},
)
LIKELIEST = TokenLogprob(token="", bytes=b"", logprob=-1.0)
CHUNK = Chunk(
    text="x",
    reasoning="y",
    tool_calls=(ToolCallDelta(index=1, id="c", name="f", arguments="{}"),),
    logprobs=(TokenLogprob(token="é", bytes=b"\xff\x00", logprob=-0.5, top=(LIKELIEST,)),),
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, completion_tokens=2),
    timings=Timings(ttft_s=0.25),
)
MESSAGES: list[Message] = [
    Submit(request=REQUEST, arrived=1.0),
    Submit(request=Request(task="completion", prompt=(1, 2, 3)), arrived=1.0),
    Submit(request=Request(task="embedding", inputs=("a", "b")), arrived=0.0),
    Start(path="/m.gguf", options=EngineOptions(threads=3, kv_type="q8_0")),
    Cancel(id="7"),
    Ping(number=0),
    Results(chunks=(("1", CHUNK), ("2", Chunk(index=3, embedding=(0.5, -1.0)))), load=Load(waiting=2)),
    Results(chunks=(("1", Chunk(text="")), ("2", Chunk(text='"\u2028')))),
    Results(failures=(("1", Failure.of(BadRequest("no", hint="h", param="p"))),), load=Load()),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_messages_survive_the_way(message: Message) -> None:
    (body,) = unframe(bytearray(encode(message)))
    assert decode(body) == message


OTHER: dict[str, Any] = {
    "text": "x",
    "reasoning": "y",
    "tool_calls": (ToolCallDelta(index=0),),
    "logprobs": (LIKELIEST,),
    "index": 1,
    "embedding": (0.0,),
    "score": 0.0,
    "tokens": (0,),
    "finish_reason": "length",
    "usage": Usage(prompt_tokens=0, completion_tokens=0),
    "timings": Timings(),
}


@pytest.mark.parametrize("name", [field.name for field in fields(Chunk)])
def test_no_field_of_a_chunk_is_lost_where_it_is_the_only_one(name: str) -> None:
    for chunk in (Chunk(**{name: OTHER[name]}), Chunk(**{"text": "a", name: OTHER[name]})):
        message = Results(chunks=(("1", chunk),), load=Load(prefill_tokens_per_s=1.5, steps=3))
        (body,) = unframe(bytearray(encode(message)))
        assert decode(body) == message


def test_results_without_a_load_or_with_a_strange_chunk_are_refused() -> None:
    for body in (b'{"kind":"Results"}', b'{"kind":"Results","chunks":[["1",[]]],"failures":[],"load":[]}'):
        with pytest.raises(UpstreamError):
            decode(body)


@given(st.lists(st.integers(0, 10**9), max_size=5), st.integers(1, 7))
def test_frames_are_whole_however_bytes_arrive(numbers: list[int], size: int) -> None:
    stream = b"".join(encode(Ping(number=n)) for n in numbers)
    buffer, received = bytearray(), []
    for at in range(0, len(stream), size):
        buffer += stream[at : at + size]
        received += [decode(body) for body in unframe(buffer)]
    assert received == [Ping(number=n) for n in numbers]
    assert not buffer


@given(st.binary(max_size=60))
def test_garbage_is_named(body: bytes) -> None:
    with pytest.raises(UpstreamError, match="damaged"):
        decode(body)


@pytest.mark.parametrize("body", [b"{}", b'{"kind": "Shell"}', b'{"kind": "Ping"}', b'{"kind": "Ping", "x": 1}', b"[]"])
def test_unknown_messages_are_refused(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        decode(body)


def test_a_frame_that_claims_too_much_is_refused() -> None:
    with pytest.raises(UpstreamError, match="claims"):
        list(unframe(bytearray(b"\xff\xff\xff\xff")))


def test_errors_survive_the_way_and_name_the_target() -> None:
    error = Failure.of(Overloaded("full", hint="later", retry_after=3.0)).error("edge")
    assert isinstance(error, Overloaded)
    assert (error.target, error.retry_after, error.hint) == ("edge", 3.0, "later")
    exceeded = Failure.of(ContextExceeded(prompt_tokens=9, context_tokens=4)).error("edge")
    assert isinstance(exceeded, ContextExceeded)
    assert (exceeded.prompt_tokens, exceeded.context_tokens) == (9, 4)
    assert isinstance(Failure(kind="SystemExit", message="m").error("edge"), UpstreamError)


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"RoutingError"}))
def test_every_error_has_a_way_across(name: str) -> None:
    kind = getattr(errors, name)
    error = kind(prompt_tokens=2, context_tokens=1) if name == "ContextExceeded" else kind("what")
    assert type(Failure.of(error).error("edge")) is kind
