"""A gateway that cascades, and one that remembers prompts for learning."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from foreshore.quality import train
from foreshore.reliability.feedback import give, labels
from foreshore.reliability.ledger import read_events
from foreshore.reliability.prompts import PROMPTS, read_prompts
from foreshore.router.loaded import Compiled
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, TokenLogprob, Usage
from tests.router.serving import Served, config_of, serving

TARGETS = """
targets:
  edge: {kind: local, model: "tiny:q8_0", price: {input: 1.0, output: 1.0}}
  cloud: {kind: openai, model: big, base_url: "http://127.0.0.1:9/v1", price: {input: 1000.0, output: 2000.0}}
"""
CASCADE = TARGETS + "rules: [{name: unsure, prefer: [edge, cloud], strategy: cascade, confidence: 0.8}]\n"


def edge(share: float) -> FakeBackend:
    """Answers with tokens of probability `share`."""
    entry = (TokenLogprob(token="x", bytes=b"x", logprob=math.log(share)),)
    usage = Usage(prompt_tokens=10, completion_tokens=1)
    return FakeBackend([Chunk(text="from edge", logprobs=entry), Chunk(finish_reason="stop", usage=usage)], name="edge")


def served_by(share: float, file: Path) -> Any:
    return serving(config_of(CASCADE, file), {"edge": edge(share), "cloud": FakeBackend("from cloud", name="cloud")})


@pytest.mark.parametrize(("share", "target"), [(0.9, "edge"), (0.5, "cloud")])
@pytest.mark.parametrize("stream", [True, False])
def test_a_gateway_cascades(share: float, target: str, stream: bool, tmp_path: Path) -> None:
    with served_by(share, tmp_path / "ledger.sqlite") as served:
        answer = served.chat(stream=stream)
        assert answer.headers["x-foreshore-target"] == target
        assert "logprob" not in answer.text.replace('"logprobs":null', "")
    (event,) = read_events(tmp_path / "ledger.sqlite")
    assert (event["target"], event["strategy"], event["terminal_state"]) == (target, "cascade", "complete")
    first = event["attempts"][0]
    assert first["target"] == "edge"
    assert first["confidence"] == pytest.approx(share)
    assert (first["error"], first["completion_tokens"]) == ("" if target == "edge" else "low_confidence", 1)
    cloud = (8 * 1000 + 3 * 2000) / 1e6 if target == "cloud" else 0.0
    assert event["cost"] == pytest.approx(11 / 1e6 + cloud), "the discarded answer costs too"


def test_it_is_said_where_a_cascade_has_no_calibrated_confidence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path))
    Compiled.of(config_of(CASCADE, tmp_path / "ledger.sqlite"))
    assert "target 'edge' has no calibrated confidence" in caplog.text
    caplog.clear()
    Compiled.of(config_of(TARGETS, tmp_path / "ledger.sqlite"))
    assert not caplog.text


def test_a_private_request_never_goes_on_to_the_cloud(tmp_path: Path) -> None:
    with served_by(0.1, tmp_path / "ledger.sqlite") as served:
        answer = served.chat(headers={"x-foreshore-privacy": "private"})
        assert (answer.status_code, answer.headers["x-foreshore-target"]) == (200, "edge")


def ask_twice(served: Served) -> tuple[str, str]:
    """The decisions of a public request and of a private one."""
    public = served.chat("What is 2 + 3?")
    private = served.chat("Write to jane@example.com")
    return public.headers["x-foreshore-decision"], private.headers["x-foreshore-decision"]


@pytest.mark.parametrize("remember", [True, False])
def test_prompts_are_kept_where_the_config_says_so_and_never_private_ones(remember: bool, tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    text = TARGETS + f"learning: {{remember: {str(remember).lower()}, holdout: 0}}"
    with serving(config_of(text, file), {"edge": edge(0.9), "cloud": FakeBackend(name="cloud")}) as served:
        public, private = ask_twice(served)
    kept = read_prompts(tmp_path / PROMPTS)
    assert kept == ({public: "What is 2 + 3?"} if remember else {})
    assert (tmp_path / PROMPTS).exists() is remember
    for decision in (public, private):
        give(file, decision, 1)
    assert [label.prompt for label in labels(file, kept)] == list(kept.values())


def test_a_reload_turns_remembering_on_and_off(tmp_path: Path) -> None:
    def config(remember: str) -> Any:
        return config_of(TARGETS + f"learning: {{remember: {remember}}}", tmp_path / "ledger.sqlite")

    with serving(config("false"), {"edge": edge(0.9), "cloud": FakeBackend(name="cloud")}) as served:
        served.chat("before")
        served.call(served.router.reload(config("true")))
        served.chat("while")
        served.call(served.router.reload(config("false")))
        served.chat("after")
    assert list(read_prompts(tmp_path / PROMPTS).values()) == ["while"]
    held = [event["holdout"] for event in read_events(tmp_path / "ledger.sqlite")]
    assert len(held) == 3


def test_a_slice_of_the_requests_is_held_out(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    text = TARGETS + "learning: {remember: true, holdout: 0.5}"
    with serving(config_of(text, file), {"edge": edge(0.9), "cloud": FakeBackend(name="cloud")}) as served:
        for number in range(40):
            give_after = served.chat(f"prompt {number}").headers["x-foreshore-decision"]
            served.http.post("/v1/feedback", json={"decision": give_after, "correct": True})
    held = {e["decision_id"] for e in read_events(file) if e["holdout"]}
    assert 5 <= len(held) <= 35
    learnt = list(labels(file, read_prompts(tmp_path / PROMPTS)))
    assert len(learnt) == 40 - len(held)


def test_what_a_gateway_remembers_teaches_an_estimator(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    text = TARGETS + "learning: {remember: true, holdout: 0}"
    with serving(config_of(text, file), {"edge": edge(0.9), "cloud": FakeBackend(name="cloud")}) as served:
        for number in range(60):
            prompt = f"translate line {number}" if number % 2 else f"prove theorem {number}"
            decision = served.chat(prompt).headers["x-foreshore-decision"]
            served.http.post("/v1/feedback", json={"decision": decision, "correct": bool(number % 2)})
    learnt = train(labels(file, read_prompts(tmp_path / PROMPTS)))
    assert learnt.predict("translate line 500")["edge"] > 0.7 > 0.3 > learnt.predict("prove theorem 500")["edge"]
