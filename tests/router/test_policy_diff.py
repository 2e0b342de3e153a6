"""What a new policy changes for recorded traffic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foreshore.cli import app
from foreshore.config import parse_config
from foreshore.reliability.event import Event
from foreshore.reliability.ledger import Ledger
from foreshore.router.checks.diff import PolicyDiff, compare
from foreshore.router.checks.traffic import Malformed, read_lines
from foreshore.router.policy import Policy
from foreshore.router.situation import Stage

TARGETS = """
targets:
  edge: {kind: local, model: small}
  cloud: {kind: openai, model: big, base_url: 'http://127.0.0.1:9/v1', price: {input: 1000, output: 0}}
"""
HR_STAYS = "constraints: [{name: hr, when: \"request.tenant == 'hr'\", require: target.local}]\n"


def stage(text: str) -> Stage:
    config = parse_config(TARGETS + text)
    return Stage(config, Policy(config))


def diff(folder: Path, old: str, new: str, *rows: Any) -> PolicyDiff:
    file = folder / "traffic.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return compare(stage(old), stage(new), read_lines(file))


def chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def test_the_same_policy_changes_nothing(tmp_path: Path) -> None:
    found = diff(tmp_path, "", "", chat("hi"), {"facts": {"prompt_tokens": 3}}, {"prompt_tokens": 9000})
    assert (found.rows, found.changed, found.leaving, found.pins, found.exit_code) == (3, {}, {}, {}, 0)
    assert found.before == found.after


def test_another_order_moves_requests_and_their_cost(tmp_path: Path) -> None:
    rows = [{"decision_id": f"dec_{i}", "facts": {"prompt_tokens": 1000 * i}} for i in (1, 2, 3)]
    new = "rules: [{name: long, when: request.prompt_tokens > 1500, prefer: [cloud, edge]}]"
    found = diff(tmp_path, "", new, *rows)
    (group,) = found.changed.values()
    assert (str(group.before), str(group.after), group.count) == ("default -> edge", "long -> cloud", 2)
    assert group.examples == ["dec_2", "dec_3"]
    assert found.before.share_local == 1.0
    assert found.after.share_local == pytest.approx(1 / 3)
    assert found.before.dollars == 0.0
    assert found.after.dollars == pytest.approx(5.0)
    assert found.exit_code == 0  # the cloud was their second choice before


def test_what_was_predicted_then_counts(tmp_path: Path) -> None:
    row = {"facts": {"prompt_tokens": 3}, "estimates": {"edge": {"total_s": 4.0}, "cloud": {"total_s": 1.0}}}
    found = diff(tmp_path, "default: [edge]", "default: [cloud, edge]", row, {"facts": {"prompt_tokens": 3}})
    assert (found.before.mean_s, found.after.mean_s) == (4.0, 1.0)
    assert found.before.timed == 1


def test_a_class_that_stayed_and_may_leave_now_is_highlighted(tmp_path: Path) -> None:
    rows = [{"id": "a", "tenant": "hr", "prompt_tokens": 3}, {"id": "b", "tenant": "dev", "prompt_tokens": 3}]
    found = diff(tmp_path, HR_STAYS, "", *rows)
    assert [g.examples for g in found.leaving.values()] == [["a"]]
    assert found.exit_code == 3
    found = diff(tmp_path, HR_STAYS + "default: [edge]", "default: [edge]", *rows)
    assert found.leaving == {}
    assert [g.examples for g in found.pins.values()] == [["a"]]  # the default keeps it, a pin would not
    assert found.exit_code == 3
    assert diff(tmp_path, "", HR_STAYS, *rows).exit_code == 0


def test_a_detector_that_is_given_up_lets_private_requests_out(tmp_path: Path) -> None:
    rows = [chat("mail jane@example.com"), {"facts": {"labels": ["email"], "private": True}}, chat("hi")]
    found = diff(tmp_path, "", "privacy: {detectors: [card]}", *rows)
    assert sum(g.count for g in found.leaving.values()) == found.private == 2
    assert diff(tmp_path, "privacy: {detectors: [card]}", "", *rows).exit_code == 0


def test_a_private_tenant_stays_however_it_was_recorded(tmp_path: Path) -> None:
    tenants = "tenants: [{name: hr, key_env: HR, private: true}]\n"
    row = {"facts": {"tenant": "hr", "prompt_tokens": 3}}
    assert diff(tmp_path, tenants, "tenants: [{name: hr, key_env: HR}]\n", row).private == 1
    assert diff(tmp_path, "", tenants, row).exit_code == 0


def test_refusals_come_and_go(tmp_path: Path) -> None:
    refuse = "constraints: [{name: no, when: request.has_tools, refuse: no tools}]"
    rows = [{"id": "a", "has_tools": True}, {"id": "b", "has_tools": False}]
    found = diff(tmp_path, "", refuse, *rows)
    assert [(str(g.after), g.examples) for g in found.refused.values()] == [("refused", ["a"])]
    back = diff(tmp_path, refuse, "", *rows)
    assert [g.examples for g in back.answered.values()] == [["a"]]
    assert back.exit_code == 3  # nobody was asked before, and the cloud may be now


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "not JSON"),
        ("[1]", "must be a JSON object"),
        ("{}", "no facts and no body"),
        ('{"facts": {}}', "no facts"),
        ('{"facts": {"prompt_tokens": "x"}}', "it must be a whole number"),
        ('{"facts": {"prompt_tokens": -1}}', "request.prompt_tokens is -1"),
        ('{"facts": {"prompt_tokens": NaN}}', "NaN"),
        ('{"facts": {"prompt_tokens": 1, "prompt_tokens": 2}}', "twice"),
        ('{"facts": {"labels": ["emial"]}}', "'emial'"),
        ('{"promt_tokens": 3}', "no field"),
        ('{"facts": {"stream": true}, "at": "x"}', "at is 'x'"),
        ('{"facts": {"stream": true}, "at": 1e300}', "at is 1e+300"),
        ('{"facts": {"stream": true}, "estimates": {"edge": 3}}', "estimates"),
        ("\x00", "not JSON"),
    ],
)
def test_a_malformed_line_is_named_and_the_others_count(tmp_path: Path, line: str, said: str) -> None:
    found = diff(tmp_path, "", "", {"prompt_tokens": 3}, "", line, {"prompt_tokens": 4})
    (malformed,) = found.malformed
    assert (malformed.line, found.rows, found.exit_code) == (3, 2, 2)
    assert said in malformed.why


def test_a_body_that_the_door_refuses_is_refused_by_both(tmp_path: Path) -> None:
    found = diff(tmp_path, "", "", {"messages": []}, {"body": chat("x"), "tenant": "nobody"})
    assert (found.rows, found.before.answered, found.changed) == (2, 0, {})


def test_a_line_too_long_is_skipped_whole(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_bytes(b'{"text": "' + b"x" * (33 << 20) + b'"}\n{"prompt_tokens": 3}\n')
    first, second = read_lines(file)
    assert isinstance(first, Malformed)
    assert not isinstance(second, Malformed)


# --- the command ---


def run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    (folder / "old.yaml").write_text(TARGETS + HR_STAYS)
    (folder / "new.yaml").write_text(TARGETS)
    done = CliRunner().invoke(app, ["route", "diff", str(folder / "old.yaml"), str(folder / "new.yaml"), *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_shows_what_may_leave_and_exits_with_3(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "a", "tenant": "hr", "prompt_tokens": 3}\nnonsense\n')
    code, said, told = run(tmp_path, "--on", str(tmp_path / "t.jsonl"))
    assert code == 3
    assert "newly tried elsewhere" in said
    assert "default -> edge" in said
    assert "(a)" in said
    assert "t.jsonl:2: the body is not JSON" in told
    code, said, _ = run(tmp_path, "--on", str(tmp_path / "t.jsonl"), "--json")
    found = json.loads(said)
    assert (found["rows"], found["exit_code"], found["malformed"][0]["line"]) == (1, 3, 2)
    assert found["leaving"][0]["examples"] == ["a"]


def test_the_command_reads_a_ledger(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for i, tenant in enumerate(("hr", "dev")):
        facts = {"tenant": tenant, "prompt_tokens": 9, "labels": [], "private": False}
        ledger.append(
            Event(decision_id=f"dec_{i}", terminal_state="complete", facts=facts, targets=("edge",), rule="default")
        )
    ledger.append(Event(decision_id="dec_bad", terminal_state="rejected", facts={}))
    ledger.close()
    code, said, _ = run(tmp_path, "--ledger", str(tmp_path / "ledger.sqlite"), "--json")
    found = json.loads(said)
    assert (code, found["rows"]) == (3, 2)
    assert found["leaving"][0]["examples"] == ["dec_0"]


def test_the_command_needs_traffic_and_files(tmp_path: Path) -> None:
    assert run(tmp_path)[0] == 2
    assert run(tmp_path, "--on", str(tmp_path / "none.jsonl"))[0] == 2
    assert run(tmp_path, "--ledger", str(tmp_path / "none.sqlite"))[0] == 2
    (tmp_path / "empty.jsonl").write_text("\n")
    assert run(tmp_path, "--on", str(tmp_path / "empty.jsonl"))[0] == 2  # or a check on no traffic would pass
    (tmp_path / "text.sqlite").write_text("no database, and long enough to be read as one" * 20)
    assert run(tmp_path, "--ledger", str(tmp_path / "text.sqlite"))[0] == 2
    assert run(tmp_path, "--on", str(tmp_path))[0] == 2
