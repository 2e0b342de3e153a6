"""How many questions a model answers rightly, by segment, and how that changed against its parent.

Questions and how to check the answers come from a JSONL file, or for the starters from the tasks they were trained
for. They are asked greedily through the runtime, so that what is measured is what is served. A share has Wilson's
interval; a change has Newcombe's for paired proportions ("Improved Confidence Intervals for the Difference Between
Binomial Proportions Based on Paired Data", 1998, method 10).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from foreshore.backend import Answer
from foreshore.card import Accuracy, Interval, Segment
from foreshore.edge import AsyncRuntime, EngineOptions
from foreshore.errors import BadRequest, NotFound, UsageError
from foreshore.quality.token_features import features
from foreshore.starter import NAMES
from foreshore.starter.tasks import HELD_OUT, TASKS, Example, example, levels
from foreshore.wilson import wilson

__all__ = [
    "Answered",
    "Check",
    "Task",
    "accuracy",
    "answered",
    "answers",
    "change",
    "measure_accuracy",
    "read_tasks",
    "starter_task",
    "starter_tasks",
    "tasks_sha256",
    "tool_call",
]

Check = Literal["exact", "contains", "number", "json", "regex", "call"]
MAX_TOKENS = 400
BARREN = 200  # questions in a row that were there before: there are no others
ALTERNATIVES = 5  # at each token, of which its entropy is taken
ENDLESS = 1 << 62  # tokens
SILENCE_S = 60.0  # of a worker that is still taken to be alive
AT_ONCE = 32  # questions before the runtime; it runs half of them side by side
_NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A question, as `messages` or as the `prompt` of a plain completion, and its `answer`.

    `check` says what is right: "exact" the same text, "contains" the answer somewhere in it, "number" a last number of
    the same value, "json" the same value (bare or in a code fence), "regex" a match of the pattern `answer`, "call" a
    tool call {"name", "arguments"} equal to the JSON in `answer`. Space around text and answer does not count.
    """

    answer: str
    check: Check = "exact"
    segment: str = "all"
    prompt: str | None = None
    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    stop: tuple[str, ...] = ()
    max_tokens: int = MAX_TOKENS

    def right(self, answer: Answer) -> bool:
        return _CHECKS[self.check](self.answer, answer)


def read_tasks(path: str | Path) -> tuple[Task, ...]:
    """The tasks of a JSONL file, whose lines have the fields of `Task`; "json" and "call" take any JSON as `answer`.

    Raises `NotFound`, or `UsageError` with the line where one is at fault.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"no such file of tasks: {str(path)!r}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the tasks {str(path)!r} cannot be read: {error}") from error
    found = tuple(_parse(line, f"{str(path)!r}, line {n}") for n, line in enumerate(lines, 1) if line.strip())
    if not found:
        raise UsageError(f"{str(path)!r} has no tasks", hint='a line is {"prompt": ..., "answer": ..., "check": ...}')
    return found


def starter_tasks(count: int = 100) -> tuple[Task, ...]:
    """`count` held-out questions of each kind of task that the starters know, all different, of its levels in turn; a
    segment is a kind. Left out is one that has not so many: its interval would be too wide for any gate."""
    segments = (tuple(islice(_questions(task), count)) for task in TASKS)
    return tuple(question for segment in segments if len(segment) == count for question in segment)


def _questions(task: str) -> Iterator[Task]:
    """The different ones; it ends where new seeds bring none any more."""
    seen: set[str] = set()
    barren = 0
    for seed in count_from(HELD_OUT):
        for level in levels(task):
            found = example(task, level, seed)
            barren = 0 if str(found.messages) not in seen else barren + 1
            if not barren:
                seen.add(str(found.messages))
                yield starter_task(found)
        if barren >= BARREN:
            return


def tasks_for(name: str) -> tuple[Task, ...] | None:
    """The tasks that come with the model `name`: a bundled starter's; others have none."""
    return starter_tasks() if name in NAMES else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """`features` are those of the answer's log-probabilities; `None` where there were none, or none were asked for."""

    right: bool
    text: str  # or the tool call, in JSON
    features: NDArray[np.float64] | None = None


def answered(
    model: Path,
    tasks: Sequence[Task],
    *,
    logprobs: bool = True,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Answered, ...]:
    """What the model answers to each of `tasks`. Raises `UsageError` for one that it cannot be asked."""
    return asyncio.run(_answers(model, tasks, ALTERNATIVES if logprobs else None, threads, progress))


def answers(
    model: Path,
    tasks: Sequence[Task],
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[bool, ...]:
    """Which of `tasks` the model answers rightly. Raises `UsageError` for one that it cannot be asked."""
    return tuple(a.right for a in answered(model, tasks, logprobs=False, threads=threads, progress=progress))


def measure_accuracy(
    model: Path,
    tasks: Sequence[Task],
    *,
    parent: Path | Sequence[bool] | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Accuracy:
    """`parent` is the model to compare with, or what `answers` said of it on the same tasks."""
    if isinstance(parent, Path):
        parent = answers(parent, tasks, threads=threads)
    return accuracy(tasks, answers(model, tasks, threads=threads, progress=progress), parent)


def accuracy(tasks: Sequence[Task], right: Sequence[bool], parent: Sequence[bool] | None = None) -> Accuracy:
    """By segment, of `tasks` that were answered rightly or not, by the model and by its parent."""
    if parent is not None and len(parent) != len(tasks):
        raise ValueError(f"{len(parent)} answers of the parent to {len(tasks)} tasks")
    segments: dict[str, list[int]] = {}
    for i, task in enumerate(tasks):
        segments.setdefault(task.segment, []).append(i)
    return Accuracy(
        tasks_sha256=tasks_sha256(tasks),
        segments={
            name: _segment([right[i] for i in own], None if parent is None else [parent[i] for i in own])
            for name, own in segments.items()
        },
    )


def change(right: Sequence[bool], before: Sequence[bool]) -> Interval:
    """The share of right answers less the share of those `before`, to the same questions."""
    count, now, then = len(right), sum(right), sum(before)
    both = sum(a and b for a, b in zip(right, before, strict=True))
    neither = count - now - then + both
    share, share_before = now / count, then / count
    low, high = wilson(now, count)
    low_before, high_before = wilson(then, count)
    agreement = _agreement(both, neither, now, then, count)
    value = share - share_before
    return Interval(
        value=value,
        low=value - _hypotenuse(share - low, high_before - share_before, agreement),
        high=value + _hypotenuse(high - share, share_before - low_before, agreement),
    )


def tool_call(answer: Answer) -> dict[str, Any] | None:
    """The first tool call of `answer`, as {"name", "arguments"}."""
    if not answer.tool_calls:
        return None
    call = answer.tool_calls[0]
    return {"name": call.name, "arguments": _json(call.arguments, call.arguments)}


async def _answers(
    model: Path,
    tasks: Sequence[Task],
    logprobs: int | None,
    threads: int | None,
    progress: Callable[[int, int], None],
) -> tuple[Answered, ...]:
    gate, done = asyncio.Semaphore(AT_ONCE), 0
    async with AsyncRuntime(model, options=_patient(threads)) as runtime:

        async def ask(number: int, task: Task) -> Answered:
            nonlocal done
            async with gate:
                try:
                    answer = await _ask(runtime, task, logprobs)
                except BadRequest as error:
                    raise UsageError(f"task {number} cannot be asked: {error.message}", hint=error.hint) from error
            progress(done := done + 1, len(tasks))
            return _answered(task, answer)

        try:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(ask(n, task)) for n, task in enumerate(tasks, 1)]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
    return tuple(task.result() for task in asked)


def _patient(threads: int | None) -> EngineOptions:
    """Nobody waits for the answers of a measurement: on a machine that is busy they take as long as they take."""
    return EngineOptions(
        slots=AT_ONCE // 2,
        threads=threads,
        queue_limit=AT_ONCE,
        queue_tokens=ENDLESS,
        queue_wait_s=math.inf,
        heartbeat_s=SILENCE_S,
    )


def _answered(task: Task, answer: Answer) -> Answered:
    call = tool_call(answer)
    return Answered(
        right=task.right(answer),
        text=answer.text if call is None else json.dumps(call, ensure_ascii=False),
        features=features(answer.logprobs) if answer.logprobs else None,
    )


async def _ask(runtime: AsyncRuntime, task: Task, logprobs: int | None) -> Answer:
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": task.max_tokens, "logprobs": logprobs}
    if task.stop:
        options["stop"] = task.stop
    if task.prompt is not None:
        return await runtime.complete(task.prompt, **options)
    return await runtime.chat(list(task.messages), tools=list(task.tools), **options)


def _segment(right: Sequence[bool], before: Sequence[bool] | None) -> Segment:
    count, correct = len(right), sum(right)
    low, high = wilson(correct, count)
    return Segment(
        count=count,
        correct=correct,
        share=Interval(value=correct / count, low=low, high=high),
        parent_correct=None if before is None else sum(before),
        change=None if before is None else change(right, before),
    )


def _agreement(both: int, neither: int, now: int, then: int, count: int) -> float:
    """The correlation of the two models' answers, in Newcombe's cautious form."""
    product = now * (count - now) * then * (count - then)
    if not product:
        return 0.0
    excess = both * neither - (now - both) * (then - both)
    if excess > 0:
        excess = max(0, excess - count // 2)
    return excess / math.sqrt(product)


def _hypotenuse(one: float, other: float, agreement: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * agreement * one * other + other * other))


def tasks_sha256(tasks: Iterable[Task]) -> str:
    return hashlib.sha256(json.dumps([asdict(t) for t in tasks], sort_keys=True).encode()).hexdigest()


# --- reading tasks ----------------------------------------------------------------------------------------------


def starter_task(found: Example) -> Task:
    """An example that the starters learnt from or are measured on, as a task."""
    check: Check = "call" if found.call is not None else "json" if found.task == "json" else "exact"
    answer = found.answer if found.call is None else json.dumps(dict(found.call))
    return Task(answer=answer, check=check, segment=found.task, messages=found.messages, tools=found.tools)


def _parse(line: str, where: str) -> Task:
    value = _json(line, None)
    if not isinstance(value, dict):
        raise UsageError(f"{where}: not a JSON object")
    if unknown := sorted(set(value) - {f.name for f in fields(Task)}):
        raise UsageError(f"{where}: unknown field {unknown[0]!r}")
    check = value.setdefault("check", "exact")
    if check not in get_args(Check):
        raise UsageError(f"{where}: check is {check!r}", hint="one of " + ", ".join(get_args(Check)))
    if check in ("json", "call") and not isinstance(value.get("answer"), str):
        value["answer"] = json.dumps(value.get("answer"))
    for name in ("answer", "segment", "prompt"):
        if not isinstance(value.get(name, ""), str):
            raise UsageError(f"{where}: {name} is {value[name]!r}, not a string")
    for name, kind, what in (("messages", dict, "objects"), ("tools", dict, "objects"), ("stop", str, "strings")):
        items = value.get(name, [])
        if not (isinstance(items, list) and all(isinstance(item, kind) for item in items)):
            raise UsageError(f"{where}: {name} is {items!r}, not a list of {what}")
    if ("prompt" in value) == ("messages" in value) or "answer" not in value:
        raise UsageError(f"{where}: a task has an answer, and either a prompt or messages")
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    return _checked(Task(**options), where)


def _checked(task: Task, where: str) -> Task:
    """`task`, if its answer is what its check can use."""
    if type(task.max_tokens) is not int or task.max_tokens < 1:
        raise UsageError(f"{where}: max_tokens is {task.max_tokens!r}; it must be a whole number from 1")
    try:
        if task.check == "regex":
            re.compile(task.answer)
        elif task.check in ("json", "call"):
            json.loads(task.answer)
    except (re.error, ValueError) as error:
        raise UsageError(f"{where}: the answer {task.answer!r} is no {task.check}: {error}") from error
    if task.check == "number" and _number(task.answer) is None:
        raise UsageError(f"{where}: the answer {task.answer!r} has no number")
    return task


# --- checking answers -------------------------------------------------------------------------------------------


def _json(text: str, otherwise: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


def _number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def _same_json(wanted: str, answer: Answer) -> bool:
    fenced = _FENCE.search(answer.text)
    nothing = object()
    return bool(_json(fenced[1] if fenced else answer.text, nothing) == json.loads(wanted))


_CHECKS: Mapping[Check, Callable[[str, Answer], bool]] = {
    "exact": lambda wanted, answer: answer.text.strip() == wanted.strip(),
    "contains": lambda wanted, answer: wanted.strip() in answer.text,
    "number": lambda wanted, answer: _number(answer.text) == _number(wanted),
    "json": _same_json,
    "regex": lambda wanted, answer: re.search(wanted, answer.text) is not None,
    "call": lambda wanted, answer: tool_call(answer) == json.loads(wanted),
}
