"""A starter's model card, written from what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreshore.starter.tasks import TASKS, difficulty, levels

__all__ = ["card"]

WAYS = {
    "starter-s": "It answers directly: small, fast, and right where no intermediate steps are needed.",
    "starter-l": "It reasons between `<think>` and `</think>` first: more tokens, and right on harder tasks.",
}


def card(folder: Path, record: Mapping[str, Any]) -> str:
    """The card of the model in `folder`: `record` is what `evaluate` measured, `training.jsonl` how it was trained."""
    name = folder.name
    config = json.loads((folder / "config.json").read_text())
    size = (folder / "model.safetensors").stat().st_size
    last = json.loads((folder / "training.jsonl").read_text().splitlines()[-1])
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    means = ", ".join(f"{kind} {share:.1%}" for kind, share in record["means"].items())
    return f"""---
license: apache-2.0
language: en
pipeline_tag: text-generation
---
# {name}

A model of {size // 2 / 1e6:.1f} million parameters ({layers} layers of {hidden}, Qwen2 architecture, context of
{config["max_position_embeddings"]} tokens) that ships with Foreshore so that a fresh clone works without a network.
{WAYS.get(name, "")} It knows the generated tasks in `foreshore/starter/tasks.py` and nothing else.

Trained from scratch with `python -m foreshore.starter.train {name}`: {last["step"]} steps, {last["seconds"] / 60:.0f}
minutes on two CPU cores; `training.jsonl` is the log. No data from elsewhere.

## Accuracy on held-out tasks

Variant {record["variant"]}, greedy, through the Foreshore engine. Prompts are held out by a hash of their text: none
occurs in training. Mean over tasks and levels: {means}.
Reproduce: `python -m benchmarks.starters {name}`.

| task | level | difficulty | correct | tokens per answer |
|---|---|---|---|---|
{_rows(record["tasks"])}
"""


def _rows(tasks: Mapping[str, Mapping[str, float]]) -> str:
    rows = []
    for task in TASKS:
        for level in levels(task):
            found = tasks[f"{task}-{level}"]
            share = f"{found['correct']} of {found['count']}"
            rows.append(f"| {task} | {level} | {difficulty(task, level)} | {share} | {found['tokens']} |")
    return "\n".join(rows)
