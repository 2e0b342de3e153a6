"""`foreshore route feedback` and `route evaluate`, and POST /v1/feedback: from a gateway's ledger to estimates."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from foreshore.cli.route_evaluate import evaluate
from foreshore.cli.route_feedback import feedback
from foreshore.reliability.event import Event
from foreshore.reliability.feedback import rated
from foreshore.reliability.ledger import Ledger, read_events
from foreshore.testing import FakeBackend
from tests.router.serving import config_of, serving

TARGETS = """
targets:
  edge: {kind: local, model: "tiny:q8_0"}
  cloud: {kind: openai, model: big, base_url: "http://127.0.0.1:9/v1", price: {input: 1.0, output: 2.0}}
"""
SPLIT = """
rules:
  - {name: long, when: request.prompt_tokens > 300, prefer: [cloud, edge]}
  - {name: short, prefer: [edge, cloud]}
"""
EXPLORE = 0.2


def right(target: str, tokens: int) -> float:
    """The edge is good at short prompts, the cloud at all."""
    return 0.9 if target == "cloud" or tokens < 100 else 0.3


def truth(choose: Callable[[int], str]) -> float:
    return float(np.mean([right(choose(t), t) for t in range(1, 401)]))


def write_ledger(file: Path, *, explore: float = EXPLORE, count: int = 3000) -> None:
    """What a gateway that prefers the edge and explores would have recorded; with feedback on every answer."""
    rng, ledger = np.random.default_rng(2), Ledger(file)
    scores = []
    for number in range(count):
        tokens = int(rng.integers(1, 401))
        order = ["cloud", "edge"] if rng.random() < explore / 2 else ["edge", "cloud"]
        propensity = explore / 2 + (1 - explore) * (order[0] == "edge")
        scores.append(float(rng.random() < right(order[0], tokens)))
        ledger.append(
            Event(
                decision_id=f"dec-{number}",
                terminal_state="complete",
                target=order[0],
                targets=order,
                rule="short",
                propensity=propensity,
                explored=order[0] == "cloud",
                facts={"task": "chat", "prompt_tokens": tokens, "labels": []},
                estimates={name: {"total_s": 1.0} for name in order},
                cost=0.01 if order[0] == "cloud" else 0.0,
                holdout=number % 2 == 0,
            )
        )
    ledger.close()
    with sqlite3.connect(file) as database:
        rows = [(f"dec-{number}", "user", score, time.time()) for number, score in enumerate(scores)]
        database.executemany("INSERT INTO feedback VALUES (?, ?, ?, ?)", rows)
    database.close()


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("evaluate") / "ledger.sqlite"
    write_ledger(file, count=1200)
    return file


def run(command: Callable[..., Any], *arguments: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, list(arguments))


def config(folder: Path, text: str) -> str:
    path = folder / "new.yaml"
    path.write_text(TARGETS + text)
    return str(path)


def test_a_policy_is_estimated_from_what_another_one_did(explored: Path, tmp_path: Path) -> None:
    done = run(evaluate, "-c", config(tmp_path, SPLIT), "--ledger", str(explored), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    wanted = truth(lambda tokens: "cloud" if tokens > 300 else "edge")
    for name in ("ips", "self_normalised", "doubly_robust", "bernstein"):
        assert found[name]["low"] <= wanted <= found[name]["high"], name
    assert found["doubly_robust"]["low"] > found["logged"]["value"]
    assert found["rows"] == 1200
    held = run(evaluate, "-c", config(tmp_path, SPLIT), "--ledger", str(explored), "--held-out", "--json")
    assert json.loads(held.stdout)["rows"] == 600


def test_what_it_would_have_cost_is_estimated_too(explored: Path, tmp_path: Path) -> None:
    name = config(tmp_path, SPLIT)
    done = run(evaluate, "-c", name, "--ledger", str(explored), "--reward", "cost", "--json")
    found = json.loads(done.stdout)
    assert found["self_normalised"]["low"] <= 0.01 * 100 / 400 <= found["self_normalised"]["high"]
    shown = run(evaluate, "-c", name, "--ledger", str(explored))
    assert "doubly-robust" in shown.stdout


def test_it_refuses_where_the_log_cannot_say(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    write_ledger(file, explore=0.0, count=200)
    done = run(evaluate, "-c", config(tmp_path, SPLIT), "--ledger", str(file))
    assert done.exit_code == 2
    assert "% of 200 decisions the new policy takes what the logged one never could have" in done.output
    same = run(evaluate, "-c", config(tmp_path, ""), "--ledger", str(file), "--json")
    assert json.loads(same.stdout)["agreement"] == 1.0


def test_it_refuses_a_policy_that_looks_at_what_is_not_kept(explored: Path, tmp_path: Path) -> None:
    rule = "rules: [{name: a, when: \"request.text.contains('x')\", prefer: [edge]}]"
    done = run(evaluate, "-c", config(tmp_path, rule), "--ledger", str(explored))
    assert done.exit_code == 2
    assert "request.text, which the ledger does not keep" in done.output
    where = "rules: [{name: a, where: target.waiting < 3}]"
    done = run(evaluate, "-c", config(tmp_path, where), "--ledger", str(explored))
    assert "target.waiting, which the ledger does not keep" in done.output


def test_no_feedback_and_no_ledger_are_said(tmp_path: Path) -> None:
    name = config(tmp_path, SPLIT)
    done = run(evaluate, "-c", name, "--ledger", str(tmp_path / "none.sqlite"))
    assert (done.exit_code, "there is no ledger" in done.output) == (2, True)
    Ledger(tmp_path / "empty.sqlite").close()
    done = run(evaluate, "-c", name, "--ledger", str(tmp_path / "empty.sqlite"))
    assert (done.exit_code, "no decision with feedback" in done.output) == (2, True)
    assert run(evaluate, "-c", str(tmp_path / "none.yaml")).exit_code == 2


def test_feedback_is_given_by_a_command(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    write_ledger(file, count=0)
    ledger = Ledger(file)
    for name in "abc":
        ledger.append(Event(decision_id=name, terminal_state="complete"))
    ledger.close()
    path = config(tmp_path, f'ledger: {{path: "{file}"}}')
    assert run(feedback, "a", "--correct", "-c", path).exit_code == 0
    assert run(feedback, "b", "--wrong", "-c", path).exit_code == 0
    done = run(feedback, "c", "--score", "0.25", "--evaluated", "-c", path, "--json")
    assert json.loads(done.stdout)["source"] == "eval"
    assert [(e["decision_id"], score) for e, score in rated(file)] == [("a", 1.0), ("b", 0.0), ("c", 0.25)]
    for arguments in (["a", "-c", path], ["a", "--correct", "--score", "1", "-c", path], ["x", "--wrong", "-c", path]):
        assert run(feedback, *arguments).exit_code == 2


def test_a_gateways_answer_can_be_judged_and_its_policy_estimated(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    loaded = config_of(TARGETS + "learning: {explore: 0.2}", file)
    fakes = {"edge": FakeBackend("from edge", name="edge"), "cloud": FakeBackend("from cloud", name="cloud")}
    with serving(loaded, fakes) as served:
        for _ in range(150):
            answer = served.chat()
            decision = answer.headers["x-foreshore-decision"]
            body: dict[str, Any] = {"decision": decision, "correct": answer.headers["x-foreshore-target"] == "cloud"}
            said = served.http.post("/v1/feedback", json=body)
            assert said.status_code == 200, said.text
        assert said.json() == {"decision": decision, "score": float(body["correct"]), "source": "user"}
        for bad, status in (
            ({"decision": "nowhere", "correct": True}, 404),
            ({"decision": decision}, 400),
            ({"decision": decision, "correct": True, "score": 1.0}, 400),
            ({"decision": decision, "score": 7}, 400),
            ({"decision": decision, "correct": "yes"}, 400),
            ({"decision": decision, "score": 0.5}, 400),
            ({"decision": decision, "correct": True, "odd": 1}, 400),
        ):
            assert served.http.post("/v1/feedback", json=bad).status_code == status, bad
    events = list(read_events(file))
    assert {round(e["propensity"], 6) for e in events} == {0.9, 0.1}
    done = run(evaluate, "-c", config(tmp_path, ""), "--ledger", str(file), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["self_normalised"]["value"] == 0.0, "the edge, where nobody explores, is always wrong"


def test_a_tenant_judges_its_own_answers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADA_KEY", "ada-secret-of-hers")
    monkeypatch.setenv("EVE_KEY", "eve-secret-of-hers")
    tenants = "tenants: [{name: ada, key_env: ADA_KEY}, {name: eve, key_env: EVE_KEY}]"
    text = "targets: {edge: {kind: local, model: tiny}}\n" + tenants
    ada, eve = ({"authorization": f"Bearer {name}-secret-of-hers"} for name in ("ada", "eve"))
    with serving(config_of(text, tmp_path / "ledger.sqlite"), {"edge": FakeBackend(name="edge")}) as served:
        decision = served.chat(headers=ada).headers["x-foreshore-decision"]
        body = {"decision": decision, "correct": True}
        assert served.http.post("/v1/feedback", json=body).status_code == 401
        assert served.http.post("/v1/feedback", json=body, headers=eve).status_code == 404
        assert served.http.post("/v1/feedback", json=body, headers=ada).status_code == 200
