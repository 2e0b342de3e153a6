"""`foreshore route train`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from foreshore.cli.route_train import train
from foreshore.quality import Estimator, held_out
from tests.quality.prompts import labels, prompts

app = typer.Typer()
app.command()(train)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "labels.jsonl"
    rows = [{"prompt": la.prompt, "target": la.target, "correct": la.correct} for la in labels(700, 0)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_it_learns_and_reports_on_what_it_did_not_learn_from(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "estimator.npz"
    done = run("--data", data, "--out", out, "--holdout", 0.3, "--regret", 0.4, "--name", "weak=card", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    texts, _ = prompts(700, 0)
    held = sum(held_out(text, 0.3) for text in texts)
    assert report["held_out"]["prompts"] == held > 150
    assert report["labels"] == {"card": 700 - held, "strong": 700 - held}
    judged = report["held_out"]["targets"]["card"]
    assert judged["auroc"]["low"] > 0.6
    assert judged["ece"]["value"] < 0.15
    assert judged["ece_by_chance"] < 0.15
    pair = report["held_out"]["pair"]
    assert (pair["local"], pair["other"]) == ("card", "strong")
    assert pair["apgr"]["value"] > 0.6
    assert pair["regret"]["local_share"] > 0.5
    assert Estimator.load(out).report == report["held_out"]
    assert report["bytes"] == out.stat().st_size


def test_without_json_it_is_a_table(data: Path, tmp_path: Path) -> None:
    done = run("--data", data, "--out", tmp_path / "estimator.npz", "--holdout", 0.3)
    assert done.exit_code == 0, done.output
    assert "weak against strong: APGR 0." in done.stdout
    assert "regret" in done.stdout
    assert "wrote" in done.stderr


def test_bad_lines_are_named_and_can_be_left_out(data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "x"}\nno json\n' * 8)
    out = tmp_path / "estimator.npz"
    done = run("--data", data, "--data", bad, "--out", out)
    assert done.exit_code == 2
    assert "16 of 1416 lines are bad" in done.stderr
    assert "bad.jsonl, line 2: this is not JSON" in done.stderr
    assert "and 6 more" in done.stderr
    assert not out.exists()
    done = run("--data", data, "--data", bad, "--out", out, "--skip-bad")
    assert done.exit_code == 0, done.output
    assert "left out" in done.stderr
    assert out.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--name", "weak"], "is no OLD=NEW"),
        (["--local", "nobody"], "no labels of 'nobody'"),
        (["--local", "weak", "--other", "weak"], "with itself"),
        (["--regret", "0"], "--regret must be between 0 and 1"),
        (["--answers"], "labels have no answer"),
        (["--out", "/none/estimator.npz"], "cannot be written"),
        (["--data", "none.jsonl"], "there is no file 'none.jsonl'"),
    ],
)
def test_what_cannot_be_is_refused(data: Path, tmp_path: Path, options: list[str], says: str) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text("".join(data.read_text().splitlines(keepends=True)[:500]))
    done = run("--data", few, "--out", tmp_path / "estimator.npz", *options)
    assert done.exit_code == 2, done.output
    assert says in done.stderr


def test_too_few_labels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text("prompt,weak_correct,strong_correct\nx,True,False\ny,False,True\n")
    done = run("--data", path, "--out", tmp_path / "estimator.npz")
    assert done.exit_code == 2
    assert "too few labels to learn from" in done.stderr or "no labels" in done.stderr
