"""`foreshore route simulate` from the outside: what it prints, draws and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from foreshore.cli.route_simulate import simulate

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "simulate"
OPTIONS = ["--trace", EXAMPLE / "trace.csv", "--slo", "ttft=5s,total=30s", "--deadline", "30s"]
FILES = ["-c", EXAMPLE / "foreshore.yaml", "--speed", EXAMPLE / "speeds.yaml"]
app = typer.Typer()
app.command()(simulate)


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_example_keeps_more_than_either_target_alone(tmp_path: Path) -> None:
    def kept(rules: str) -> dict[str, Any]:
        config = tmp_path / "foreshore.yaml"
        config.write_text((EXAMPLE / "foreshore.yaml").read_text().partition("# Work")[0] + rules)
        done = run("-c", config, *FILES[2:], *OPTIONS, "--json")
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)["all"]
        return found

    done = run(*FILES, *OPTIONS, "--json")
    found = json.loads(done.stdout)
    ours = found["all"]
    assert found["slo"] == "ttft <= 5 s, total <= 30 s"
    assert ours["requests"] == sum(tenant["requests"] for tenant in found["tenants"].values()) == 513
    assert found["speeds"]["edge"]["slots"] == 8
    edge, cloud = (kept(f"rules: [{{name: only, prefer: [{name}]}}]") for name in ("edge", "cloud"))
    assert ours["attainment"] > max(edge["attainment"], cloud["attainment"])
    assert 0 < ours["cost"] < cloud["cost"]
    assert (edge["share_local"], edge["cost"], cloud["share_local"]) == (1.0, 0.0, 0.0)


def test_equal_seeds_give_equal_output_and_others_do_not() -> None:
    first, again, other = (run(*FILES, *OPTIONS, "--json", "--seed", seed).stdout for seed in (1, 1, 2))
    assert first == again != other


def test_a_table_for_people() -> None:
    done = run(*FILES, *OPTIONS)
    assert done.exit_code == 0, done.output
    for word in ("513 requests", "tenant agent", "tenant chat", "target edge", "target cloud", "here-in-time 513"):
        assert word in done.stdout


@pytest.mark.parametrize("name", ["curves.png", "curves.svg", "curves.HTML"])
def test_curves_are_drawn(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    assert run(*FILES, *OPTIONS, "--plot", file).exit_code == 0
    content = file.read_bytes()
    if name.endswith("png"):
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        return
    text = content.decode()
    assert text.startswith("<svg" if name.endswith("svg") else "<!DOCTYPE html>")
    for word in (
        "Share of requests that kept ttft &lt;= 5 s, total &lt;= 30 s",
        "this machine",
        "queues",
        "first token",
    ):
        assert word in text
    assert text.count("polyline") >= 6


def test_a_faster_replay_keeps_less() -> None:
    slow, fast = (json.loads(run(*FILES, *OPTIONS, "--json", "--rate", rate).stdout) for rate in (0.2, 5))
    assert slow["all"]["attainment"] > 0.95
    assert fast["all"]["attainment"] < 0.6
    assert slow["seconds"] > 20 * fast["seconds"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--slo", "ttft=soon"], "no objective"),
        (["--rate", "0"], "factor"),
        (["--deadline", "never"], "no time"),
        (["--plot", "a.pdf"], "none of the endings"),
        (["--plot", "/nowhere/at/all.png"], "cannot write"),
        (["--trace", "nowhere.csv"], "no trace"),
        (["--speed", "nowhere.yaml"], "no file of speeds"),
        (["-c", "nowhere.yaml"], "no config"),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(words: list[str], complaint: str) -> None:
    done = run(*FILES, *OPTIONS, *words)
    assert done.exit_code not in (0, 1)
    assert complaint in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.output


def test_without_speeds_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path))
    done = run(*FILES[:2], *OPTIONS)
    assert done.exit_code == 2
    assert "nothing is known of the speed of target 'edge'" in done.stderr
