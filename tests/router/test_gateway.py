"""The gateway as the official `openai` client sees it, over a real socket."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from foreshore.errors import ContextExceeded, Overloaded, Truncated, Unavailable, UpstreamError, WorkerDied
from foreshore.reliability.ledger import read_events
from foreshore.testing import FakeBackend, chunks_of
from foreshore.types import Chunk, TokenLogprob, ToolCallDelta, Usage
from tests.router.serving import PATIENCE_S, TWO_TARGETS, Served, config_of, serving

USAGE = Usage(prompt_tokens=8, completion_tokens=3)
STOP = Chunk(finish_reason="stop", usage=USAGE)
RULES = "rules: [{name: long, when: 'request.prompt_tokens > 100', prefer: [cloud, edge]}]\n"
HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def served(ledger: Path) -> Iterator[Served]:
    backends = {"edge": FakeBackend("edge answers", name="edge"), "cloud": FakeBackend("cloud answers", name="cloud")}
    with serving(config_of(TWO_TARGETS + RULES, ledger), backends) as found:
        yield found


def one(script: Any, ledger: Path, limits: str = "attempts: 1") -> Any:
    """A gateway over one local target that follows `script`."""
    config = config_of(f"targets: {{edge: {{kind: local, model: tiny}}}}\nlimits: {{{limits}}}\n", ledger)
    return serving(config, {"edge": FakeBackend(script, name="edge")})


def events(served: Served, ledger: Path) -> list[dict[str, Any]]:
    assert served.router.ledger.flush(PATIENCE_S)
    return list(read_events(ledger))


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_a_whole_answer(served: Served) -> None:
    raw = served.openai().chat.completions.with_raw_response.create(model="auto", messages=HI)
    answer = raw.parse()
    assert answer.choices[0].message.content == "edge answers"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 11
    assert answer.model == "tiny:q8_0"
    assert answer.system_fingerprint
    assert answer.timings["prefill_tokens"] == 8  # type: ignore[attr-defined]
    assert raw.headers["x-foreshore-target"] == "edge"
    assert raw.headers["x-foreshore-rule"] == "default"
    assert raw.headers["x-foreshore-decision"].startswith("dec-")


def test_a_streamed_answer_routed_by_a_rule(served: Served) -> None:
    long: Any = [{"role": "user", "content": "word " * 200}]
    stream = served.openai().chat.completions.create(
        model="auto", messages=long, stream=True, stream_options={"include_usage": True}
    )  # fmt: skip
    assert stream.response.headers["x-foreshore-target"] == "cloud"
    assert stream.response.headers["x-foreshore-rule"] == "long"
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "cloud answers"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 8
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1


def test_no_usage_chunk_unless_asked_for(served: Served) -> None:
    text = served.chat(stream=True).text
    assert text.endswith("data: [DONE]\n\n")
    assert '"usage"' not in text
    assert '"timings"' in text


def test_tools_reasoning_and_logprobs_keep_their_shape(ledger: Path) -> None:
    logprob = TokenLogprob(
        token="x", bytes=b"x", logprob=-0.5, top=(TokenLogprob(token="y", bytes=b"y", logprob=-1.0),)
    )
    script = [
        Chunk(reasoning="hmm"),
        Chunk(text="x", logprobs=(logprob,)),
        Chunk(tool_calls=(ToolCallDelta(index=0, id="c1", name="f", arguments='{"a"'),)),
        Chunk(tool_calls=(ToolCallDelta(index=0, arguments=":1}"),)),
        Chunk(finish_reason="tool_calls", usage=USAGE),
    ]
    ask: Any = {
        "model": "auto", "messages": HI, "logprobs": True, "top_logprobs": 1,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    }  # fmt: skip
    with one(script, ledger) as served:
        client = served.openai().chat.completions
        choice = client.create(**ask).choices[0]
        assert choice.message.tool_calls is not None
        assert choice.message.tool_calls[0].function.arguments == '{"a":1}'
        assert choice.message.reasoning_content == "hmm"
        assert choice.logprobs is not None
        assert choice.logprobs.content[0].top_logprobs[0].token == "y"
        chunks = list(client.create(**ask, stream=True))
    deltas = [c.choices[0].delta for c in chunks]
    assert "".join(getattr(d, "reasoning_content", None) or "" for d in deltas) == "hmm"
    calls = [call for d in deltas for call in d.tool_calls or ()]
    assert (calls[0].id, calls[0].type, calls[0].function.name) == ("c1", "function", "f")
    assert "".join(c.function.arguments for c in calls) == '{"a":1}'
    assert any(c.choices[0].logprobs for c in chunks)


def test_completions_stream_and_whole(served: Served) -> None:
    client = served.openai().completions
    assert client.create(model="cloud", prompt="Once").choices[0].text == "cloud answers"
    assert (
        "".join(c.choices[0].text for c in client.create(model="cloud", prompt="Once", stream=True)) == "cloud answers"
    )


def test_embeddings_in_both_encodings(ledger: Path) -> None:
    script = [
        Chunk(index=0, embedding=(0.5, -1.0)),
        Chunk(index=1, embedding=(2.0, 0.25), finish_reason="stop", usage=USAGE),
    ]
    with one(script, ledger) as served:
        client = served.openai().embeddings
        for options in ({}, {"encoding_format": "float"}):
            found = client.create(model="edge", input=["a", "b"], **options)
            assert [d.embedding for d in found.data] == [[0.5, -1.0], [2.0, 0.25]]
            assert found.usage.prompt_tokens == 8


def test_models_are_listed(served: Served) -> None:
    assert [m.id for m in served.openai().models.list()] == ["auto", "edge", "cloud"]
    assert served.openai().models.retrieve("edge").id == "edge"
    with pytest.raises(openai.NotFoundError):
        served.openai().models.retrieve("nobody")


def test_a_model_name_pins_and_constraints_still_apply(served: Served) -> None:
    assert served.chat(model="cloud").headers["x-foreshore-target"] == "cloud"
    assert served.chat(model="big").headers["x-foreshore-target"] == "cloud"
    refused = served.chat("jane@example.com", model="cloud")
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] == "no_target_allowed"
    assert "private" in refused.json()["error"]["message"]
    with pytest.raises(openai.NotFoundError, match="nobody"):
        served.openai().chat.completions.create(model="nobody", messages=HI)


def test_another_target_takes_over_unseen_before_the_commit_point(ledger: Path) -> None:
    edge = FakeBackend([Chunk(), Unavailable("down", target="edge")], name="edge")
    cloud = FakeBackend("cloud answers", name="cloud")
    with serving(config_of(TWO_TARGETS, ledger), {"edge": edge, "cloud": cloud}) as served:
        answer = served.chat(stream=True)
        assert answer.headers["x-foreshore-target"] == "cloud"
        event = events(served, ledger)[0]
    assert [(a["target"], a["error"]) for a in event["attempts"]] == [("edge", "unavailable"), ("cloud", "")]
    assert event["cost"] == pytest.approx((8 * 1.0 + 4 * 2.0) / 1e6)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Truncated("odd", target="edge"), "truncated"),
        (UpstreamError("odd", target="edge"), "upstream_error"),
        (WorkerDied("died", target="edge"), "upstream_error"),
        (ValueError("a defect with secret content"), "upstream_error"),
    ],
)
def test_after_the_commit_point_a_failure_is_an_explicit_error(ledger: Path, error: Exception, state: str) -> None:
    with one([Chunk(text="part"), error], ledger) as served:
        stream = served.openai().chat.completions.create(model="auto", messages=HI, stream=True)
        seen: list[str] = []
        with pytest.raises(openai.APIError) as caught:
            seen.extend(chunk.choices[0].delta.content or "" for chunk in stream)
        assert "".join(seen) == "part"
        assert "secret" not in str(caught.value)
        assert events(served, ledger)[0]["terminal_state"] == state


def test_an_answer_without_an_end_is_truncated(ledger: Path) -> None:
    with one([Chunk(text="part")], ledger) as served:
        assert served.chat().status_code == 502
        assert events(served, ledger)[0]["terminal_state"] == "truncated"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Overloaded("full", target="edge", retry_after=7.2), 429),
        (Unavailable("down", target="edge"), 503),
        (UpstreamError("odd", target="edge"), 502),
        (ContextExceeded(prompt_tokens=900, context_tokens=512), 400),
        (ValueError("secret"), 500),
    ],
)
def test_an_early_failure_has_its_own_status(ledger: Path, error: Exception, status: int, stream: bool) -> None:
    with one([error], ledger) as served:
        answer = served.chat(stream=stream)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert "secret" not in answer.text
        if status == 429:
            assert answer.headers["retry-after"] == "8"
        if status == 400:
            assert "900" in answer.text
            assert "512" in answer.text
        assert events(served, ledger)[0]["decision_id"] == answer.headers["x-foreshore-decision"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_deadline_ends_a_request(ledger: Path, stream: bool) -> None:
    with one([asyncio.Event()], ledger) as served:
        answer = served.chat(stream=stream, headers={"x-foreshore-timeout": "0.05"})
        assert answer.status_code == 504
        assert events(served, ledger)[0]["terminal_state"] == "deadline"


@pytest.mark.parametrize("before_commit", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_when_the_client_leaves_the_work_stops(ledger: Path, stream: bool, before_commit: bool) -> None:
    script: list[Any] = [asyncio.Event()] if before_commit else [Chunk(text="part"), asyncio.Event()]
    fake = FakeBackend(script, name="edge")
    config = config_of("targets: {edge: {kind: local, model: tiny}}", ledger)
    with serving(config, {"edge": fake}) as served:
        body = {"model": "auto", "messages": HI, "stream": stream}
        with (
            httpx.Client(base_url=served.url, trust_env=False, timeout=0.3) as client,
            pytest.raises(httpx.ReadTimeout),
        ):
            client.post("/v1/chat/completions", json=body)
        eventually(lambda: fake.cancelled == 1 and fake.running == 0)
        eventually(lambda: len(events(served, ledger)) == 1)
        assert events(served, ledger)[0]["terminal_state"] == "cancelled"
        assert served.router.metrics.running._value.get() == 0


def test_a_client_that_stops_reading_is_not_waited_for_beyond_the_deadline(ledger: Path) -> None:
    endless: list[Any] = [*[Chunk(text="x" * 100_000)] * 1000, STOP]
    with one(endless, ledger, "timeout: 0.5") as served, _asking(served, b'"stream": true', whole=True):
        fake = served.router._given["edge"]
        eventually(lambda: len(fake.requests) == 1 and fake.running == 0)
        assert fake.cancelled == 1
        eventually(lambda: len(events(served, ledger)) == 1)


def test_a_body_that_does_not_come_is_not_waited_for(ledger: Path) -> None:
    with one("ok", ledger, "timeout: 0.2") as served, _asking(served, b'"n": 1', whole=False) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 504")
        assert events(served, ledger)[0]["terminal_state"] == "deadline"


@contextmanager
def _asking(served: Served, field: bytes, *, whole: bool) -> Iterator[socket.socket]:
    """A client that has sent a request, or the first half of one, and reads only if told to."""
    body = b'{"model": "edge", "messages": [{"role": "user", "content": "x"}], ' + field + b"}"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    url = httpx.URL(served.url)
    with socket.create_connection((url.host, url.port or 80), timeout=PATIENCE_S) as client:
        client.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body[: None if whole else len(body) // 2])
        yield client


BAD_BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, "not JSON"),
    (b"[]", 400, "object"),
    (b'{"model": "auto", "model": "edge", "messages": []}', 400, "twice"),
    (b'{"model": "auto", "messages": [{"role": "user", "content": "x", "content": "y"}]}', 400, "twice"),
    (b'{"temperature": NaN}', 400, "NaN"),
    (b'{"temperature": 1e999}', 400, "too large"),
    (b'{"seed": ' + b"9" * 5000 + b"}", 400, "too long"),
    (b'{"messages": ' + b"[" * 100 + b"]" * 100 + b"}", 400, "deeper"),
    (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "deeper"),
    (b'{"messages": [' + b"1," * 300_000 + b"1]}", 400, "values"),
    (b'{"model": "\xff"}', 400, "UTF-8"),
    (b'{"model": "auto", "messages": [{"role": "user", "content": "\\ud800"}]}', 400, "surrogate"),
    (b'{"model": "' + b"x" * 70_000 + b'"}', 413, "larger"),
]


@pytest.mark.parametrize(("body", "status", "said"), BAD_BODIES)
def test_a_bad_body_is_refused_by_name(ledger: Path, body: bytes, status: int, said: str) -> None:
    with one("ok", ledger, "body_bytes: 65536" if status == 413 else "attempts: 1") as served:
        answer = served.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status
        assert said in answer.json()["error"]["message"]
        assert events(served, ledger)[0]["error_code"] == answer.json()["error"]["code"]


BAD_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0.type"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
    ({"messages": "hi"}, "messages"),
    ({"model": None}, "model"),
    ({"temperature": 3}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    ({"n": 17}, "n"),
    ({"stop": [""]}, "stop"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"tool_choice": "auto"}, "tool_choice"),
    ({"tools": [{"type": "web"}]}, "tools.0"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"temprature": 1}, "temprature"),
    ({"reasoning_effort": "low", "model": "edge"}, "reasoning_effort"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_FIELDS)
def test_a_bad_field_is_a_400_that_names_it(served: Served, fields: dict[str, Any], param: str) -> None:
    answer = served.http.post("/v1/chat/completions", json={"model": "auto", "messages": HI, **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_field_only_the_cloud_honours_goes_there_and_harmless_ones_go_nowhere(ledger: Path) -> None:
    fakes = {name: FakeBackend(name, name=name) for name in ("edge", "cloud")}
    with serving(config_of(TWO_TARGETS, ledger), fakes) as served:
        answer = served.chat(reasoning_effort="low", user="jane", metadata={"a": "b"}, store=True)
        assert answer.headers["x-foreshore-target"] == "cloud"
    assert fakes["cloud"].requests[0].extra == {"reasoning_effort": "low"}


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", "1e9"])
def test_a_bad_timeout_is_refused(served: Served, value: str) -> None:
    assert served.chat(headers={"x-foreshore-timeout": value}).status_code == 400


@pytest.mark.parametrize("value", ["", "maybe", "non-private"])
def test_a_privacy_word_nobody_knows_is_not_read_as_public(served: Served, value: str) -> None:
    assert served.chat(headers={"x-foreshore-privacy": value}).status_code == 400


def test_one_private_header_among_several_decides(served: Served) -> None:
    both = [("x-foreshore-privacy", "public"), ("x-foreshore-privacy", "private")]
    for headers in (both, both[::-1], [("x-foreshore-privacy", "public, private")]):
        body = {"model": "cloud", "messages": HI}
        assert served.http.post("/v1/chat/completions", json=body, headers=headers).status_code == 403
    assert served.chat(model="cloud", headers={"x-foreshore-privacy": "public"}).status_code == 200


def test_the_wrong_content_type_path_method_and_host_are_refused(served: Served) -> None:
    post = served.http.post
    assert post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"}).status_code == 400
    assert post("/v1/nothing", json={}).status_code == 404
    assert served.http.get("/v1/chat/completions").json()["error"]["type"] == "invalid_request_error"
    for host in ("evil.example:80", "127.evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "["):
        assert served.chat(headers={"host": host}).status_code == 401, host
    for host in ("localhost", "127.0.0.2:80", "[::1]", "[::1]:8080"):
        assert served.chat(headers={"host": host}).status_code == 200, host


def test_a_key_is_needed_where_tenants_are_named(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALICE_KEY", "alice-key-0123456789")
    config = config_of(TWO_TARGETS + "tenants: [{name: alice, key_env: ALICE_KEY, private: true}]", ledger)
    fakes = {name: FakeBackend(name, name=name) for name in ("edge", "cloud")}
    with serving(config, fakes) as served:
        with pytest.raises(openai.AuthenticationError):
            served.openai("wrong").chat.completions.create(model="auto", messages=HI)
        assert served.chat(headers={"authorization": "Bearer alice-key-012345678x"}).status_code == 401
        assert served.chat().status_code == 401
        assert served.http.get("/v1/models").status_code == 401
        assert served.http.get("/metrics").status_code == 401  # it names targets and rules
        assert served.http.get("/readyz").json() == {"status": "ready"}
        allowed = {"authorization": "Bearer alice-key-0123456789"}
        assert "targets" in served.http.get("/readyz", headers=allowed).json()
        assert served.http.get("/metrics", headers=allowed).status_code == 200
        assert served.openai("alice-key-0123456789").chat.completions.create(model="auto", messages=HI).choices
        assert served.chat(model="cloud", headers={"authorization": "Bearer alice-key-0123456789"}).status_code == 403
        assert {e["tenant"] for e in events(served, ledger)} == {"default", "alice"}
    assert fakes["cloud"].requests == []


def test_health_readiness_and_metrics(served: Served) -> None:
    served.chat()
    assert served.http.get("/health").json() == served.http.get("/healthz").json() == {"status": "ok"}
    assert served.http.get("/readyz").json()["targets"] == {"edge": "ready", "cloud": "ready"}
    text = served.http.get("/metrics").text
    assert 'foreshore_requests_total{rule="default",target="edge",terminal_state="complete"} 1.0' in text
    for name in ("ttft", "tpot", "queue"):
        labels = 'model="tiny:q8_0",target="edge",tenant="default"'
        assert f"foreshore_{name}_seconds_count{{{labels}}} 1.0" in text
    assert "foreshore_decision_seconds_count 1.0" in text


CANARY = "xylophone-canary"


def test_no_content_and_no_key_is_ever_written(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    key = "canary-tenant-key-0123456789"
    monkeypatch.setenv("ALICE_KEY", key)
    rules = """
rules: [{name: odd, when: 'request.headers[request.text] == "a"', prefer: [cloud]}]
tenants: [{name: alice, key_env: ALICE_KEY}]
"""
    scripts: list[Any] = [
        chunks_of(CANARY),
        [Chunk(text=CANARY), UpstreamError(CANARY, target="edge")],
        [ValueError(CANARY)],
    ]
    headers = {"authorization": f"Bearer {key}", "x-team": CANARY}
    for script in scripts:
        fakes = {"edge": FakeBackend(script, name="edge"), "cloud": FakeBackend(CANARY, name="cloud")}
        with serving(config_of(TWO_TARGETS + rules, ledger), fakes) as served:
            for fields in ({}, {"stream": True}, {"model": CANARY}, {CANARY: 1}, {"tool_choice": CANARY}):
                served.chat(CANARY, headers=headers, user=CANARY, **fields)
            served.http.post("/v1/chat/completions", content=CANARY.encode(), headers=headers)
            served.http.post(f"/v1/{CANARY}", json={}, headers=headers)
            assert served.router.ledger.flush(PATIENCE_S)
            metrics = served.http.get("/metrics", headers=headers).text
            assert "foreshore_requests_total" in metrics
            written = b"".join(p.read_bytes() for p in ledger.parent.iterdir())
            assert (ledger.parent / "ledger.sqlite-wal").stat().st_size > 0
            assert b"rejected" in written
            for secret in (CANARY, key):
                assert secret.encode() not in written
                assert secret not in metrics
    ours = "\n".join(r.getMessage() for r in caplog.records if r.name == "foreshore")
    assert "complete" in ours
    assert CANARY not in ours
    assert key not in caplog.text
