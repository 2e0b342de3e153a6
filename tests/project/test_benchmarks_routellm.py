"""The routing benchmark's machinery, on a small table of its own. No figure of a real table is asserted."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.routellm_data import read, read_all
from benchmarks.routellm_rows import by_length, by_luck, by_oracle, cross_validated
from foreshore.errors import NotFound, UsageError
from tests.project.benchmark_command import check_refused, run
from tests.quality.prompts import prompts


def write(path: Path, count: int, seed: int) -> Path:
    """Weak is right where the prompt is easy, strong nearly always, `mid` in between; weak admits what it cannot."""
    texts, shares = prompts(count, seed)
    rng = np.random.default_rng(seed)
    written = io.StringIO(newline="")
    rows = csv.writer(written)
    rows.writerow(["prompt", "weak_correct", "strong_correct", "mid_correct", "weak_response"])
    for text, share in zip(texts, shares, strict=True):
        weak, strong, mid = rng.random(3) < (share, 0.75, 0.65)
        rows.writerow([text, weak, strong, mid, "It is 4." if weak else "I am not sure, perhaps."])
    data = written.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("routellm")
    write(path / "mmlu.csv.gz", 170, 0)
    write(path / "gsm8k.csv", 160, 1)
    return path


def test_the_rows_of_a_folder(folder: Path) -> None:
    done = run("routellm", "--data", str(folder), "--json", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for key, bound in (
        ("mmlu_apgr", 0.665), ("gsm8k_apgr", 0.65), ("gsm8k_cascade_apgr", 0.74), ("transfer_apgr", 0.58)
    ):  # fmt: skip
        assert found[key]["target"] == bound
        assert found[key]["low"] <= found[key]["value"] <= found[key]["high"]
        assert found[key]["ok"] == (found[key]["value"] >= bound)
    assert found["gsm8k_cascade_apgr"]["value"] > found["gsm8k_apgr"]["value"]
    rows = {(row["table"], row["router"]): row for row in found["rows"]}
    for table in ("mmlu", "gsm8k"):
        assert {router for name, router in rows if name == table} >= {
            "random",
            "length",
            "oracle",
            "single mid",
            "ours",
        }
    assert rows["mmlu", "published best (sw_ranking)"]["apgr"] == 0.603
    assert rows["gsm8k", "ours, learnt on mmlu"]["labels"] == 170
    assert rows["gsm8k", "ours, cascade"]["labels"] == 128
    assert {"cpt50", "cpt80", "cpt50_envelope", "cpt80_envelope"} <= set(rows["mmlu", "ours"])
    assert 0 < rows["mmlu", "single mid"]["gap_recovered"] < 1.5


def test_what_is_there_to_beat_and_what_is_out_of_reach(folder: Path) -> None:
    table = read(folder / "mmlu.csv.gz")
    luck, length, oracle = (way(table).row() for way in (by_luck, by_length, by_oracle))
    assert luck["low"] < 0.5 < luck["high"]
    assert luck["draws"] == 10
    assert length["labels"] == luck["labels"] == 0
    assert oracle["apgr"] > 1


def test_no_prompt_is_judged_by_what_learnt_from_it(folder: Path) -> None:
    """Outcomes drawn by chance cannot be foretold, unless the estimator saw them."""
    table = read(folder / "gsm8k.csv")
    table.weak[:] = np.random.default_rng(0).random(len(table)) < 0.5
    table.strong[:] = np.random.default_rng(1).random(len(table)) < 0.7
    assert cross_validated(table, 0).row()["low"] < 0.5


def test_the_same_words_are_in_the_same_fold(folder: Path) -> None:
    table = read(folder / "gsm8k.csv")
    again = read(folder / "gsm8k.csv")
    assert np.array_equal(table.folds(5, 0), again.folds(5, 0))
    assert not np.array_equal(table.folds(5, 0), table.folds(5, 1))
    assert set(table.folds(5, 0)) == set(range(5))


def test_one_table_is_enough(folder: Path) -> None:
    done = run("routellm", "--data", str(folder / "gsm8k.csv"), "--only", "apgr", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "apgr" in done.stdout
    assert "single mid" in done.stdout


def test_unknown_rows_are_refused(folder: Path) -> None:
    check_refused(run("routellm", "--data", str(folder), "--only", "speed"))


def test_files_that_are_no_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"mmlu\.csv\.gz"):
        read_all(tmp_path)
    (tmp_path / "other.csv").write_text("prompt,correct\nx,True\n")
    with pytest.raises(UsageError, match="strong_correct"):
        read(tmp_path / "other.csv")
    (tmp_path / "bad.csv.gz").write_text("no gzip")
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / "bad.csv.gz")
