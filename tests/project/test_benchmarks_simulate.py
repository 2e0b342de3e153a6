"""The routing simulation's benchmark: what it compares with, and how. No figure is held that a policy may change."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import typer

from benchmarks.simulate import TARGETS, main
from benchmarks.simulate_outcome import Outcome, at_cost, difference
from benchmarks.simulate_rules import Fixed, LeastLatency
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.simulate.job import Job

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "simulate" / "trace.csv"


def outcome(name: str, cost: float, *met: float) -> Outcome:
    return Outcome(name=name, met=np.array(met), cost=cost, row={"policy": name, "dollars": cost})


def look() -> Mapping[str, TargetFacts]:
    raise AssertionError("a rule that does not look looked")


def job(number: int, **more: object) -> Job:
    return Job(**{"number": number, "at": 0.0, "prompt_tokens": 1, "output_tokens": 1, **more})  # type: ignore[arg-type]


def test_the_best_at_equal_cost_may_be_two_in_turns() -> None:
    cheap, dear = outcome("cheap", 1.0, 0, 0, 1, 0), outcome("dear", 3.0, 1, 1, 1, 0)
    poor = outcome("poor", 1.5, 0, 0, 0, 0)
    found = at_cost([poor, dear, cheap], 2.0, "best")
    assert (found.attainment, found.cost) == (0.5, 2.0)
    assert found.met.tolist() == [0.5, 0.5, 1.0, 0.0]
    assert found.row == {"policy": "best: 50% of the time cheap, else dear", "dollars": 2.0}
    assert at_cost([poor, dear, cheap], 1.0, "best").row["policy"] == "best: cheap"
    assert at_cost([poor, dear, cheap], 9.0, "best").attainment == 0.75
    with pytest.raises(ValueError, match=r"no best costs at most 0\.5 dollars"):
        at_cost([poor, dear, cheap], 0.5, "best")


def test_a_difference_has_an_interval_over_blocks_of_time() -> None:
    at = np.arange(480.0).tolist()
    ours, other = np.ones(480), np.tile([1.0, 1.0, 0.0, 1.0], 120)
    value, low, high = difference(outcome("a", 1, *ours), outcome("b", 1, *other), at)
    assert value == 0.25
    assert 0.2 <= low <= value <= high <= 0.3
    assert difference(outcome("a", 1, *ours), outcome("a", 1, *ours), at) == (0.0, 0.0, 0.0)


def test_a_fixed_rule_goes_by_length_and_share_alone() -> None:
    rule = Fixed(least=100, most=1000, share=0.5)
    chosen = [rule.choose(job(i), RequestFacts(prompt_tokens=500), look).targets[0] for i in range(1000)]
    assert 450 < chosen.count("edge") < 550
    assert rule.choose(job(0), RequestFacts(prompt_tokens=1000), look).targets == ("cloud", "edge")
    assert Fixed(here=("edge",)).choose(job(0), RequestFacts(), look).targets == ("edge",)


def test_least_latency_goes_by_the_mean_of_the_last_answers() -> None:
    rule = LeastLatency(whole=False, penalty=True)

    def first(at: float) -> str:
        return rule.choose(job(0, at=at), RequestFacts(), look).targets[0]

    def answered(target: str, seconds: float, at: float) -> None:
        rule.spent(job(0, target=target, asked_at=at - seconds, first_at=at, ended_at=at, state="complete"))

    assert first(0) == "edge"
    answered("edge", 2.0, 10)
    assert first(10) == "cloud"  # of which nothing is known
    answered("cloud", 3.0, 10)
    assert first(10) == "edge"
    rule.spent(job(0, target="edge", ended_at=20.0, state="deadline"))
    assert first(20) == "cloud"
    assert first(20 + 3601) == "edge"  # forgotten


def test_it_prints_one_object_with_a_row_for_each_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.csv"
    few.write_text("".join(EXAMPLE.read_text().splitlines(keepends=True)[:61]))
    main(["--data", str(few), "--quick", "--json"])
    found = json.loads(capsys.readouterr().out)
    for key in TARGETS:
        row = found[key]
        assert row["low"] <= row["value"] <= row["high"]
        assert row["ok"] == (row["value"] >= row["target"])
    details = found["attainment"]["details"]
    (rows,) = details["rows"].values()
    ours = rows[0]
    assert len(rows) == 8
    assert all(set(row) == set(ours) for row in rows)
    assert rows[1]["dollars"] <= ours["dollars"]
    assert details["assumed"]["speeds"]["edge"]["prefill_tokens_per_s"] == 305
    assert details["requests"] == 60


def test_a_folder_without_traces_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left:
        main(["--data", str(tmp_path)])
    assert left.value.exit_code == 2
    assert "there is no trace" in capsys.readouterr().err
