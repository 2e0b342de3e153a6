"""`foreshore route train --encoder`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from foreshore.cli.route_train import train
from foreshore.quality import Estimator
from tests.quality.prompts import labels

app = typer.Typer()
app.command()(train)


def test_it_learns_from_the_encoder_and_reports_with_it_and_without(tiny_encoder: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "labels.jsonl", tmp_path / "estimator.npz"
    rows = [{"prompt": la.prompt, "target": la.target, "correct": la.correct} for la in labels(300, 0)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--data", data, "--out", out, "--holdout", 0.4, "--encoder", tiny_encoder]
    done = CliRunner().invoke(app, [*map(str, given), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["encoder"] == {**report["encoder"], "model": str(tiny_encoder), "pooling": "mean", "dimension": 32}
    assert "embedding" in report["scales"]
    told, alone = report["held_out"], report["held_out"]["without_encoder"]
    assert told["prompts"] == alone["prompts"] > 90
    assert told["targets"]["weak"]["auroc"] != alone["targets"]["weak"]["auroc"]
    found = Estimator.load(out)
    assert found.encoder is not None
    assert found.encoder.to_json() == report["encoder"]
    assert found.report == report["held_out"]


def test_an_encoder_that_is_not_there_costs_no_learning(tmp_path: Path) -> None:
    data, out = tmp_path / "labels.jsonl", tmp_path / "estimator.npz"
    data.write_text('{"prompt": "a", "target": "b", "correct": true}\n')
    given = ["--data", data, "--out", out, "--encoder", tmp_path / "none.gguf"]
    done = CliRunner().invoke(app, [*map(str, given)])
    assert done.exit_code != 0
    assert "none.gguf" in done.output
    assert not out.exists()
