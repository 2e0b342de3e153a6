"""The quantization benchmark's machinery: that it measures what it says, on a tiny model. No time is asserted."""

from __future__ import annotations

import json
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.models import Shape, write
from benchmarks.quantization import GROUPS, TARGETS
from benchmarks.quantization_mixes import ratios, spearman
from benchmarks.quantization_parent import Parent
from benchmarks.quantization_scale import QUICK
from benchmarks.quantization_uniform import identical
from benchmarks.row import Row
from tests.project.benchmark_command import check_refused, run


def test_every_row_of_the_quantization_benchmark_is_measured_once() -> None:
    assert sorted(key for group in GROUPS for key in group.keys) == sorted(TARGETS)
    assert len(TARGETS) == 11


@pytest.mark.parametrize(("key", "value", "ok"), [
    ("fit_size_error", 0.0, True), ("fit_size_error", 0.0101, False), ("fit_size_error", -0.001, False),
    ("interval_coverage", 0.93, True), ("interval_coverage", 0.98, False), ("interval_coverage", 0.92, False),
])  # fmt: skip
def test_a_target_may_bound_from_both_sides(key: str, value: float, ok: bool) -> None:
    assert TARGETS[key].met(Row(key=key, value=value)) is ok


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    folder = tmp_path_factory.mktemp("parent")
    shape = Shape(layers=1, width=256, heads=4, kv_heads=2, inner=256, vocab=600, context=512)
    name = str(write(folder / "small.gguf", shape))  # as `--model` names it
    return Parent(name=name, folder=folder, scratch=folder, documents=8)


def test_a_mix_is_held_against_the_best_type_of_its_size(parent: Parent) -> None:
    scale = replace(QUICK, search_s=1, rivals=("q3_k_s", "q3_k_m"))
    (row,) = ratios(scale, parent, "q3_k_m").values()
    assert row.value is not None
    assert row.high is not None
    assert 0 < row.value <= row.high
    assert row.details["uniform"]["bytes"] <= row.details["limit_bytes"] >= row.details["mix"]["bytes"]
    assert row.details["uniform"]["name"] in ("q3_k_s", "q3_k_m")
    assert row.value == pytest.approx(row.details["mix"]["kl"] / row.details["uniform"]["kl"], rel=1e-3)
    assert not list(parent.scratch.glob("*k_*.gguf"))


def test_types_that_differ_from_the_peers_are_named(
    parent: Parent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer here copies its input: nothing that it makes is quantized."""
    path = tmp_path / "llama-quantize"
    path.write_text(f"#!{sys.executable}\nimport shutil, sys\nshutil.copy(*sys.argv[-4:-2])\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("LLAMA_SERVER", str(tmp_path / "llama-server"))  # beside which it is looked for
    monkeypatch.delenv("LLAMA_QUANTIZE", raising=False)
    row = identical(replace(QUICK, types=("q8_0",)), parent)["uniform_identical"]
    assert row.value == 0
    assert row.details["differing"] == ["q8_0", "q8_0 with imatrix"]


def test_ranks_are_compared_not_values() -> None:
    assert spearman([(i, 10.0**i) for i in range(5)]).value == pytest.approx(1)
    assert spearman([(i, -i) for i in range(5)]).value == pytest.approx(-1)
    found = spearman([(1, 2), (2, 1), (3, 3), (4, 5), (5, 4), (6, 6)])  # 1 - 6 * 4 / (6 * 35)
    assert found.value == pytest.approx(1 - 24 / 210)
    assert -1 < found.low < found.value < found.high < 1


def test_quantization_without_its_peers_has_rows_that_say_what_to_do(tmp_path: Path) -> None:
    keys = "interval_coverage,throughput_vs_llama_quantize,uniform_identical"
    nowhere = {"LLAMA_SERVER": "", "LLAMA_QUANTIZE": "", "FORESHORE_HOME": str(tmp_path)}
    done = run("quantization", "--quick", "--json", "--only", keys, **nowhere)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert list(result) == [*keys.split(","), "machine"]
    assert all({"value", "low", "high", "target", "ok"} <= result[key].keys() for key in keys.split(","))
    assert 0.8 < result["interval_coverage"]["value"] <= 1
    for key in keys.split(",")[1:]:
        assert not result[key]["ok"]
        assert "docs/benchmarks.md" in result[key]["error"]
    assert not list((tmp_path / "benchmarks").glob("quantization-*"))


@pytest.mark.parametrize("arguments", [("--only", "speed"), ("--only", ","), ("--model", "x", "--only", "kl_peak_mb")])
def test_a_quantization_row_that_does_not_exist_is_refused(arguments: tuple[str, ...]) -> None:
    check_refused(run("quantization", *arguments))
