"""Bodies that say what cannot be meant: refused by name, at once, and never by the target's fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foreshore.testing import FakeBackend
from tests.router.serving import TWO_TARGETS, Served, config_of, serving

CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "add"}}


@pytest.fixture
def edge() -> FakeBackend:
    return FakeBackend("ok", name="edge")


@pytest.fixture
def served(edge: FakeBackend, tmp_path: Path) -> Iterator[Served]:
    config = config_of(TWO_TARGETS + "default: [edge]\n", tmp_path / "l.sqlite")
    with serving(config, {"edge": edge, "cloud": FakeBackend("cloud", name="cloud")}) as found:
        yield found


@pytest.mark.parametrize(
    ("path", "fields", "param", "said"),
    [
        ("chat/completions", {"tools": [TOOL, TOOL]}, "tools.1", "two tools"),
        ("chat/completions", {"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0", "name"),
        ("chat/completions", {"logit_bias": {"5": 1, "05": -1}}, "logit_bias", "plain digits"),
        ("chat/completions", {"logit_bias": {" 5": 1}}, "logit_bias", "plain digits"),
        ("chat/completions", {"logit_bias": {"\uff15": 1}}, "logit_bias", "plain digits"),
        ("completions", {"prompt": ["a", "b"]}, "prompt", "a request has one"),
        ("completions", {"prompt": [[1], [2]]}, "prompt", "a request has one"),
        ("embeddings", {"input": [1, 2]}, "input", "send the texts"),
        ("embeddings", {"input": [[1, 2]]}, "input", "send the texts"),
        ("embeddings", {"input": []}, "input", "1 to 2048"),
        ("embeddings", {"input": ["a", ""]}, "input", "none empty"),
        ("embeddings", {"input": ["a"] * 2049}, "input", "1 to 2048"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    served: Served, edge: FakeBackend, path: str, fields: dict[str, Any], param: str, said: str
) -> None:
    whole = {**CHAT, **fields} if path.startswith("chat") else {"model": "auto", **fields}
    answer = served.http.post(f"/v1/{path}", json=whole)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    assert not edge.requests


def test_one_doubled_key_among_very_many_is_found_in_time(served: Served) -> None:
    keys = ",".join(f'"k{i}":1' for i in range(200_000))
    body = f'{{"model":"auto","metadata":{{{keys},"k199999":2}},"messages":{json.dumps(CHAT["messages"])}}}'
    answer = served.http.post(
        "/v1/chat/completions", content=body.encode(), headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "k199999")
