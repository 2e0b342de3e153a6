"""Measure a starter on held-out tasks through the real engine: `python -m benchmarks.starters FOLDER`.

Builds the variant asked for (F16 unless told otherwise) from a Hugging Face folder, answers every task greedily, and
writes `evaluation.json` and the model card (`README.md`) into the folder if `--write` is given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from foreshore.edge import AsyncRuntime, EngineOptions
from foreshore.quantize import build
from foreshore.quantize.accuracy import tool_call
from foreshore.starter.card import card
from foreshore.starter.tasks import HELD_OUT, TASKS, Example, correct, difficulty, example, levels
from foreshore.store import Store

__all__ = ["evaluate", "means"]

MAX_TOKENS = 400


async def evaluate(model: Path, count: int, only: Collection[str] = ()) -> dict[str, Any]:
    """`{task-level: {correct, count, tokens}}` of the GGUF file `model`: `count` held-out examples each, greedy.

    `only` names the kinds to measure; all if empty. `tokens` is the mean length of an answer, reasoning included.
    """
    results = {}
    async with AsyncRuntime(model, options=EngineOptions(slots=16, queue_limit=count)) as runtime:

        async def ask(wanted: Example) -> tuple[bool, int]:
            answer = await runtime.chat(
                list(wanted.messages), tools=list(wanted.tools), temperature=0.0, max_tokens=MAX_TOKENS
            )
            assert answer.usage is not None
            return correct(wanted, answer.text, tool_call(answer)), answer.usage.completion_tokens

        kinds = [(task, level) for task in TASKS for level in levels(task)]
        for task, level in kinds:
            if not only or f"{task}-{level}" in only:
                wanted = [example(task, level, HELD_OUT + n) for n in range(count)]
                found = await asyncio.gather(*map(ask, wanted))
                right, tokens = sum(ok for ok, _ in found), sum(n for _, n in found) / count
                results[f"{task}-{level}"] = {"correct": right, "count": count, "tokens": round(tokens, 1)}
                print(f"\r{task}-{level}: {right}/{count}".ljust(40), end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return results


def means(results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean share of correct answers by difficulty, each task and level counted alike."""
    groups: dict[str, list[float]] = {}
    for task in TASKS:
        for level in levels(task):
            found = results[f"{task}-{level}"]
            groups.setdefault(difficulty(task, level), []).append(found["correct"] / found["count"])
    return {name: sum(shares) / len(shares) for name, shares in sorted(groups.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a Hugging Face folder")
    parser.add_argument("--type", default="f16", help="the variant to measure")
    parser.add_argument("--count", type=int, default=100, help="held-out examples of each task and level")
    parser.add_argument("--write", action="store_true", help="write evaluation.json and README.md into the folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        (manifest,) = build(str(arguments.folder), types=[arguments.type], store=store)
        results = asyncio.run(evaluate(store.path(manifest), arguments.count))
    record = {"variant": arguments.type, "means": means(results), "tasks": results}
    print(json.dumps(record, indent=2))
    if arguments.write:
        (arguments.folder / "evaluation.json").write_text(json.dumps(record, indent=2) + "\n")
        (arguments.folder / "README.md").write_text(card(arguments.folder, record))


if __name__ == "__main__":
    main()
