"""What a lint finds in a policy, and what its command says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foreshore.cli import app
from foreshore.config import Config, parse_config
from foreshore.router.library import NAMES
from foreshore.router.lint.finding import Finding
from foreshore.router.lint.lint import Report, lint
from foreshore.router.policy import Policy

TARGETS = """
targets:
  edge: {kind: local, model: small}
  cloud: {kind: openai, model: big, key_env: K, price: {input: 1, output: 2}}
  claude: {kind: anthropic, model: vast, key_env: K}
"""


def report(text: str, *kinds: str) -> Report:
    config = parse_config(TARGETS + text)
    return lint(config, Policy(config), kinds)


def findings(text: str) -> list[Finding]:
    return list(report(text).findings)


def only(text: str) -> Finding:
    (found,) = findings(text)
    return found


def test_a_policy_in_order_has_no_finding() -> None:
    found = report("""
constraints: [{name: dear, require: target.local || target.cost < 0.05}]
rules:
  - {name: tools, when: request.has_tools, prefer: [claude, cloud]}
  - {name: long, when: request.prompt_tokens > 2000, prefer: [cloud, edge]}
""")
    assert found.findings == []
    assert found.exit_code == 0
    assert found.egress[0].verdict == "proved"
    assert found.egress[0].by == {"cloud": "built in", "claude": "built in"}


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("device.battery_percent > 200", "never holds"),
        ("request.task == 'chats'", "never holds"),
        ("request.task == 'chats' || request.stream", "can never hold: \"request.task == 'chats'\""),
        ("'emial' in request.labels", "never holds"),
        ("now.hour > 23", "never holds"),
        ("request.max_tokens < 0", "never holds"),
        ("request.headers['X-Team'] == 'a'", "never holds"),
        ("request.prompt_tokens > 5 && request.prompt_tokens < 6", "never holds"),
        ("request.private && size(request.labels) == 0", "never holds"),
    ],
)
def test_a_condition_that_cannot_hold_is_named(when: str, said: str) -> None:
    found = findings(f'rules: [{{name: r, when: "{when}", prefer: [cloud]}}]')
    assert [f.code for f in found if f.serious] == ["never"]
    assert said in found[0].message
    assert "rule 'r', when" in found[0].where


def test_a_comparison_that_always_holds_is_a_warning() -> None:
    found = only('rules: [{name: r, when: "request.prompt_tokens >= 0 && request.stream", prefer: [cloud]}]')
    assert (found.code, found.serious) == ("always", False)


def test_a_name_that_no_target_has_is_named() -> None:
    found = only("constraints: [{name: c, require: \"target.name == 'egde' || target.healthy\"}]")
    assert found.code == "never"
    assert "egde" in found.message


def test_a_missing_header_is_named_as_what_cannot_be_evaluated() -> None:
    found = only("rules: [{name: r, when: \"request.headers['x-team'] == 'a'\", prefer: [cloud]}]")
    assert (found.code, found.serious) == ("fails", False)
    assert "the header 'x-team' is missing" in found.message


def test_a_rule_that_earlier_ones_cover_is_unreachable_and_they_are_named() -> None:
    found = only("""
rules:
  - {name: tools, when: request.has_tools, prefer: [claude]}
  - {name: small, when: request.prompt_tokens <= 100, prefer: [edge]}
  - {name: large, when: request.prompt_tokens > 99, prefer: [cloud]}
  - {name: never, when: request.stream, prefer: [cloud]}
""")
    assert (found.code, found.serious) == ("unreachable", True)
    assert "rule 'never'" in found.where
    assert "'small' or 'large' decides first" in found.message


def test_a_rule_whose_targets_the_constraints_forbid_is_unreachable() -> None:
    found = only("""
constraints: [{name: stream-stays, when: request.stream, allow: [edge]}]
rules: [{name: r, when: request.stream && request.has_tools, prefer: [cloud, claude]}]
""")
    assert found.code == "unreachable"
    assert "leave none of its targets" in found.message


def test_a_rule_within_an_earlier_one_is_shadowed_where_that_one_may_leave_nobody() -> None:
    found = only("""
constraints: [{name: long-away, when: request.prompt_tokens > 10, forbid: [claude]}]
rules:
  - {name: tools, when: request.has_tools, prefer: [claude]}
  - {name: tools-stream, when: request.has_tools && request.stream, prefer: [cloud]}
""")
    assert (found.code, found.serious) == ("shadowed", False)
    assert "'tools'" in found.message


def test_two_constraints_at_odds_are_a_contradiction() -> None:
    found = [
        f
        for f in findings("""
constraints:
  - {name: hr-stays, when: "request.tenant == 'hr'", allow: [edge]}
  - {name: long-leaves, when: request.prompt_tokens > 5000, forbid: [edge]}
""")
        if f.serious
    ]
    assert [f.code for f in found] == ["contradiction"]
    assert "'hr-stays'" in found[0].message
    assert "request.prompt_tokens is 5001" in found[0].message
    assert "request.tenant is 'hr'" in found[0].message


def test_what_only_some_state_of_the_targets_rules_out_is_no_contradiction() -> None:
    assert findings("constraints: [{name: idle, require: target.waiting == 0 && target.healthy}]") == []


def test_a_refusal_on_purpose_is_no_contradiction() -> None:
    assert findings("constraints: [{name: no-images, when: request.has_images, refuse: no images here}]") == []


def test_a_target_that_nothing_tries_is_named() -> None:
    found = only("default: [edge, cloud]")
    assert (found.code, found.where, found.serious) == ("unused", "target 'claude'", False)


def test_every_shipped_policy_is_clean() -> None:
    for name in NAMES:
        found = report(f"policy: [{name}]")
        assert [f for f in found.findings if f.serious] == []
        assert found.egress[0].verdict == "proved"


def test_private_first_keeps_what_is_not_said_to_be_public() -> None:
    found = report("policy: [private-first]", "!('x-foreshore-privacy' in request.headers)", "request.stream")
    assert [e.verdict for e in found.egress] == ["proved", "proved", "broken"]
    assert found.exit_code == 3


# --- the command ---


def run(folder: Path, text: str, *arguments: str) -> tuple[int, str, str]:
    (folder / "f.yaml").write_text(TARGETS + text)
    done = CliRunner().invoke(app, ["route", "lint", "-c", str(folder / "f.yaml"), *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_proves_or_prints_the_request_that_gets_out(tmp_path: Path) -> None:
    text = "constraints: [{name: hr, when: \"request.tenant == 'hr'\", require: target.local}]"
    code, said, _ = run(tmp_path, text, "--no-egress", "request.tenant == 'hr'")
    assert code == 0
    assert "proved  request.tenant == 'hr' never reaches cloud, claude (constraints)" in said
    code, said, _ = run(tmp_path, text, "--no-egress", "request.tenant.startsWith('hr')", "--json")
    assert code == 3
    found = json.loads(said)["no_egress"][1]
    assert found["verdict"] == "broken"
    assert found["witness"]["request"]["tenant"].startswith("hr")
    assert found["witness"]["target"] in found["witness"]["targets"]


def test_the_command_says_what_it_could_not_prove(tmp_path: Path) -> None:
    text = "constraints: [{name: long, when: request.prompt_tokens * 2 > 8000, require: target.local}]"
    code, said, _ = run(tmp_path, text, "--no-egress", "request.prompt_tokens > 4000")
    assert code == 4
    assert "not proved" in said
    assert "request.prompt_tokens * 2 > 8000" in said


def test_the_command_names_every_mistake_of_type_and_proves_nothing(tmp_path: Path) -> None:
    text = """
rules:
  - {name: a, when: "request.prompt_tokens > 'x'", prefer: [edge]}
  - {name: b, when: request.stream, where: target.wating == 0, prefer: [edge]}
"""
    code, said, told = run(tmp_path, text)
    assert code == 1
    assert "rule 'a', when, line 1, column 1" in said
    assert "did you mean 'waiting'?" in said
    assert "proved" not in said
    assert "nothing is proved" in told


def test_where_every_target_is_here_nothing_can_leave(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("targets: {edge: {kind: local, model: small}}")
    done = CliRunner().invoke(app, ["route", "lint", "-c", str(tmp_path / "f.yaml"), "--no-egress", "true"])
    assert done.exit_code == 0
    assert "proved  true never leaves: every target is on this machine" in done.stdout


def test_warnings_fail_only_where_asked(tmp_path: Path) -> None:
    assert run(tmp_path, "default: [edge, cloud]")[0] == 0
    assert run(tmp_path, "default: [edge, cloud]", "--strict")[0] == 1


def test_a_property_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    code, _, told = run(tmp_path, "", "--no-egress", "request.tenent == 'hr'")
    assert code == 2
    assert "did you mean 'tenant'?" in told
    assert run(tmp_path, "", "--no-egress", "target.local")[0] == 2


def test_of_very_many_rules_the_first_are_checked_for_being_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foreshore.router.lint.rules.MANY", 3)  # of 40 it takes seconds
    rules = [{"name": f"r{i}", "when": f"request.prompt_tokens == {i}", "prefer": ["edge"]} for i in range(5)]
    config = Config.model_validate({"targets": {"edge": {"kind": "local", "model": "m"}}, "rules": rules})
    found = lint(config, Policy(config)).findings
    assert [(f.code, f.serious, "'r3'" in f.where) for f in found] == [("unchecked", False, True)]
    assert "2 rules from here on are not checked" in found[0].message


def test_a_backslash_ends_no_raw_text() -> None:
    when = r"request.text != r'\' && request.tenant == 'hr' && request.text.matches(r'\d')"
    targets = {"edge": {"kind": "local", "model": "m"}}
    config = Config.model_validate({"targets": targets, "rules": [{"name": "r", "when": when}]})
    assert Policy(config).reads == {"request.text", "request.tenant"}
