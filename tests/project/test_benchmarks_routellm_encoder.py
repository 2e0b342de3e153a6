"""The routing benchmark's rows that a local encoder tells, on a small table of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.project.benchmark_command import run
from tests.project.test_benchmarks_routellm import write


def test_each_row_of_ours_is_there_again_told_by_the_encoder(tiny_encoder: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "pair.csv", 160, 0)
    given = ("--data", str(data), "--encoder", str(tiny_encoder), "--only", "apgr", "--json")
    done = run("routellm", *given, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = {row["router"]: row for row in found["rows"]}
    told, alone = rows["ours, with an encoder"], rows["ours"]
    assert (told["labels"], told["prompts"]) == (alone["labels"], alone["prompts"])
    assert told["apgr"] != alone["apgr"] == pytest.approx(found["apgr"]["value"], abs=1e-3)
    assert (found["encoder"]["dimension"], found["encoder"]["prompts"]) == (32, 160)  # each once, whatever the folds

    assert 0 < found["encoder"]["alone_p50_ms"] <= found["encoder"]["alone_p90_ms"]


def test_an_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    data = write(tmp_path / "pair.csv", 160, 0)
    done = run("routellm", "--data", str(data), "--encoder", str(tmp_path / "none.gguf"))
    assert done.returncode not in (0, 1)
    assert "none.gguf" in done.stderr
