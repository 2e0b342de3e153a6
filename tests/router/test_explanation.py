"""A decision taken apart, and the smallest change that flips it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from foreshore.cli import app
from foreshore.config import Config, parse_config
from foreshore.errors import NotFound, UsageError
from foreshore.reliability.event import Event
from foreshore.reliability.ledger import Ledger
from foreshore.router.asking import caller_of, says
from foreshore.router.checks.changes import changed, parse_settings
from foreshore.router.checks.explanation import Explanation, explain
from foreshore.router.policy import Policy
from foreshore.router.situation import Stage

TARGETS = """
targets:
  edge: {kind: local, model: small, context_tokens: 4096}
  cloud: {kind: openai, model: big, key_env: K, price: {input: 1, output: 2}}
  claude: {kind: anthropic, model: vast, key_env: K}
"""


def explained(text: str, prompt: str = "hi", **settings: Any) -> Explanation:
    config = parse_config(TARGETS + text)
    stage = Stage(config, Policy(config))
    request = says(prompt)
    names = {name.replace("__", "."): value for name, value in settings.items()}
    return explain(stage.situation(request, caller_of(config, "default", {})), stage, names, request)


def flip_of(found: Explanation) -> tuple[dict[str, tuple[Any, Any]], str]:
    assert found.flip is not None
    return {c.name: (c.before, c.after) for c in found.flip.changes}, found.flip.target


def test_the_nearest_number_that_flips_is_found() -> None:
    text = "rules: [{name: long, when: request.prompt_tokens > 800, prefer: [cloud]}]\ndefault: [edge]"
    assert flip_of(explained(text, request__prompt_tokens=812)) == ({"request.prompt_tokens": (812, 800)}, "edge")
    assert flip_of(explained(text, request__prompt_tokens=790)) == ({"request.prompt_tokens": (790, 801)}, "cloud")


@pytest.mark.parametrize(
    ("text", "settings", "change", "target"),
    [
        ("default: [edge, cloud]", {}, {"target.edge.healthy": (True, False)}, "cloud"),
        ("default: [edge, cloud]", {"target__edge__healthy": False}, {"target.edge.healthy": (False, True)}, "edge"),
        (
            "rules: [{name: r, when: device.on_battery, prefer: [cloud]}]\ndefault: [edge]",
            {"device__on_battery": True},
            {"device.on_battery": (True, False)},
            "edge",
        ),
        (
            "rules: [{name: r, when: request.language == 'de', prefer: [cloud]}]\ndefault: [edge]",
            {},
            {"request.language": ("", "de")},
            "cloud",
        ),
        (
            "rules: [{name: r, when: \"'x-team' in request.headers\", prefer: [cloud]}]\ndefault: [edge]",
            {},
            {"request.headers.x-team": (None, "other")},
            "cloud",
        ),
        ("default: [cloud, edge]", {"request__private": True}, {"request.private": (True, False)}, "cloud"),
        (
            "rules: [{name: r, prefer: [edge, cloud], objective: {quality: 1}}]",
            {"target__edge__quality": 0.8, "target__cloud__quality": 0.75},
            {"target.cloud.quality": (0.75, 0.81)},
            "cloud",
        ),
    ],
)
def test_the_smallest_change_is_one_that_a_person_would_name(
    text: str, settings: dict[str, Any], change: dict[str, tuple[Any, Any]], target: str
) -> None:
    found, chosen = flip_of(explained(text, **settings))
    assert chosen == target
    assert set(found) == set(change)
    for name, (before, after) in change.items():
        assert found[name][0] == before
        assert found[name][1] == pytest.approx(after, rel=0.02) if isinstance(after, float) else found[name][1] == after


def test_two_changes_are_named_where_one_does_not_do() -> None:
    text = "rules: [{name: r, when: request.has_tools && now.hour >= 22, prefer: [cloud]}]\ndefault: [edge]\n"
    text += "constraints: [{name: c, when: request.private || !request.has_tools, allow: [edge]}]"
    changes, target = flip_of(explained(text, target__edge__healthy=True))
    assert changes == {"request.has_tools": (False, True), "now.hour": (0, 22)}
    assert target == "cloud"


def test_no_change_is_claimed_where_there_is_none() -> None:
    config = parse_config("targets: {edge: {kind: local, model: m}}")
    stage = Stage(config, Policy(config))
    request = says("hi")
    assert explain(stage.situation(request, caller_of(config, "default", {})), stage, {}, request).flip is None


RULES = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("request.prompt_tokens > 50", "request.has_tools", "now.hour < 6", "device.battery_percent < 30.0"),
                *("request.tenant == 'hr'", "target_free == 0", "request.deadline_s < 10.0 && request.stream"),
            ]
        ).map(lambda e: e.replace("target_free == 0", "budget.left > 1.0")),
        st.lists(st.sampled_from(["edge", "cloud", "claude"]), min_size=1, unique=True),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=20, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(rules=RULES, tokens=st.integers(0, 100), hour=st.integers(0, 23))
def test_a_change_flips_and_half_of_it_does_not(rules: list[Any], tokens: int, hour: int) -> None:
    made = [{"name": f"r{i}", "when": when, "prefer": names} for i, (when, names) in enumerate(rules)]
    config = Config.model_validate({**parse_config(TARGETS).model_dump(exclude_unset=True), "rules": made})
    stage = Stage(config, Policy(config))
    request = says("hi")
    base = {"request.prompt_tokens": tokens, "now.hour": hour}
    situation = changed(stage.situation(request, caller_of(config, "default", {})), base)
    found = explain(situation, stage, {}, request)
    if found.flip is None:
        return
    assert found.flip.target != found.verdict.first
    after = changed(situation, {c.name: c.after for c in found.flip.changes})
    assert stage.judged(after, request).first == found.flip.target
    if len(found.flip.changes) == 2:
        for change in found.flip.changes:
            alone = changed(situation, {change.name: change.after})
            assert stage.judged(alone, request).first == found.verdict.first
    (change, *more) = found.flip.changes
    if type(change.after) is int and not more:
        nearer = change.after + (1 if change.before > change.after else -1)
        assert stage.judged(changed(situation, {change.name: nearer}), request).first != found.flip.target


def test_each_target_that_is_not_tried_has_its_reason() -> None:
    found = explained("constraints: [{name: c, forbid: [claude]}]\ndefault: [cloud, edge]", "mail jane@example.com")
    assert list(found.rejected["cloud"]) == ["privacy: the request is private (email)"]
    assert list(found.rejected["claude"]) == [
        "privacy: the request is private (email)",
        "c: forbids claude",
    ]
    found = explained("default: [cloud, edge]", target__cloud__healthy=False)
    assert found.rejected == {"cloud": ["left out: not healthy"], "claude": ["rule 'default' does not prefer it"]}
    found = explained("default: [edge, cloud]", request__prompt_tokens=5000)
    assert list(found.rejected["edge"]) == ["left out: estimated too long for its context"]


def test_what_is_tried_later_says_why_it_is_not_first() -> None:
    found = explained("rules: [{name: r, where: target.local, prefer: [cloud, edge, claude]}]")
    assert list(found.later["cloud"]) == ["'target.local' does not hold"]
    assert found.verdict.first == "edge"
    found = explained("default: [edge, cloud]")
    assert list(found.later["cloud"]) == ["after 'edge' in the order of 'default'"]


def test_rules_say_whether_they_held_and_those_after_were_not_asked() -> None:
    found = explained("""
rules:
  - {name: a, when: request.has_tools, prefer: [cloud]}
  - {name: b, when: "request.headers['x-team'] == 'a'", prefer: [cloud]}
  - {name: c, when: request.prompt_tokens < 100, prefer: [edge]}
  - {name: d, when: request.stream, refuse: no streams}
""")
    assert [(r.name, r.outcome) for r in found.rules] == [
        ("a", "did not hold"),
        ("b", "undecided"),
        ("c", "held"),
        ("d", "not asked"),
    ]
    assert found.rules[0].then == "prefers cloud"
    assert found.rules[3].then == "refuses: no streams"


@pytest.mark.parametrize(
    ("part", "pair", "error"),
    [
        ("device", "on_battery", UsageError),
        ("device", "on_battery=maybe", UsageError),
        ("device", "battery_percent=101", UsageError),
        ("device", "battery_percent=nan", UsageError),
        ("device", "battery=3", UsageError),
        ("target", "healthy=true", UsageError),
        ("target", "nobody.healthy=true", NotFound),
        ("target", "edge.local=false", UsageError),
        ("request", "prompt_tokens=2.5", UsageError),
        ("request", "prompt_tokens=-1", UsageError),
        ("request", "labels=email,nonsense", UsageError),
        ("now", "hour=24", UsageError),
        ("budget", "left=", UsageError),
    ],
)
def test_a_setting_that_cannot_be_is_refused(part: str, pair: str, error: type[Exception]) -> None:
    config = parse_config(TARGETS)
    situation = Stage(config, Policy(config)).situation(says("hi"), caller_of(config, "default", {}))
    with pytest.raises(error):
        changed(situation, parse_settings(part, [pair]))


def test_labels_and_privacy_are_set_together() -> None:
    config = parse_config(TARGETS)
    situation = Stage(config, Policy(config)).situation(says("hi"), caller_of(config, "default", {}))
    assert changed(situation, parse_settings("request", ["labels=email,card"])).request.private
    assert changed(situation, {"request.private": True}).request.labels == ("header",)
    assert changed(situation, {"request.private": True, "request.labels": []}).request.labels == ("header",)


# --- the command ---


def run(folder: Path, text: str, *arguments: str) -> tuple[int, str, str]:
    ledger = f"ledger: {{path: '{folder}/ledger.sqlite'}}\n"
    (folder / "f.yaml").write_text(ledger + TARGETS + text)
    done = CliRunner().invoke(app, ["route", "explain", "-c", str(folder / "f.yaml"), *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_takes_settings_and_says_the_flip(tmp_path: Path) -> None:
    text = "rules: [{name: low, when: device.battery_percent < 30.0, prefer: [cloud]}]\ndefault: [edge]"
    code, said, _ = run(tmp_path, text, "--prompt", "hi", "--device", "battery_percent=20", "--now", "hour=3")
    assert code == 0
    assert "decision   cloud by rule 'low'" in said
    assert "smallest change: device.battery_percent 20.0 -> 30.0 would choose edge" in said
    code, said, _ = run(tmp_path, text, "--prompt", "hi", "--target", "edge.ttft_s=0.5", "--json")
    found = json.loads(said)
    assert found["targets"]["edge"]["estimates"]["ttft_s"] == 0.5
    assert found["decision"]["targets"] == ["edge"]
    assert found["rules"][0]["outcome"] == "did not hold"
    assert found["fields"]["device.battery_percent"] == 100.0


def test_the_command_needs_a_prompt_or_a_decision(tmp_path: Path) -> None:
    assert run(tmp_path, "")[0] == 2
    assert run(tmp_path, "", "--prompt", "x", "--decision", "dec_1")[0] == 2
    assert "there is no ledger" in run(tmp_path, "", "--decision", "dec_1")[2]


def test_a_past_decision_is_explained_as_far_as_the_ledger_goes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    facts = {"prompt_tokens": 900, "tenant": "default", "labels": [], "private": False, "deadline_s": 60.0}
    ledger.append(
        Event(
            decision_id="dec_1", terminal_state="complete", rule="long", target="cloud", policy="abc", facts=facts,
            targets=("cloud",), estimates={"cloud": {"ttft_s": 0.25, "total_s": 1.5, "cost": 0.002}},
        )
    )  # fmt: skip
    ledger.close()
    when = "request.prompt_tokens > 800 && request.text != 'x'"
    text = f'rules: [{{name: long, when: "{when}", prefer: [cloud]}}]\ndefault: [edge]'
    code, said, told = run(tmp_path, text, "--decision", "dec_1")
    assert code == 0
    assert "ledger     dec_1: cloud by rule 'long'" in said
    assert "1.50 s" in said
    assert "smallest change: request.prompt_tokens 900 -> 800 would choose edge" in said
    assert "does not keep request.text" in told
    code, _, told = run(tmp_path, text, "--decision", "dec_2")
    assert code == 2
    assert "no decision 'dec_2'" in told
