"""What the cards say, measured again on a sample: quantized, through the real engine, greedy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.starters import evaluate
from foreshore.quantize import build
from foreshore.starter import NAMES
from foreshore.starter.tasks import difficulty
from foreshore.store import Store

EASY = ("sum-1", "sort-1", "extract-2", "intent-2", "json-2", "memory-2", "system-2", "tool-2")
HARD = ("sum-2", "sum-3", "subtract-2", "story-2", "count-2")
SAMPLE = 8


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Share of correct answers by starter and kind of task."""
    store = Store(tmp_path_factory.mktemp("store"))
    return {name: _shares(store.path(build(name, types=["q8_0"], store=store)[0])) for name in NAMES}


def _shares(model: Path) -> dict[str, float]:
    results = asyncio.run(evaluate(model, SAMPLE, only={*EASY, *HARD}))

    def share(kinds: Sequence[str]) -> float:
        right: int = sum(results[kind]["correct"] for kind in kinds)
        return right / (SAMPLE * len(kinds))

    return {"easy": share(EASY), "hard": share(HARD)}


def test_both_solve_the_easy_ones(shares: dict[str, dict[str, float]]) -> None:
    assert all(shares[name]["easy"] >= 0.9 for name in NAMES)


def test_the_larger_one_is_clearly_better_on_the_hard_ones(shares: dict[str, dict[str, float]]) -> None:
    assert shares["starter-l"]["hard"] >= shares["starter-s"]["hard"] + 0.25


def test_the_sample_is_what_it_is_called() -> None:
    assert {difficulty(*_kind(name)) for name in EASY} == {"easy"}
    assert {difficulty(*_kind(name)) for name in HARD} == {"hard"}


def _kind(name: str) -> tuple[str, int]:
    task, _, level = name.partition("-")
    return task, int(level)
