"""What an estimator can be trained on without a file of labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from foreshore.cli.known_labels import known_labels
from foreshore.cli.route_train import train
from foreshore.errors import NotFound
from foreshore.quality import Estimator, Label
from foreshore.quantize import build
from foreshore.reliability.event import Event
from foreshore.reliability.feedback import give
from foreshore.reliability.ledger import Ledger
from foreshore.reliability.prompts import PROMPTS, Prompts
from foreshore.store import LABELS, Store


def test_the_store_and_a_ledger_give_labels(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path))
    (variant,) = build(tiny, None, "tiny")
    row = {"prompt": "What is 2 + 3?", "kind": "sum", "correct": True, "confidence": None, "answer": "5"}
    (Store().folder(variant) / LABELS).write_text(json.dumps(row) + "\n")
    ledger, prompts = Ledger(tmp_path / "ledger.sqlite"), Prompts(tmp_path / PROMPTS)
    ledger.append(Event(decision_id="a", terminal_state="complete", target="edge", targets=("edge",)))
    prompts.keep("a", "Sort these.")
    ledger.close()
    prompts.close()
    with pytest.raises(NotFound, match="no feedback"):
        list(known_labels(ledger=ledger.file))
    give(ledger.file, "a", 0)
    found = list(known_labels([variant.ref], ledger.file))
    assert found == [
        Label("What is 2 + 3?", variant.ref, True, answer="5"),
        Label("Sort these.", "edge", False),
    ]


def test_what_was_not_measured_is_refused(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path))
    (variant,) = build(tiny, None, "tiny")
    with pytest.raises(NotFound, match="not been measured on tasks"):
        list(known_labels([variant.ref]))
    with pytest.raises(NotFound):
        list(known_labels(["nothing:here"]))
    with pytest.raises(NotFound, match="no ledger"):
        list(known_labels(ledger=tmp_path / "none.sqlite"))
    assert list(known_labels()) == []


def test_an_estimator_is_trained_from_the_store(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path))
    (variant,) = build(tiny, None, "tiny")
    known = {"kind": "all", "confidence": None, "answer": ""}
    rows = [{"prompt": f"{'sort' if n % 2 else 'prove'} this {n}", "correct": bool(n % 2), **known} for n in range(90)]
    (Store().folder(variant) / LABELS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    app, out = typer.Typer(), tmp_path / "estimator.bin"
    app.command()(train)
    done = CliRunner().invoke(app, ["--store", variant.ref, "--out", str(out)])
    assert done.exit_code == 0, done.output
    found = Estimator.load(out)
    assert found.predict("sort this 500")[variant.ref] > 0.7 > found.predict("prove this 500")[variant.ref]
    nothing = CliRunner().invoke(app, ["--out", str(out)])
    assert (nothing.exit_code, "nothing to learn from" in nothing.output) == (2, True)
