"""OpenAIBackend against a real socket: what it sends, what it makes of every kind of answer."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.backend import Answer, Backend, collect
from foreshore.clearance import grant
from foreshore.cloud.openai import OpenAIBackend
from foreshore.errors import (
    BackendError,
    BadRequest,
    ConfigError,
    DeadlineExceeded,
    ForeshoreError,
    Overloaded,
    RoutingError,
    Unavailable,
    UpstreamError,
)
from foreshore.testing import CONTRACT, Check
from foreshore.types import Chunk, Request, Sampling
from tests.cloud.upstream import DONE, HELLO, USAGE, Upstream, delta, event, head, upstream

KEY = "canary-key-0123456789"
ECHO = f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_CLOUD_KEY", KEY)


def ask(**fields: Any) -> Request:
    request = Request(**{"messages": ({"role": "user", "content": "hi"},), **fields})
    return grant(request, ["cloud"])


def backend(url: str, **options: Any) -> OpenAIBackend:
    return OpenAIBackend("big", base_url=url, key_env="TEST_CLOUD_KEY", **options)


async def answered(*script: Any, request: Request | None = None, **options: Any) -> tuple[Answer, Upstream]:
    async with upstream(*script) as server:
        cloud = backend(server.url, **options)
        try:
            return await collect(cloud, request or ask()), server
        finally:
            await cloud.close()


def refused(*script: Any, request: Request | None = None, **options: Any) -> ForeshoreError:
    with pytest.raises(ForeshoreError) as caught:
        asyncio.run(answered(*script, request=request, **options))
    assert KEY not in f"{caught.value!r} {caught.value.hint}"
    return caught.value


def test_an_answer_is_collected_with_its_usage() -> None:
    answer, server = asyncio.run(answered(head(), *HELLO))
    assert (answer.text, answer.finish_reason) == ("Hello", "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 2)
    line, headers, body = server.requests[0]
    assert line == "POST /v1/chat/completions HTTP/1.1"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body == {
        "model": "big",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_every_parameter_that_was_set_is_sent() -> None:
    sampling = Sampling(
        max_tokens=5, temperature=0.5, top_p=0.9, seed=3, stop=("x",), logit_bias={7: 1.5}, logprobs=2,
        presence_penalty=0.1, frequency_penalty=0.2, top_k=4, min_p=0.1, repeat_penalty=1.1,
    )  # fmt: skip
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    request = ask(
        sampling=sampling,
        tools=(tool,),
        tool_choice="auto",
        response_format={"type": "json_object"},
        extra={"reasoning_effort": "low"},
    )
    _, server = asyncio.run(answered(head(), *HELLO, request=request))
    body = server.requests[0][2]
    expected = {
        "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["x"], "logit_bias": {"7": 1.5},
        "logprobs": True, "top_logprobs": 2, "presence_penalty": 0.1, "frequency_penalty": 0.2, "top_k": 4,
        "min_p": 0.1, "repeat_penalty": 1.1, "tools": [tool], "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
    }  # fmt: skip
    assert {k: body[k] for k in expected} == expected


def test_samplers_are_sent_as_they_are_and_defaults_are_not() -> None:
    sampling = Sampling(mirostat=2, dry_sequence_breakers=("\n",), samplers=("top_k",), xtc_probability=0.5)
    _, server = asyncio.run(answered(head(), *HELLO, request=ask(sampling=sampling)))
    body = server.requests[0][2]
    expected = {"mirostat": 2, "dry_sequence_breakers": ["\n"], "samplers": ["top_k"], "xtc_probability": 0.5}
    assert set(body) == {"model", "stream", "stream_options", "messages", *expected}
    assert {name: body[name] for name in expected} == expected


def test_earlier_reasoning_is_sent_on_but_not_to_openai_itself() -> None:
    turns = ({"role": "assistant", "content": "7", "reasoning_content": "hm"}, {"role": "user", "content": "hi"})
    request = ask(messages=turns)
    _, server = asyncio.run(answered(head(), *HELLO, request=request))
    assert server.requests[0][2]["messages"][0]["reasoning_content"] == "hm"
    sent: list[Any] = []

    async def pieces() -> AsyncIterator[bytes]:
        for piece in HELLO:
            yield piece

    def take(http: httpx.Request) -> httpx.Response:
        sent.append(json.loads(http.content))
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=pieces())

    own = OpenAIBackend("gpt", key_env="TEST_CLOUD_KEY", transport=httpx.MockTransport(take))
    assert asyncio.run(collect(own, request)).text == "Hello"
    assert sent[0]["messages"] == [{"role": "assistant", "content": "7"}, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize("task", ["rerank", "tokenize", "detokenize"])
def test_tasks_of_this_machine_are_refused(task: Any) -> None:
    assert isinstance(refused(request=ask(task=task, query="q", inputs=("a",))), BadRequest)


def test_the_answers_limit_has_the_name_the_server_knows() -> None:
    request = ask(sampling=Sampling(max_tokens=5))
    _, server = asyncio.run(answered(head(), *HELLO, request=request, max_tokens_field="max_completion_tokens"))
    assert server.requests[0][2]["max_completion_tokens"] == 5


def test_reasoning_tool_calls_and_logprobs_are_read() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}
    more = {"index": 0, "function": {"arguments": ":1}"}}
    logprob = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": [{"token": "y", "logprob": -1.0}]}
    chunk = {"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": {"content": [logprob]}}]}
    script = (
        delta(reasoning_content="hmm"), event(chunk), delta(tool_calls=[call]), delta(tool_calls=[more]),
        delta("tool_calls"), USAGE, DONE,
    )  # fmt: skip
    answer, _ = asyncio.run(answered(head(), *script))
    assert answer.reasoning == "hmm"
    assert (answer.tool_calls[0].id, answer.tool_calls[0].arguments) == ("c1", '{"a":1}')
    assert answer.logprobs[0].top[0].token == "y"
    assert answer.finish_reason == "tool_calls"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, len(b"".join(HELLO))), max_size=30))
def test_any_chunking_of_the_stream_gives_the_same_answer(cuts: list[int]) -> None:
    whole = b"".join(HELLO)
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]

    async def run() -> Answer:
        async with upstream(head(), *pieces) as server:
            cloud = OpenAIBackend("big", base_url=server.url)
            answer = await collect(cloud, ask())
            await cloud.close()
            return answer

    assert asyncio.run(run()).text == "Hello"


@pytest.mark.parametrize("length", range(len(HELLO)))
def test_a_stream_cut_anywhere_is_never_a_success(length: int) -> None:
    error = refused(head(), *HELLO[:length])
    assert isinstance(error, UpstreamError)
    assert error.target == "cloud"


def test_done_without_a_finish_reason_is_no_success() -> None:
    assert isinstance(refused(head(), delta(content="Hel"), DONE), UpstreamError)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ((head(), event("not json")), UpstreamError),
        ((head(), event([1, 2])), UpstreamError),
        ((head(), event({"choices": "x"})), UpstreamError),
        ((head(), event({"choices": [{"delta": {"content": 5}}]})), UpstreamError),
        ((head(), b"data: \xff\xfe\n\n"), UpstreamError),
        ((head(), event("[" * 100_000)), UpstreamError),
        ((head(), b"data: " + b"x" * (5 * 1024 * 1024)), UpstreamError),
        ((head(kind="text/html"), b"<html>login</html>"), UpstreamError),
        ((head("200 OK", "application/json"), b"{}"), UpstreamError),
        ((b"SSH-2.0-OpenSSH_9.6\r\n",), UpstreamError),
        ((b"",), UpstreamError),
        ((head("302 Found", location="http://127.0.0.1:1/"),), UpstreamError),
        (
            (head("401 Unauthorized", "application/json"), f'{{"error":{{"message":"bad {KEY}"}}}}'.encode()),
            UpstreamError,
        ),
        ((head("404 Not Found", "text/html"), b"<html>"), UpstreamError),
        ((head("400 Bad Request", "application/json"), ECHO), BadRequest),
        ((head("500 Internal Server Error", "text/html"), b"<html>oops"), Unavailable),
        ((head("503 Service Unavailable"),), Unavailable),
        ((head("429 Too Many Requests", retry_after="3"),), Overloaded),
        ((head(), event({"error": {"message": f"echo {KEY}", "type": "server_error"}})), Unavailable),
        ((head(), event({"error": {"message": "slow down", "code": "rate_limit_exceeded"}})), Overloaded),
        ((head(), event({"error": "what"})), UpstreamError),
    ],
)
def test_every_wrong_answer_is_one_of_our_errors(script: tuple[bytes, ...], kind: type[ForeshoreError]) -> None:
    error = refused(*script)
    assert type(error) is kind
    assert "<html>" not in error.message


@pytest.mark.parametrize(
    ("header", "seconds"), [("3", 3.0), ("0.5", 0.5), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", None)]
)
def test_retry_after_is_read(header: str, seconds: float | None) -> None:
    error = refused(head("429 Too Many Requests", retry_after=header))
    assert isinstance(error, Overloaded)
    assert error.retry_after == seconds


def test_nobody_listening_is_unavailable() -> None:
    async def run() -> None:
        async with upstream() as server:
            url = server.url
        cloud = backend(url)
        with pytest.raises(Unavailable):
            await collect(cloud, ask())
        await cloud.close()

    asyncio.run(run())


def test_silence_is_unavailable_and_the_deadline_is_the_deadline() -> None:
    async def run() -> None:
        async with upstream(head(), delta(content="Hel"), asyncio.Event()) as server:
            cloud = backend(server.url, timeout=0.05)
            with pytest.raises(Unavailable, match="silent"):
                await collect(cloud, ask())
            patient = backend(server.url, timeout=60.0)
            with pytest.raises(DeadlineExceeded):
                await collect(patient, ask(deadline=time.monotonic() + 0.05))
            await cloud.close()
            await patient.close()

    asyncio.run(run())


def test_a_drip_of_comments_is_silence_too() -> None:
    async def run() -> None:
        drips = [b": keep-alive\n\n"] * 10_000
        async with upstream(head(), *drips, asyncio.Event()) as server:
            cloud = backend(server.url, timeout=0.2)
            with pytest.raises(Unavailable, match="silent"):
                await collect(cloud, ask())
            await cloud.close()

    asyncio.run(run())


def test_leaving_the_stream_closes_the_connection() -> None:
    async def run() -> None:
        async with upstream(head(), delta(content="Hel"), asyncio.Event()) as server:
            cloud = backend(server.url)
            stream = cloud.stream(ask())
            async for chunk in stream:
                assert isinstance(chunk, Chunk)
                if chunk.text:
                    break
            await stream.aclose()  # type: ignore[attr-defined]
            async with asyncio.timeout(30):
                await server.gone.wait()
            await cloud.close()

    asyncio.run(run())


def test_nothing_is_sent_without_a_clearance_for_this_target() -> None:
    plain = Request(messages=({"role": "user", "content": "hi"},))
    changed = ask()
    object.__setattr__(changed, "messages", ({"role": "user", "content": "secret"},))

    async def run(request: Request) -> list[Any]:
        async with upstream(head(), *HELLO) as server:
            cloud = backend(server.url)
            with pytest.raises(RoutingError):
                await collect(cloud, request)
            await cloud.close()
            return server.requests

    for request in (plain, grant(plain, ["edge"]), changed):
        assert asyncio.run(run(request)) == []


def test_completions_are_read() -> None:
    request = grant(Request(task="completion", prompt="Once"), ["cloud"])
    logprobs = {"tokens": [" upon"], "token_logprobs": [-0.1], "top_logprobs": [{" upon": -0.1, " at": -2.0}]}
    script = (
        event({"choices": [{"index": 0, "text": " upon", "logprobs": logprobs, "finish_reason": "length"}]}),
        DONE,
    )
    answer, server = asyncio.run(answered(head(), *script, request=request))
    assert (answer.text, answer.finish_reason) == (" upon", "length")
    assert [t.token for t in answer.logprobs[0].top] == [" upon", " at"]
    assert server.requests[0][0].startswith("POST /v1/completions")
    assert server.requests[0][2]["prompt"] == "Once"


def test_embeddings_are_read_in_the_inputs_order() -> None:
    request = grant(Request(task="embedding", inputs=("a", "b")), ["cloud"])
    data = [{"index": 1, "embedding": [0.5, 1]}, {"index": 0, "embedding": [0.25, 2]}]
    body = b'{"data": %s, "usage": {"prompt_tokens": 2}}' % str(data).replace("'", '"').encode()
    answer, _ = asyncio.run(answered(head(kind="application/json"), body, request=request))
    assert answer.embeddings == ((0.25, 2.0), (0.5, 1.0))


def test_a_missing_embedding_is_an_error() -> None:
    request = grant(Request(task="embedding", inputs=("a", "b")), ["cloud"])
    body = b'{"data": [{"index": 0, "embedding": [1]}]}'
    error = refused(head(kind="application/json"), body, request=request)
    assert isinstance(error, UpstreamError)


def test_a_missing_key_is_named_and_a_present_one_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = backend("http://127.0.0.1:1/v1")
    assert KEY not in repr(cloud) + repr(vars(cloud)) + repr(cloud._channel._auth)
    asyncio.run(cloud.close())
    monkeypatch.delenv("TEST_CLOUD_KEY")
    with pytest.raises(ConfigError, match="TEST_CLOUD_KEY"):
        backend("http://127.0.0.1:1/v1")


class Granted:
    """Grants what the contract's requests lack: they never pass the router."""

    def __init__(self, cloud: OpenAIBackend) -> None:
        self.name, self.cloud = cloud.name, cloud

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        async for chunk in self.cloud.stream(grant(request, [self.name])):
            yield chunk

    async def close(self) -> None:
        await self.cloud.close()


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_it_keeps_the_contract(check: Check) -> None:
    async def run() -> None:
        async with upstream(head(), *HELLO) as server:
            make: Callable[[], Backend] = lambda: Granted(backend(server.url))  # noqa: E731
            await check(make)

    asyncio.run(run())


def test_closed_means_unavailable() -> None:
    async def run() -> None:
        cloud = backend("http://127.0.0.1:1/v1")
        await cloud.close()
        with pytest.raises(BackendError):
            await collect(cloud, ask())

    asyncio.run(run())
