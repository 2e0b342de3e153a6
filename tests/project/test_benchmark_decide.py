"""The decision benchmark: every rule of its policy decides, and it measures what it says. No time is asserted."""

from __future__ import annotations

import json

import pytest

from benchmarks import decide
from benchmarks.decide import TARGETS, Bench


def test_its_ways_to_a_decision_agree_and_its_cases_differ() -> None:
    bench = Bench()
    found = [bench.decide(case) for case in bench.cases]
    assert [bench.clear(case) for case in bench.cases] == found
    assert (len(bench.policy.rules), len(bench.config.targets)) == (10, 5)
    assert {decision.rule for decision in found} == {rule.name for rule in bench.policy.rules}
    assert len({decision.targets[0] for decision in found}) == 5
    assert any(decision.explored for decision in found)
    read = bench.read(bench.cases[0])
    assert any(target.quality not in (0.0, 0.5) for target in read.estimates.values())


def test_it_prints_one_object_with_a_key_for_each_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "CASES", 16)
    monkeypatch.setattr(decide, "READINGS", 16)
    monkeypatch.setattr(decide, "DECISIONS", 64)
    decide.main(["--quick", "--json"])
    found = json.loads(capsys.readouterr().out)
    for key, target in TARGETS.items():
        assert {"value", "low", "high", "target", "ok"} <= found[key].keys()
        assert found[key]["target"] == target.bound
        assert 0 < found[key]["low"] <= found[key]["value"] <= found[key]["high"]
    assert found["p50_us"]["value"] <= found["p99_us"]["value"]
    decide.main(["--quick", "--json", "--only", "p50_us"])
    assert "p99_us" not in json.loads(capsys.readouterr().out)
