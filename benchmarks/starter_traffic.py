"""Questions for the starters, and both of them served: one on the edge, one behind HTTP as the cloud."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from foreshore.backend import Answer, ToolCall
from foreshore.cli.gateway_process import GatewayProcess
from foreshore.errors import UpstreamError
from foreshore.quantize.accuracy import Task, starter_task
from foreshore.reliability.ledger import read_events
from foreshore.starter.tasks import HELD_OUT, TASKS, Difficulty, difficulty, example, levels

__all__ = ["EDGE", "Gateway", "Item", "Said", "cloud", "gateway", "items"]

KEY = "FORESHORE_BENCHMARK_KEY"
EDGE, CLOUD = "starter-s:q4_k_m", "starter-l:q8_0"
AT_ONCE = 8
PATIENCE_S = 600.0
APART = 1 << 20  # between the seeds of two splits
BARREN = 40  # seeds in a row whose prompts are taken: there are no others


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    task: Task
    kind: str
    level: int
    difficulty: Difficulty


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What came of one question. `asked` are the targets, in order; `confidence` that in the first one's answer."""

    right: bool
    target: str
    asked: tuple[str, ...]
    confidence: float | None
    tokens: int


def items(per_level: int, split: int, taken: set[str]) -> list[Item]:
    """`per_level` held-out questions of every kind and level, from seeds of that `split` alone; fewer of a kind that
    has not so many. None whose prompt is in `taken`, to which these are added."""
    found = []
    for kind in TASKS:
        for level in levels(kind):
            made, barren, seed = 0, 0, HELD_OUT + split * APART
            while made < per_level and barren < BARREN:
                one = example(kind, level, seed)
                seed, text = seed + 1, json.dumps([one.messages, one.tools], sort_keys=True)
                barren = barren + 1 if text in taken else 0
                if not barren:
                    taken.add(text)
                    made += 1
                    found.append(
                        Item(task=starter_task(one), kind=kind, level=level, difficulty=difficulty(kind, level))
                    )
    return found


@contextmanager
def cloud(folder: Path) -> Iterator[str]:
    """The address of a process of its own that serves the large starter."""
    path = folder / "cloud.yaml"
    path.write_text(f"""
listen: {{host: 127.0.0.1, port: 0}}
tenants: [{{name: bench, key_env: {KEY}}}]
targets: {{cloud: {{kind: local, model: "{CLOUD}"}}}}
ledger: {{path: "{folder}/cloud.sqlite"}}
""")
    os.environ[KEY] = secrets.token_urlsafe(16)
    with GatewayProcess("cloud", path, folder / "cloud.log", {}) as process:
        yield process.url


@contextmanager
def gateway(folder: Path, cloud_url: str, rules: str) -> Iterator[Gateway]:
    """A gateway over both, in a process of its own."""
    name = tempfile.mkdtemp(dir=folder)
    path, ledger = Path(name, "edge.yaml"), Path(name, "ledger.sqlite")
    path.write_text(f"""
listen: {{host: 127.0.0.1, port: 0}}
privacy: {{detectors: []}}  # some questions are about addresses; here each goes where the rule says
targets:
  edge: {{kind: local, model: "{EDGE}"}}
  cloud: {{kind: openai, model: cloud, base_url: "{cloud_url}/v1", key_env: {KEY}}}
{rules}
ledger: {{path: "{ledger}"}}
""")
    with GatewayProcess("edge", path, Path(name, "edge.log"), {}) as process:
        yield Gateway(process.url, ledger)


class Gateway:
    def __init__(self, url: str, ledger: Path) -> None:
        self._url, self._ledger = url, ledger

    def ask(self, items: Sequence[Item], model: str, progress: Callable[[], None]) -> list[Said]:
        """Every question, greedily, of the target `model` or of whom the rules choose."""
        answers = asyncio.run(self._all(items, model, progress))
        events = {event["decision_id"]: event for event in self._events([decision for decision, _ in answers])}
        return [_said(item, answer, events[decision]) for item, (decision, answer) in zip(items, answers, strict=True)]

    async def _all(self, items: Sequence[Item], model: str, progress: Callable[[], None]) -> list[tuple[str, Answer]]:
        gate = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=PATIENCE_S) as client:

            async def one(item: Item) -> tuple[str, Answer]:
                async with gate:
                    body = {"model": model, "messages": list(item.task.messages), "temperature": 0}
                    body |= {"max_tokens": item.task.max_tokens}
                    body |= {"tools": list(item.task.tools)} if item.task.tools else {}
                    response = await client.post("/v1/chat/completions", json=body)
                    progress()
                    if response.status_code != httpx.codes.OK:
                        raise UpstreamError(f"the gateway said {response.status_code}: {response.text[:300]}")
                    return response.headers["x-foreshore-decision"], _answer(response.json()["choices"][0]["message"])

            return list(await asyncio.gather(*map(one, items)))

    def _events(self, wanted: Sequence[str]) -> list[dict[str, Any]]:
        """The ledger's, once it has them all: it writes behind."""
        for _ in range(200):
            found = [event for event in read_events(self._ledger) if event["decision_id"] in set(wanted)]
            if len(found) == len(wanted):
                return found
            asyncio.run(asyncio.sleep(0.1))
        raise UpstreamError(f"the ledger {str(self._ledger)!r} lacks decisions that were made")


def _answer(message: dict[str, Any]) -> Answer:
    calls = tuple(
        ToolCall(id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    )
    return Answer(text=message.get("content") or "", finish_reason="stop", tool_calls=calls)


def _said(item: Item, answer: Answer, event: dict[str, Any]) -> Said:
    attempts = event["attempts"]
    return Said(
        right=item.task.right(answer),
        target=event["target"],
        asked=tuple(attempt["target"] for attempt in attempts),
        confidence=attempts[0].get("confidence"),
        tokens=sum(attempt.get("completion_tokens", 0) for attempt in attempts),
    )
