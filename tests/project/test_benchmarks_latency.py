"""The latency benchmark's arithmetic and its load; what it measures live is for the command."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from benchmarks.latency import TARGETS, rows
from benchmarks.latency_baselines import BASELINES, foretold
from benchmarks.latency_live import Sample
from benchmarks.latency_traffic import PHASES, Piece, play
from benchmarks.latency_traffic import TARGETS as LOAD
from foreshore.router.latency.forecast import Work
from tests.project.benchmark_command import check_refused, run

ANSWER = Sample(
    phase="alone", target="edge", tenant="desk", sent=0.0, ended=1.0, ttft_s=0.1, total_s=1.0, ttft=(0.05, 0.11, 0.2),
    total=(0.5, 1.2, 2.0), work=Work(prompt_tokens=100), tokens=10,
)  # fmt: skip


def answers(count: int, **changes: object) -> list[Sample]:
    """One after the other, two seconds apart."""
    return [replace(ANSWER, sent=2.0 * i, ended=2.0 * i + 1, **changes) for i in range(count)]  # type: ignore[arg-type]


def test_errors_are_of_the_median_and_coverage_is_the_worse_of_two() -> None:
    late = answers(5, total_s=9.0)
    found = rows([answers(10) + answers(20) + late], warm_up=10)
    assert found["ttft_mape"].value == pytest.approx(0.1)
    assert found["ttft_mape"].details["answers"] == 25
    coverage = found["coverage_80"]
    assert coverage.details["ttft"] == 1.0
    assert coverage.details["total"] == coverage.details["ttft"] - 0.2 == 0.8
    assert (coverage.details["of"], coverage.value) == ("ttft", 1.0)
    assert not TARGETS["coverage_80"].met(coverage)  # intervals that are too wide are no better


def test_the_rows_say_what_they_are_of() -> None:
    found = rows([answers(3) + answers(3, target="cloud", phase="bursts", tenant="guide")], warm_up=0)
    details = found["ttft_mape"].details
    assert set(details["targets"]) == {"edge", "cloud"}
    assert set(details["phases"]) == {"alone", "bursts"}
    assert set(details["baselines"]) == set(BASELINES)
    assert details["targets"]["edge"]["ttft_ms_p50"] == 100.0


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_knows_only_what_had_ended(name: str) -> None:
    """Of the same request again, each learns its time; before the first has ended it knows nothing."""
    first, during, then = (replace(ANSWER, sent=sent, ended=sent + 1) for sent in (0.0, 0.5, 2.0))
    other = replace(ANSWER, sent=3.0, ended=4.0, target="cloud")
    said = [seconds for _, seconds in foretold([first, during, then, other], BASELINES[name])]
    assert said[0] == said[1] == said[3]
    assert said[2] == pytest.approx(ANSWER.ttft_s)
    assert said[0] != pytest.approx(ANSWER.ttft_s)


def test_the_load_is_mixed_and_the_same_for_the_same_seed() -> None:
    def sent(seed: int) -> list[Piece]:
        found: list[Piece] = []

        async def send(piece: Piece) -> float:
            found.append(piece)
            return 1e-6

        asyncio.run(play(send, seed=seed, rounds=6))
        return found

    def content(found: list[Piece]) -> list[object]:
        return [(piece.phase, piece.target, piece.request.messages) for piece in found]

    one = sent(7)
    assert content(one) == content(sent(7)) != content(sent(8))
    assert {piece.phase for piece in one} == set(PHASES)
    lengths = [sum(len(m["content"] or "") for m in piece.request.messages) for piece in one]
    assert min(lengths) < 60
    assert 1000 < max(lengths) < 3000
    assert {piece.target for piece in one} == set(LOAD)
    assert len({piece.tenant for piece in one}) == 3


def test_a_row_that_does_not_exist_is_refused() -> None:
    check_refused(run("latency", "--only", "speed"))
