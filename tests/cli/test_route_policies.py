"""`foreshore route policies` shows what a config's `policy` would add."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from foreshore.cli.route_policies import policies
from foreshore.config import parse_config
from foreshore.router.library import NAMES

app = typer.Typer()
app.command()(policies)
TARGETS = "targets: {edge: {kind: local, model: m}}\n"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORESHORE_CONFIG", raising=False)


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments))
    return done.exit_code, done.stdout, done.stderr


def test_it_lists_them_with_what_they_do() -> None:
    code, out, _ = run()
    assert code == 0
    assert all(name in out for name in NAMES)


def test_one_is_printed_as_it_can_be_copied_with_what_the_config_sets(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(TARGETS + "quality: {floor: 0.65}\npolicy: [cheapest-within-quality]\n")
    code, out, _ = run("cheapest-within-quality", "-c", str(file))
    assert code == 0
    assert "target.quality >= 0.65" in out
    copied = parse_config(TARGETS + out)
    assert copied.rules[0].name == "cheapest-within-quality.good-enough"


def test_json_says_which_are_used(tmp_path: Path) -> None:
    (tmp_path / "foreshore.yaml").write_text(TARGETS + "policy: [offline-first]\n")
    code, out, _ = run("--json")
    assert code == 0
    found = json.loads(out)
    assert [name for name, policy in found.items() if policy["used"]] == ["offline-first"]
    assert found["battery-saver"]["rules"][0]["where"] == "!target.local"


def test_an_unknown_one_is_told() -> None:
    code, out, err = run("fastest")
    assert (code, out) == (2, "")
    assert "there is no shipped policy 'fastest'" in err
    assert "battery-saver" in err
