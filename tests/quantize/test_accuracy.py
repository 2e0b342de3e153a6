"""Questions with checkable answers, asked through the runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foreshore.backend import Answer, ToolCall
from foreshore.errors import NotFound, UsageError
from foreshore.quantize.accuracy import Task, answers, change, measure_accuracy, read_tasks, starter_tasks, tasks_for
from foreshore.starter.tasks import HELD_OUT, TASKS, correct, example
from tests.tiny_model import write_decoder


def says(text: str = "", *calls: ToolCall) -> Answer:
    return Answer(text=text, finish_reason="stop", tool_calls=calls)


def write(path: Path, *lines: Any) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


@pytest.mark.parametrize(
    ("check", "wanted", "right", "wrong"),
    [
        ("exact", "Paris", [" Paris\n"], ["paris", "Paris.", ""]),
        ("contains", "Paris", ["It is Paris.", "Paris"], ["paris", ""]),
        ("number", "1,234.50", ["so 1234.5", "12 + 3 = 1,234.5."], ["1234", "none", "1234.5 or 7"]),
        ("number", "-3", ["It is -3", "-3.0"], ["3", "- 3"]),
        ("json", '{"a": [1, 2]}', ['{"a":[1,2]}', '```json\n{"a": [1, 2]}\n```'], ['{"a": [2, 1]}', "{", ""]),
        ("json", "null", ["null"], ["", "none"]),
        ("regex", r"^(yes|yep)\b", ["yes, it is", "yep"], ["oh yes", "yesterday"]),
    ],
)
def test_answers_are_checked(check: Any, wanted: str, right: list[str], wrong: list[str]) -> None:
    task = Task(prompt="?", answer=wanted, check=check)
    assert [task.right(says(text)) for text in right] == [True] * len(right)
    assert [task.right(says(text)) for text in wrong] == [False] * len(wrong)


def test_tool_calls_are_checked() -> None:
    task = Task(prompt="?", answer='{"name": "clock", "arguments": {"zone": "UTC"}}', check="call")
    assert task.right(says("", ToolCall(id="1", name="clock", arguments='{"zone":"UTC"}')))
    assert not task.right(says("", ToolCall(id="1", name="clock", arguments="{")))
    assert not task.right(says('{"name": "clock", "arguments": {"zone": "UTC"}}'))


def test_tasks_are_read_from_a_file(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]
    path = write(
        tmp_path / "tasks.jsonl",
        {"prompt": "2 + 2 =", "answer": "4", "check": "number", "segment": "sums", "stop": ["\n"], "max_tokens": 8},
        "",
        {"messages": [{"role": "user", "content": "?"}], "answer": {"a": 1}, "check": "json"},
        {"messages": [{"role": "user", "content": "?"}], "answer": {"name": "clock"}, "check": "call", "tools": tools},
    )
    first, second, third = read_tasks(path)
    assert first == Task(prompt="2 + 2 =", answer="4", check="number", segment="sums", stop=("\n",), max_tokens=8)
    assert second.right(says('{"a": 1}'))
    assert third.tools == tuple(tools)


@pytest.mark.parametrize(
    ("line", "says_what"),
    [
        ("{", "line 2: not a JSON object"),
        ("[]", "line 2: not a JSON object"),
        ({"prompt": "?"}, "has an answer"),
        ({"answer": "a"}, "either a prompt or messages"),
        ({"prompt": "?", "messages": [], "answer": "a"}, "either a prompt or messages"),
        ({"prompt": "?", "answer": "a", "chekc": "exact"}, "unknown field 'chekc'"),
        ({"prompt": "?", "answer": "a", "check": "fuzzy"}, "check is 'fuzzy'"),
        ({"prompt": "?", "answer": 4}, "answer is 4, not a string"),
        ({"prompt": 4, "answer": "a"}, "prompt is 4"),
        ({"prompt": "?", "answer": "(", "check": "regex"}, "is no regex"),
        ({"prompt": "?", "answer": "{", "check": "json"}, "is no json"),
        ({"prompt": "?", "answer": "many", "check": "number"}, "has no number"),
        ({"prompt": "?", "answer": "a", "max_tokens": 0}, "max_tokens is 0"),
        ({"messages": ["hi"], "answer": "a"}, "not a list of objects"),
        ({"prompt": "?", "answer": "a", "stop": "."}, "stop is '.', not a list of strings"),
    ],
)
def test_bad_tasks_are_refused_with_their_line(line: Any, says_what: str, tmp_path: Path) -> None:
    path = write(tmp_path / "tasks.jsonl", {"prompt": "?", "answer": "a"}, line)
    with pytest.raises(UsageError, match=says_what):
        read_tasks(path)


def test_missing_empty_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        read_tasks(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="has no tasks"):
        read_tasks(write(tmp_path / "empty.jsonl", ""))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        read_tasks(tmp_path / "binary")


def test_the_starters_bring_their_tasks() -> None:
    tasks = starter_tasks(5)
    assert len(tasks) == 5 * len(TASKS) == len({str(task.messages) for task in tasks}), "all different"
    assert {task.segment for task in tasks} == set(TASKS)
    every = starter_tasks()
    assert len(every) == 100 * len({task.segment for task in every})
    assert {task.segment for task in every} == set(TASKS) - {"greeting"}, "there are not a hundred ways to greet"
    assert tasks_for("starter-s") == every
    assert tasks_for("mistral") is None
    for task in TASKS:
        wanted = example(task, 1, HELD_OUT)
        ours = next(t for t in tasks if t.messages == wanted.messages)
        calls: tuple[ToolCall, ...] = ()
        if wanted.call is not None:
            arguments = json.dumps(wanted.call["arguments"])
            calls = (ToolCall(id="1", name=wanted.call["name"], arguments=arguments),)
        assert ours.right(says(wanted.answer, *calls))
        assert ours.right(says("no")) == correct(wanted, "no")


def test_a_change_is_paired() -> None:
    before = [True] * 80 + [False] * 20
    same = change(before, before)
    assert (same.value, same.low < 0 < same.high) == (0.0, True)
    lost = [i >= 10 and right for i, right in enumerate(before)]
    found = change(lost, before)
    assert found.value == pytest.approx(-0.1)
    assert found.high < 0, "ten lost and none won is more than chance"
    mixed = change([not right if i % 10 < 3 else right for i, right in enumerate(before)], before)
    assert mixed.high - mixed.low > found.high - found.low
    # Newcombe's own example: both right 36 times, one alone 12 times, the other alone twice.
    published = change([True] * 48 + [False] * 2, [True] * 36 + [False] * 12 + [True] * 2)
    assert (published.low, published.value, published.high) == pytest.approx((0.0569, 0.2, 0.3404), abs=1e-4)


def test_models_are_asked_and_compared(tiny: Path, tmp_path: Path) -> None:
    tasks = read_tasks(
        write(
            tmp_path / "tasks.jsonl",
            *({"prompt": f"hello {i}", "answer": ".", "check": "regex", "segment": "any"} for i in range(5)),
            *({"prompt": f"hello {i}", "answer": "@@", "check": "exact", "max_tokens": 4} for i in range(3)),
            {"messages": [{"role": "user", "content": "hi"}], "answer": "", "check": "contains", "max_tokens": 4},
        )
    )
    seen: list[tuple[int, int]] = []
    right = answers(tiny, tasks, threads=2, progress=lambda done, total: seen.append((done, total)))
    assert right[:5] == (True,) * 5
    assert right[5:] == (False, False, False, True)
    assert seen == [(n, 9) for n in range(1, 10)]
    found = measure_accuracy(tiny, tasks, parent=[False] * 9, threads=2)
    assert {name: (s.correct, s.count, s.parent_correct) for name, s in found.segments.items()} == {
        "any": (5, 5, 0),
        "all": (1, 4, 0),
    }
    gained = found.segments["any"].change
    assert gained is not None
    assert gained.value == 1.0
    other = write_decoder(tmp_path / "other.gguf", seed=3)
    assert measure_accuracy(tiny, tasks[5:], parent=other, threads=2).segments["all"].parent_correct == 1
    assert measure_accuracy(tiny, tasks[:1], threads=2).segments["any"].change is None


def test_a_task_that_cannot_be_asked_is_named(tmp_path: Path) -> None:
    bare = write_decoder(tmp_path / "bare.gguf", template=None, context=256)
    fits = Task(prompt="hello", answer="a", max_tokens=4)
    with pytest.raises(UsageError, match="task 2 cannot be asked"):
        answers(bare, [fits, Task(prompt="hello " * 300, answer="a")], threads=2)
    with pytest.raises(UsageError, match="task 1 cannot be asked"):
        answers(bare, [Task(messages=({"role": "user", "content": "hi"},), answer="a")], threads=2)
