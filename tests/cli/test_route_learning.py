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
    assert "request.text, request.headers, request.session" in done.output
    where = "rules: [{name: a, where: target.waiting < 3, when: device.on_battery}]"
    done = run(evaluate, "-c", config(tmp_path, where), "--ledger", str(explored))
    assert done.exit_code == 2
    assert "what was not kept: device.on_battery of 1200, target.waiting of 1200 decisions" in done.output


LOOKING = """
rules:
  - {name: low, when: device.on_battery && device.battery_percent < 20.0, prefer: [cloud, edge]}
  - {name: spent, when: budget.left < 1.0, prefer: [edge]}
  - {name: idle, where: target.waiting < 3 && target.breaker == 'closed'}
"""


def test_it_decides_anew_by_what_was_seen_of_machine_money_and_queues(tmp_path: Path) -> None:
    file, edge = tmp_path / "ledger.sqlite", {"total_s": 1.0}
    scenes: tuple[tuple[dict[str, Any], dict[str, Any], str], ...] = (
        ({"device": {"on_battery": True, "battery_percent": 12.5}, "budget": {}}, edge, "cloud"),
        ({"device": {}, "budget": {"dollars": 5.0, "left": 0.5, "share_left": 0.1}}, {**edge, "waiting": 9}, "edge"),
        ({"device": {}, "budget": {}}, {**edge, "waiting": 3}, "cloud"),
        ({"device": {}, "budget": {}}, {**edge, "breaker": "half_open"}, "cloud"),
        ({"device": {"on_battery": True}, "budget": {}, "now": {"hour": 7}}, {**edge, "waiting": 2}, "edge"),
    )
    ledger = Ledger(file)
    for number in range(100):
        scene, estimates, first = scenes[number % 5]
        order = [first, "edge" if first == "cloud" else "cloud"]
        facts = {"task": "chat", "prompt_tokens": 10}
        event = Event(decision_id=f"dec-{number}", terminal_state="complete", target=first, targets=order, rule="idle",
                      facts=facts, estimates={"edge": estimates}, scene=scene, total_s=1.0)  # fmt: skip
        ledger.append(event)
    ledger.append(Event(decision_id="old", terminal_state="complete", targets=["edge"], rule="idle", facts=facts))
    ledger.close()
    arguments = ["-c", config(tmp_path, LOOKING), "--ledger", str(file), "--reward", "total_s", "--json"]
    done = run(evaluate, *arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["rows"], found["agreement"]) == (100, 1.0)
    assert "left out, for nobody knows budget.left of 1, device.battery_percent of 1" in done.stderr


@pytest.mark.parametrize("reward", ["correct", "cost"])
def test_a_file_that_is_no_ledger_and_one_that_is_locked_are_told_apart(tmp_path: Path, reward: str) -> None:
    name, file = config(tmp_path, SPLIT), tmp_path / "ledger.sqlite"
    file.write_bytes(b"\x00\xff" * 4096)
    done = run(evaluate, "-c", name, "--ledger", str(file), "--reward", reward)
    assert (done.exit_code, "is no ledger" in done.output) == (2, True)
    file.unlink()
    sqlite3.connect(file).execute("CREATE TABLE other (a)").connection.close()
    done = run(evaluate, "-c", name, "--ledger", str(file), "--reward", reward)
    assert done.exit_code == 2
    file.unlink()
    write_ledger(file, count=3)
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("BEGIN EXCLUSIVE")
        done = run(evaluate, "-c", name, "--ledger", str(file), "--reward", reward)
    assert (done.exit_code, "database is locked" in done.output, "on a copy" in done.output) == (5, True, True)
    database.close()


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


def test_what_a_gateway_kept_is_enough_to_decide_anew(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    text = TARGETS + LOOKING + "budgets: [{tenant: default, dollars: 5}]\ndevice: {probe: false}"
    fakes = {"edge": FakeBackend("from edge", name="edge"), "cloud": FakeBackend("from cloud", name="cloud")}
    with serving(config_of(text, file), fakes) as served:
        for _ in range(60):
            assert served.chat().status_code == 200
    event = next(iter(read_events(file)))
    assert set(event["scene"]) == {"device", "budget"}
    assert event["scene"]["budget"]["dollars"] == 5.0
    assert "from edge" not in json.dumps(event)
    path = tmp_path / "same.yaml"
    path.write_text(text)
    done = run(evaluate, "-c", str(path), "--ledger", str(file), "--reward", "total_s", "--json")
    assert done.exit_code == 0, done.output
    assert (json.loads(done.stdout)["rows"], json.loads(done.stdout)["agreement"]) == (60, 1.0)
