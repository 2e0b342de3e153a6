"""The tasks are deterministic, checkable, and split so that nothing held out was ever trained on."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.starter.tasks import (
    HELD_OUT,
    TASKS,
    add_steps,
    compare_steps,
    correct,
    difficulty,
    example,
    insertion_steps,
    levels,
    subtract_steps,
)

KINDS = [(task, level) for task in TASKS for level in levels(task)]


@pytest.mark.parametrize(("task", "level"), KINDS)
def test_an_example_is_deterministic_and_its_own_answer_is_correct(task: str, level: int) -> None:
    for seed in (0, 7, HELD_OUT, HELD_OUT + 7):
        found = example(task, level, seed)
        assert found == example(task, level, seed)
        assert correct(found, found.answer, found.call)
        assert not correct(found, found.answer + " and more", {"name": "other", "arguments": {}})
        assert found.messages[-1]["role"] in ("user", "tool")


@pytest.mark.parametrize(("task", "level"), KINDS)
def test_no_held_out_prompt_occurs_in_training(task: str, level: int) -> None:
    def prompts(first: int) -> set[str]:
        drawn = (example(task, level, first + n) for n in range(300))
        return {json.dumps([e.messages, e.tools], sort_keys=True) for e in drawn}

    assert not prompts(0) & prompts(HELD_OUT)


def test_there_are_easy_and_hard_levels() -> None:
    kinds = {difficulty(task, level) for task, level in KINDS}
    assert kinds == {"easy", "medium", "hard"}


@given(st.integers(0, 99_999), st.integers(0, 99_999))
def test_the_worked_steps_are_right(a: int, b: int) -> None:
    high, low = max(a, b), min(a, b)
    assert add_steps(a, b).endswith(f"so {a + b}")
    assert subtract_steps(high, low).endswith(f"so {high - low}")
    for x, y, carry, total in re.findall(r"(\d)\+(\d)\+(\d)=(\d+)", add_steps(a, b)):
        assert int(x) + int(y) + int(carry) == int(total)


@given(st.lists(st.integers(1, 99), min_size=1, max_size=8, unique=True))
def test_insertion_takes_one_number_at_a_time(numbers: list[int]) -> None:
    steps = [list(map(int, step.split())) for step in insertion_steps(numbers).split(";")]
    assert steps[-1] == sorted(numbers)
    for before, after in itertools.pairwise(steps):
        assert len(after) == len(before) + 1
        assert set(before) < set(after)


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_comparing_ends_with_the_right_sign(a: int, b: int) -> None:
    sign = "=" if a == b else "<" if a < b else ">"
    assert compare_steps(a, b).endswith(f"so {a}{sign}{b}")
