"""What is around a decision reaches it, only what rules read is looked at, and every decision says which version."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foreshore.backend import collect
from foreshore.config import Config, load_config, parse_config
from foreshore.errors import ConfigError, NotFound, RoutingError
from foreshore.quality import Label, train
from foreshore.reliability.ledger import read_events
from foreshore.router.decide import Decision
from foreshore.router.label import Caller
from foreshore.router.loaded import Compiled
from foreshore.router.policy import Policy
from foreshore.router.reload import Watcher
from foreshore.router.router import Router
from foreshore.router.surroundings import Surroundings, clock
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, Request, Sampling, Usage
from tests.router.serving import config_of, serving

TARGETS = """
targets:
  edge: {kind: local, model: tiny}
  cloud: {kind: openai, model: big, base_url: "http://127.0.0.1:9/v1", price: {input: 1000, output: 1000}}
device: {probe: false}
"""
ASK = Request(messages=({"role": "user", "content": "hi"},), sampling=Sampling(max_tokens=10))
ANSWER = [Chunk(text="yes"), Chunk(finish_reason="stop", usage=Usage(prompt_tokens=100, completion_tokens=100))]


def fakes() -> dict[str, Any]:
    return {name: FakeBackend(ANSWER, name=name) for name in ("edge", "cloud")}


def config(text: str, tmp_path: Path) -> Config:
    return config_of(TARGETS + text, tmp_path / "l.sqlite")


def test_a_budget_is_spent_and_then_seen(tmp_path: Path) -> None:
    text = (
        "budgets: [{tenant: default, dollars: 0.3, per: month}]\n"
        "rules: [{name: rich, when: 'budget.left > 0.15', prefer: [cloud]}, {name: poor, prefer: [edge]}]"
    )

    async def run() -> list[str]:
        router = Router(config(text, tmp_path), backends=fakes())
        rules = []
        for _ in range(3):
            exchange = await router.open(ASK, Caller())
            rules.append(exchange.decision.rule)
            async for _ in exchange.stream():
                pass
        await router.close()
        return rules

    assert asyncio.run(run()) == ["rich", "poor", "poor"]  # an answer costs 0.2 dollars
    assert asyncio.run(run()) == ["poor"] * 3  # the ledger remembers


def test_only_what_rules_read_is_looked_at(tmp_path: Path) -> None:
    plain, night = config("", tmp_path), config("rules: [{name: n, when: 'now.hour >= 0', prefer: [edge]}]", tmp_path)
    found = Surroundings(plain, tmp_path / "none.sqlite")
    found.follow(plain, Policy(plain))
    assert found.scene("default", Policy(plain)).now.hour == 0
    assert found.sampler is None
    on_battery = config("policy: [battery-saver]", tmp_path)
    found.follow(on_battery, Policy(on_battery))
    first = found.sampler
    assert first is not None
    found.follow(on_battery, Policy(on_battery))
    assert found.sampler is first
    found.follow(night, Policy(night))
    assert found.sampler is None
    assert found.scene("default", Policy(night)).now.weekday == time.localtime().tm_wday
    found.stop()


def test_the_clock_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    found = clock(1_767_571_500.0)  # Monday 2026-01-05 00:05
    assert (found.weekday, found.hour, found.minute) == (0, 0, 5)
    monkeypatch.undo()
    time.tzset()


def estimator(file: Path, *, answers: bool = False) -> Path:
    """One that has learnt that the edge is right where it is asked to add, and the cloud in any case."""
    asked = [(f"{what} the {i} apples", what == "add") for i in range(40) for what in ("add", "prove")]
    said = "so it is" if answers else None
    labels = [Label(prompt=prompt, target="edge", correct=right, answer=said) for prompt, right in asked]
    labels += [Label(prompt=p, target="cloud", correct=i % 4 > 0, answer=said) for i, (p, _) in enumerate(asked)]
    train(labels, answers=answers).save(file)
    return file


def test_quality_is_estimated_where_a_rule_reads_it_and_the_ledger_says_that_it_was(tmp_path: Path) -> None:
    text = f"quality: {{estimator: {estimator(tmp_path / 'e.npz')}, floor: 0.6}}\n"

    async def run(said: str, rest: str) -> Decision:
        router = Router(config(text + rest, tmp_path), backends=fakes())
        exchange = await router.open(replace(ASK, messages=({"role": "user", "content": said},)), Caller())
        exchange.close()
        await router.close()
        return exchange.decision

    policy = "policy: [cheapest-within-quality]"
    assert asyncio.run(run("add the 7 apples", policy)).targets[0] == "edge"
    assert asyncio.run(run("prove the 7 apples", policy)).targets[0] == "cloud"
    assert asyncio.run(run("add the 7 apples", "default: [edge, cloud]")).estimates["edge"].quality == 0.0
    easy, hard, plain = (event for event in read_events(tmp_path / "l.sqlite"))
    assert [event["influenced"] for event in (easy, hard, plain)] == [1, 1, 0]
    assert easy["estimates"]["edge"]["quality"] > 0.6 > hard["estimates"]["edge"]["quality"] > 0
    assert easy["estimates"]["cloud"]["cost"] > 0


def test_an_estimator_that_is_missing_or_judges_answers_is_told_at_once(tmp_path: Path) -> None:
    text = "policy: [cheapest-within-quality]\nquality: {estimator: "
    with pytest.raises(NotFound, match=r"none\.npz"):
        Compiled.of(config(f"{text}{tmp_path / 'none.npz'}}}", tmp_path))
    file = estimator(tmp_path / "a.npz", answers=True)
    with pytest.raises(ConfigError, match="after an answer"):
        Compiled.of(config(f"{text}{file}}}", tmp_path))


def test_an_estimator_that_was_trained_anew_is_taken_up_and_makes_another_version(tmp_path: Path) -> None:
    file, rules = estimator(tmp_path / "e.npz"), tmp_path / "foreshore.yaml"
    rules.write_text(f"{TARGETS}policy: [cheapest-within-quality]\nquality: {{estimator: {file}}}\n")
    rules.write_text(rules.read_text() + f"ledger: {{path: {tmp_path / 'l.sqlite'}}}\n")

    async def run() -> tuple[str, str, str, str]:
        router = Router(load_config(rules), backends=fakes())
        watcher, first = Watcher(router, rules), router.loaded.digest
        await watcher.check()
        same = router.loaded.digest
        good = file.read_bytes()
        file.write_bytes(b"broken")
        await watcher.check()
        kept, complaint = router.loaded.digest, router.config_error
        assert "damaged" in complaint
        router.config_error = "not looked at again"
        await watcher.check()
        assert router.config_error == "not looked at again"
        labels = [Label(prompt=f"{i} {w}", target=t, correct=i % 2 > 0) for i in range(60) for w in "ab" for t in "xy"]
        train(labels).save(file)
        await watcher.check()
        assert file.read_bytes() != good
        new = router.loaded.digest
        await router.close()
        return first, same, kept, new

    first, same, kept, new = asyncio.run(run())
    assert first == same == kept != new


def test_the_version_changes_with_the_file_and_stands_in_the_answer_and_the_ledger(tmp_path: Path) -> None:
    served_config = config("learning: {explore: 0.2}", tmp_path)
    with serving(served_config, fakes()) as served:
        answers = [served.chat(str(i)) for i in range(30)]
    version = Compiled.of(served_config).digest
    assert {a.headers["x-foreshore-policy"] for a in answers} == {version}
    assert Compiled.of(config("policy: [offline-first]", tmp_path)).digest != version
    events = list(read_events(tmp_path / "l.sqlite"))
    assert {e["policy"] for e in events} == {version}
    for event in events:
        first = event["targets"][0] == "edge"
        assert event["propensity"] == pytest.approx(0.9 if first else 0.1)
        assert event["explored"] or first


def test_a_rules_deadline_reaches_the_target_and_its_strategy_the_ledger(tmp_path: Path) -> None:
    text = "rules: [{name: r, prefer: [edge, cloud], deadline: 5, strategy: cascade, confidence: 0}]"

    async def run() -> float:
        given = fakes()
        router = Router(config(text, tmp_path), backends=given)
        begun = time.monotonic()
        await collect(router, ASK)
        await router.close()
        (asked,) = given["edge"].requests
        return float(asked.deadline - begun)

    assert 4.0 < asyncio.run(run()) < 6.0
    (event,) = read_events(tmp_path / "l.sqlite")
    assert (event["strategy"], event["target"]) == ("cascade", "edge")


def test_a_message_of_a_rule_that_refuses_reaches_the_caller(tmp_path: Path) -> None:
    text = "rules: [{name: off, when: 'request.session == \"s1\"', refuse: 'this session has ended'}]"
    with serving(config(text, tmp_path), fakes()) as served:
        refused = served.chat(headers={"x-foreshore-session": "s1"})
        assert refused.status_code == 403
        assert refused.json()["error"]["message"].startswith("this session has ended")
        assert served.chat(headers={"x-foreshore-session": "s2"}).status_code == 200
    events = list(read_events(tmp_path / "l.sqlite"))
    assert [(e["rule"], e["terminal_state"]) for e in events] == [("off", "policy_abort"), ("default", "complete")]
    assert "s1" not in str([e["facts"] for e in events])


@pytest.mark.parametrize("value", ["two words", "a" * 129, ""])
def test_a_session_is_one_short_word(value: str, tmp_path: Path) -> None:
    with serving(config("", tmp_path), fakes()) as served:
        refused = served.chat(headers={"x-foreshore-session": value})
        assert refused.status_code == 400
        assert "x-foreshore-session" in refused.json()["error"]["message"]


def test_images_are_seen_by_rules(tmp_path: Path) -> None:
    text = "privacy: {unscannable: allow}\nconstraints: [{name: i, when: request.has_images, refuse: no images}]"
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    seen = Request(messages=({"role": "user", "content": [{"type": "text", "text": "what is it?"}, image]},))

    async def run() -> None:
        router = Router(config(text, tmp_path), backends=fakes())
        with pytest.raises(RoutingError, match="no images"):
            await collect(router, seen)
        await collect(router, ASK)
        await router.close()

    asyncio.run(run())


def test_a_config_is_checked_by_the_router_too() -> None:
    with pytest.raises(ConfigError, match="unknown field of target"):
        Router(parse_config(TARGETS + "rules: [{name: r, where: 'target.speed > 1'}]"))


def test_answers_are_expected_to_be_as_long_as_the_rules_others_were(tmp_path: Path) -> None:
    text = "rules: [{name: lists, when: \"request.text.startsWith('list')\"}]"
    edge = FakeBackend(name="edge")

    async def ask(router: Router, words: str, tokens: int) -> float:
        edge.script = [Chunk(text="yes"), replace(ANSWER[1], usage=Usage(prompt_tokens=2, completion_tokens=tokens))]
        request = Request(messages=({"role": "user", "content": words},))
        exchange = await router.open(request, Caller())
        async for _ in exchange.stream():
            pass
        return exchange.decision.estimates["edge"].answer_tokens

    async def run() -> tuple[float, float]:
        router = Router(config(text, tmp_path), backends={**fakes(), "edge": edge})
        for _ in range(30):
            await ask(router, "list all", 400)
            await ask(router, "say hi", 4)
        found = await ask(router, "list all", 400), await ask(router, "say hi", 4)
        await router.close()
        return found

    of_lists, of_others = asyncio.run(run())
    assert of_lists > 200
    assert of_others < 20
