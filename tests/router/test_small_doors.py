"""Reranking, tokens, and what the body says beyond OpenAI: tiers, determinism, adapters, samplers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from foreshore.config import Config, Tenant
from foreshore.errors import BadRequest
from foreshore.router.fields import Generation
from foreshore.router.label import Caller, as_tenant
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, Request, Sampling, Usage
from tests.router.serving import TWO_TARGETS, Served, config_of, serving

USAGE = Usage(prompt_tokens=12, completion_tokens=0)
RANKED = [
    Chunk(index=1, score=2.5),
    Chunk(index=0, score=-1.0),
    Chunk(index=2, score=2.5),
    Chunk(finish_reason="stop", usage=USAGE),
]
DOCUMENTS = ["one", "two", "three"]
HI: Any = [{"role": "user", "content": "hi"}]
SAMPLERS: dict[str, Any] = {
    "typical_p": 0.9, "top_n_sigma": 1.5, "xtc_probability": 0.5, "xtc_threshold": 0.2, "dynatemp_range": 0.5,
    "dynatemp_exponent": 1.5, "mirostat": 2, "mirostat_tau": 4.0, "mirostat_eta": 0.2, "dry_multiplier": 0.8,
    "dry_base": 1.5, "dry_allowed_length": 3, "dry_penalty_last_n": 32, "dry_sequence_breakers": ["\n", "."],
    "repeat_last_n": 16, "adaptive_target": 0.5, "adaptive_decay": 0.8, "min_keep": 2, "samplers": ["top_k", "top_p"],
    "top_k": 5, "min_p": 0.1, "repeat_penalty": 1.1, "seed": 3, "temperature": 0.7, "top_p": 0.9,
    "presence_penalty": 0.5, "frequency_penalty": 0.25,
}  # fmt: skip


@pytest.fixture
def edge() -> FakeBackend:
    return FakeBackend("ok", name="edge")


@pytest.fixture
def cloud() -> FakeBackend:
    return FakeBackend("cloud", name="cloud")


@pytest.fixture
def served(edge: FakeBackend, cloud: FakeBackend, tmp_path: Path) -> Iterator[Served]:
    config = config_of(TWO_TARGETS + "default: [cloud, edge]\nlimits: {attempts: 1}\n", tmp_path / "l.sqlite")
    with serving(config, {"edge": edge, "cloud": cloud}) as found:
        yield found


def rerank(served: Served, path: str = "/v1/rerank", **body: Any) -> httpx.Response:
    return served.http.post(path, json={"query": "what?", "documents": DOCUMENTS, **body})


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_documents_are_ranked_best_first_and_here_alone(
    served: Served, edge: FakeBackend, cloud: FakeBackend, path: str
) -> None:
    edge.script = list(RANKED)
    answer = rerank(served, path).json()
    assert [(r["index"], r["relevance_score"]) for r in answer["results"]] == [(1, 2.5), (2, 2.5), (0, -1.0)]
    assert answer["usage"] == {"prompt_tokens": 12, "total_tokens": 12}
    assert answer["model"] == "tiny:q8_0"
    assert (edge.requests[0].query, edge.requests[0].inputs) == ("what?", tuple(DOCUMENTS))
    assert not cloud.requests


def test_the_best_few_with_their_texts(served: Served, edge: FakeBackend) -> None:
    edge.script = list(RANKED)
    answer = rerank(served, top_n=1, return_documents=True, documents=[{"text": t} for t in DOCUMENTS]).json()
    assert answer["results"] == [{"index": 1, "relevance_score": 2.5, "document": {"text": "two"}}]


@pytest.mark.parametrize("scores", [[1.0, 2.0], [1.0, 2.0, float("nan")], []])
def test_scores_that_are_missing_or_no_numbers_are_the_targets_fault(
    served: Served, edge: FakeBackend, scores: list[float]
) -> None:
    edge.script = [*(Chunk(index=i, score=s) for i, s in enumerate(scores)), RANKED[-1]]
    assert rerank(served).status_code == 502


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": [""]}, "documents.0"),
        ({"documents": ["a", {"text": "b"}]}, "documents.1"),
        ({"documents": ["x"] * 3000}, "documents"),
        ({"query": ""}, "query"),
        ({"query": " \n"}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"texts": ["a"]}, "texts"),
        ({"stream": True}, "stream"),
        ({"max_tokens_per_doc": 5}, "max_tokens_per_doc"),
    ],
)
def test_a_bad_reranking_is_refused_by_name(
    served: Served, edge: FakeBackend, fields: dict[str, Any], param: str
) -> None:
    answer = rerank(served, **fields)
    assert answer.status_code == 400
    assert param in answer.json()["error"]["param"]
    assert not edge.requests


def test_text_to_tokens_and_back(served: Served, edge: FakeBackend, cloud: FakeBackend) -> None:
    edge.script = [Chunk(tokens=(5, 6), text="hi", finish_reason="stop", usage=USAGE)]
    body = {"content": "hello", "add_special": True, "parse_special": False}
    assert served.http.post("/tokenize", json=body).json() == {"tokens": [5, 6]}
    assert served.http.post("/detokenize", json={"tokens": [5, 6]}).json() == {"content": "hi"}
    first, second = edge.requests
    assert (first.task, first.prompt) == ("tokenize", "hello")
    assert first.extra == {"add_special": True, "parse_special": False}
    assert (second.task, second.prompt) == ("detokenize", (5, 6))
    assert not cloud.requests


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"content": 5}),
        ("/tokenize", {"content": "x", "with_pieces": True}),
        ("/tokenize", {"content": "x", "other": 1}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [2**40]}),
        ("/detokenize", {"tokens": ["5"]}),
        ("/detokenize", {"tokens": "5"}),
    ],
)
def test_bad_tokens_are_refused(served: Served, edge: FakeBackend, path: str, body: dict[str, Any]) -> None:
    assert served.http.post(path, json=body).status_code == 400
    assert not edge.requests


GENERATING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": HI}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", {"messages": HI, "max_tokens": 9}),
]


@pytest.mark.parametrize(("path", "body"), GENERATING)
def test_determinism_and_adapters_are_honoured_here_alone(
    served: Served, edge: FakeBackend, cloud: FakeBackend, path: str, body: dict[str, Any]
) -> None:
    answer = served.http.post(path, json={"model": "auto", **body, "deterministic": True, "adapter": "poet"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-foreshore-deterministic"] == "true"
    assert (edge.requests[0].deterministic, edge.requests[0].adapter) == (True, "poet")
    if "system_fingerprint" in answer.json():
        assert answer.json()["system_fingerprint"] == "fs-edge-deterministic"
    refused = served.http.post(path, json={"model": "cloud", **body, "deterministic": True, "adapter": "poet"})
    assert refused.status_code == 400
    assert "deterministic, adapter" in refused.text
    assert not cloud.requests


@pytest.mark.parametrize(("path", "body"), GENERATING)
def test_every_sampler_reaches_the_target(served: Served, edge: FakeBackend, path: str, body: dict[str, Any]) -> None:
    answer = served.http.post(path, json={"model": "edge", **body, **SAMPLERS})
    assert answer.status_code == 200, answer.text
    sampling = edge.requests[0].sampling
    for name, value in SAMPLERS.items():
        assert getattr(sampling, name) == (tuple(value) if isinstance(value, list) else value), name


def test_a_door_knows_every_sampler_that_the_kernel_knows() -> None:
    elsewhere = {"max_tokens", "stop", "logit_bias", "logprobs"}  # which each API spells in its own way
    assert {f.name for f in dataclasses.fields(Sampling)} - elsewhere == {*SAMPLERS, "grammar"}
    assert {*SAMPLERS, "grammar"} <= set(Generation.model_fields)


@pytest.mark.parametrize(
    ("asked", "given"), [(None, "flex"), ("auto", "flex"), ("priority", "priority"), ("default", "default")]
)
def test_the_tier_is_the_callers_else_the_tenants(
    edge: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None, given: str
) -> None:
    monkeypatch.setenv("TEAM_KEY", "k" * 20)
    text = (
        "targets: {edge: {kind: local, model: tiny}}\n"
        "tenants: [{name: team, key_env: TEAM_KEY, weight: 2.5, service_tier: flex}]"
    )
    with serving(config_of(text, tmp_path / "l.sqlite"), {"edge": edge}) as served:
        tier = {} if asked is None else {"service_tier": asked}
        answer = served.chat(headers={"authorization": f"Bearer {'k' * 20}"}, **tier)
        assert answer.json()["service_tier"] == given
    assert (edge.requests[0].service_tier, edge.requests[0].weight) == (given, 2.5)


def test_a_cloud_has_a_queue_of_its_own_and_the_answer_says_so(served: Served) -> None:
    answer = served.chat(service_tier="priority")
    assert answer.headers["x-foreshore-target"] == "cloud"
    assert answer.json()["service_tier"] == "default"
    assert served.chat(service_tier="scale").status_code == 400


def test_an_embedded_router_fills_in_the_tenant_too() -> None:
    config = Config.model_validate(
        {
            "targets": {"edge": {"kind": "local", "model": "tiny"}},
            "tenants": [{"name": "team", "key_env": "K", "weight": 3, "service_tier": "priority"}],
        }
    )
    own = as_tenant(Request(), Caller(tenant="team"), config.tenants)
    assert (own.weight, own.service_tier) == (3, "priority")
    assert as_tenant(Request(service_tier="flex"), Caller(tenant="team"), config.tenants).service_tier == "flex"
    stranger = as_tenant(Request(), Caller(tenant="other"), config.tenants)
    assert (stranger.weight, stranger.service_tier) == (1.0, "default")


def test_a_tenant_cannot_ask_for_more_than_its_highest_tier() -> None:
    tenants = [Tenant(name="team", key_env="K", service_tier="flex", highest_tier="default")]
    asked = Request(service_tier="priority")
    with pytest.raises(BadRequest, match="'default' at most"):
        as_tenant(asked, Caller(tenant="team"), tenants)
    assert as_tenant(asked, Caller(tenant="else"), tenants).service_tier == "priority"
    assert as_tenant(Request(), Caller(tenant="team", tier="default"), tenants).service_tier == "default"


@pytest.mark.parametrize("value", [0, -1, 1000, float("inf")])
def test_a_weight_that_makes_no_sense_is_refused(value: float, tmp_path: Path) -> None:
    tenants = [{"name": "t", "key_env": "K", "weight": value}]
    with pytest.raises(ValueError, match="weight"):
        Config.model_validate({"targets": {"e": {"kind": "local", "model": "m"}}, "tenants": tenants})


MAIL = "write to jane@example.com"
DOORS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": MAIL}]}),
    ("/v1/completions", {"prompt": MAIL}),
    ("/v1/embeddings", {"input": MAIL}),
    ("/v1/responses", {"input": MAIL}),
    ("/v1/responses", {"input": "hi", "instructions": MAIL}),
    ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text", "text": MAIL}]}]}),
    ("/v1/responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": MAIL}]}),
    ("/v1/responses", {"input": [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '"' + MAIL + '"'}]}),
    ("/v1/responses", {"input": [{"type": "reasoning", "content": [{"type": "reasoning_text", "text": MAIL}]}]}),
    ("/v1/responses", {"input": "hi", "tools": [{"type": "function", "name": "f", "description": MAIL}]}),
    ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": MAIL}]}),
    ("/v1/messages", {"max_tokens": 9, "messages": HI, "system": MAIL}),
    ("/v1/messages", {"max_tokens": 9, "messages": HI, "system": [{"type": "text", "text": MAIL}]}),
    ("/v1/messages", {"max_tokens": 9, "messages": HI, "tools": [
        {"name": "f", "description": MAIL, "input_schema": {}}]}),
    ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": MAIL}]}]}]}),
    ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "assistant", "content": [
        {"type": "tool_use", "id": "c", "name": "f", "input": {"to": MAIL}}]}, *HI]}),
    ("/v1/messages", {"max_tokens": 9, "messages": [{"role": "assistant", "content": [
        {"type": "thinking", "thinking": MAIL, "signature": ""}]}, *HI]}),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": MAIL}]}),
    ("/v1/rerank", {"query": MAIL, "documents": ["a"]}),
    ("/v1/rerank", {"query": "a", "documents": ["b", MAIL]}),
    ("/tokenize", {"content": MAIL}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), DOORS)
def test_what_is_private_stays_here_by_whichever_door_it_comes(
    served: Served, edge: FakeBackend, cloud: FakeBackend, path: str, body: dict[str, Any]
) -> None:
    """The cloud comes first in this config: only the label keeps it away."""
    edge.script = [Chunk(index=0, score=1.0), Chunk(index=1, score=1.0), *edge.script]
    served.http.post(path, json={"model": "auto", **body})
    assert len(edge.requests) == 1
    assert not cloud.requests
    refused = served.http.post(path, json={"model": "cloud", **body})
    assert refused.status_code in (400, 403)
    assert "private" in refused.text
    assert "jane" not in refused.text
    assert not cloud.requests
