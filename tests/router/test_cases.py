"""Expected decisions as YAML cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foreshore.cli import app
from foreshore.config import parse_config
from foreshore.errors import ConfigError, ForeshoreError
from foreshore.router.checks.case_file import read_cases
from foreshore.router.checks.cases import Outcome, run_cases
from foreshore.router.policy import Policy

CONFIG = """
targets:
  edge: {kind: local, model: small}
  cloud: {kind: openai, model: big, key_env: K, price: {input: 1, output: 2}}
  claude: {kind: anthropic, model: vast, key_env: K}
tenants: [{name: hr, key_env: HR, private: true}]
budgets: [{tenant: default, dollars: 5}]
constraints:
  - {name: idle, when: request.deadline_s < 5.0, require: target.waiting == 0}
  - {name: no-images, when: request.has_images, refuse: pictures stay out}
rules:
  - {name: tools, when: request.has_tools, prefer: [claude, cloud]}
  - {name: offline, when: '!device.online', prefer: [edge]}
  - {name: night, when: now.hour >= 22, prefer: [cloud]}
  - {name: poor, when: budget.share_left < 0.1, prefer: [edge]}
  - {name: good, when: request.max_tokens > 1000, prefer: [edge, cloud], objective: {quality: 1}}
default: [edge, cloud]
"""


def outcomes(folder: Path, text: str) -> list[Outcome]:
    (folder / "cases.yaml").write_text(text)
    config = parse_config(CONFIG)
    return list(run_cases(read_cases(folder / "cases.yaml"), config, Policy(config)))


def one(folder: Path, case: str) -> list[str]:
    """What failed of one case, `case` being its keys."""
    (found,) = outcomes(folder, f"cases:\n  - {{name: it, {case}}}\n")
    return [failure.message for failure in found.failures]


@pytest.mark.parametrize(
    "case",
    [
        "request: {text: hi}, expect: {targets: [edge, cloud], first: edge, rule: default, private: false}",
        "request: {text: 'mail jane@example.com'}, expect: {targets: [edge], private: true, never: [cloud, claude]}",
        "request: {text: hi, tenant: hr}, expect: {private: true, first: edge}",
        "request: {text: hi, headers: {X-Foreshore-Privacy: private}}, expect: {private: true}",
        "request: {text: hi, labels: [card], model: cloud}, expect: {refused: privacy}",
        "request: {text: hi, model: nobody}, expect: {refused: nobody}",
        "request: {fields: {has_tools: true}}, expect: {first: claude, rule: tools, strategy: fallback}",
        "request: {fields: {has_images: true}}, expect: {refused: pictures}",
        "request: {fields: {deadline_s: 2}}, targets: {edge: {waiting: 1}}, expect: {first: cloud, never: [edge]}",
        "request: {}, targets: {edge: {healthy: false}}, expect: {targets: [cloud], reasons: [\"'edge' left out\"]}",
        "request: {}, device: {online: false}, expect: {targets: [edge], rule: offline}",
        "request: {}, now: {hour: 22}, expect: {targets: [cloud]}",
        "request: {}, budget: {share_left: 0.05}, expect: {rule: poor}",
        "request: {max_tokens: 2000}, targets: {cloud: {quality: 0.9}, edge: {quality: 0.5}}, expect: {first: cloud}",
        "request: {body: {messages: [{role: user, content: hi}], tools: [{type: function, function: {name: f}}]}}, "
        "expect: {rule: tools}",
        "request: {body: {messages: []}}, expect: {refused: true}",
        "request: {body: {input: [a, b]}}, expect: {never: [claude]}",
        "expect: {refused: false}",
    ],
)
def test_what_is_expected_comes(tmp_path: Path, case: str) -> None:
    assert one(tmp_path, case) == []


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("expect: {first: cloud}", "first is 'edge', not 'cloud'"),
        ("expect: {targets: [cloud, edge]}", "targets are edge, cloud, not cloud, edge"),
        ("expect: {rule: tools}", "rule is 'default', not 'tools'"),
        ("expect: {private: true}", "private is False, not True"),
        ("expect: {refused: true}", "not refused, but edge, then cloud by 'default'"),
        ("expect: {never: [cloud]}", "'cloud' may be tried"),
        ("expect: {reasons: [never]}", "no reason has 'never' in it"),
        ("request: {fields: {has_images: true}}, expect: {first: edge}", "refused: pictures stay out"),
        ("request: {fields: {has_images: true}}, expect: {refused: money}", "refused: pictures stay out"),
    ],
)
def test_what_comes_otherwise_is_said(tmp_path: Path, case: str, said: str) -> None:
    (failed,) = one(tmp_path, case)
    assert said in failed


def test_a_failure_has_the_line_of_its_expectation(tmp_path: Path) -> None:
    (found,) = outcomes(tmp_path, "cases:\n  - name: it\n    expect:\n      rule: default\n      first: cloud\n")
    assert (found.line, [f.line for f in found.failures]) == (2, [5])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cases: []", ":1: cases"),
        ("case: []", "unknown key 'case'"),
        ("cases:\n  - name: a\n    expect: {}", ":3: cases.0.expect: expects nothing"),
        ("cases:\n  - name: a\n    expect: {frist: edge}", ":3: unknown key 'cases.0.expect.frist'"),
        ("cases:\n  - name: a\n    expect: {first: egde}", ":3: case 'a': there is no target 'egde'"),
        ("cases:\n  - name: a\n    expect: {rule: nope}", ":3: case 'a': there is no rule 'nope'"),
        ("cases:\n  - {name: a, expect: {refused: true}}\n  - {name: a, expect: {refused: true}}", ":3: cases.1.name"),
        ("cases:\n  - name: a\n    request: {tenant: nobody}\n    expect: {first: edge}", "no tenant 'nobody'"),
        (
            "cases:\n  - name: a\n    device: {onlin: true}\n    expect: {first: edge}",
            ":3: case 'a': there is no field",
        ),
        ("cases:\n  - name: a\n    device: {online: 1}\n    expect: {first: edge}", "it must be true or false"),
        ("cases:\n  - name: a\n    now: {hour: 24}\n    expect: {first: edge}", "between 0 and 23"),
        ("cases:\n  - name: a\n    targets: {nope: {healthy: true}}\n    expect: {first: edge}", "no target 'nope'"),
        ("cases:\n  - name: a\n    targets: {cloud: {local: true}}\n    expect: {first: edge}", "the config's to say"),
        ("cases:\n  - name: a\n    targets: {edge: {cost: .nan}}\n    expect: {first: edge}", "target.cost is nan"),
        ("cases:\n  - name: a\n    request: {labels: [emial]}\n    expect: {first: edge}", "it takes header, tenant"),
        ("cases:\n  - name: a\n    request: {text: a, body: {messages: []}}\n    expect: {first: edge}", "the body"),
        ("cases: &a [*a]", "aliases"),
        ("- a", "must be a mapping"),
        ("cases:\n\t- a", "not valid YAML"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ForeshoreError) as error:
        outcomes(tmp_path, text)
    assert said in error.value.message + (error.value.hint or "")


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ForeshoreError):
            read_cases(path)
    (tmp_path / "latin.yaml").write_bytes(b"cases: [\xff]")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_cases(tmp_path / "latin.yaml")
    (tmp_path / "huge.yaml").write_bytes(b"#" * (5 << 20))
    with pytest.raises(ConfigError, match="larger"):
        read_cases(tmp_path / "huge.yaml")


def test_the_command_counts_and_exits_with_1_where_a_case_failed(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(CONFIG)
    (tmp_path / "good.yaml").write_text("cases: [{name: here, expect: {first: edge}}]")
    (tmp_path / "bad.yaml").write_text("cases:\n  - name: there\n    expect: {first: cloud}")
    files = [str(tmp_path / name) for name in ("good.yaml", "bad.yaml")]
    config = ["-c", str(tmp_path / "f.yaml")]
    done = CliRunner().invoke(app, ["route", "test", *files, *config])
    assert done.exit_code == 1
    assert "passed here" in done.stdout
    assert f"{files[1]}:3: first is 'edge', not 'cloud'" in done.stdout
    assert "1 of 2 cases passed" in done.stderr
    done = CliRunner().invoke(app, ["route", "test", files[0], *config, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "passed": 1,
        "failed": 0,
        "cases": [
            {
                "file": files[0],
                "line": 1,
                "name": "here",
                "passed": True,
                "decided": "edge, then cloud by 'default'",
                "failures": [],
            }
        ],
    }
