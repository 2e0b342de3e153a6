"""What the demo asks, and how it sends one request to the gateway and measures the answer."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from foreshore.starter.tasks import HELD_OUT, Example, correct, example

__all__ = ["Ask", "Row", "asks", "send", "tokens_per_s"]

EASY = (
    *("greeting-1", "intent-1", "intent-2", "sentiment-1", "sentiment-2", "json-1", "json-2", "reverse-1"),
    *("uppercase-2", "question-1", "sort-1", "sum-1", "compare-1", "memory-2", "system-1", "tool-1", "tool-3"),
)
HARD = ("sum-2", "sum-3", "sum-4", "subtract-2", "subtract-3", "story-2", "sort-3", "sort-4", "count-2")
PRIVATE = ("extract-1", "extract-1", "extract-2")
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request of the demo. `private` says that it must stay on this machine, whatever makes it so."""

    example: Example
    model: str = "auto"
    headers: Mapping[str, str] = field(default_factory=dict)
    private: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What happened to one request. TTFT as the client saw it over HTTP; decode time as the gateway measured it."""

    task: str
    private: bool
    status: int
    target: str = ""
    rule: str = ""
    answer: str = ""
    correct: bool = False
    tokens: int = 0
    ttft_ms: float = 0.0
    decode_ms: float = 0.0  # first token to last
    error: str = ""

    @property
    def tokens_per_s(self) -> float | None:
        return tokens_per_s([self])


def tokens_per_s(rows: Sequence[Row]) -> float | None:
    """Decoded tokens per second over `rows`, each answer's first token left out; None where there were no others."""
    spent = sum(row.decode_ms for row in rows if row.tokens > 1)
    return sum(row.tokens - 1 for row in rows if row.tokens > 1) * 1e3 / spent if spent else None


def asks() -> Iterator[Ask]:
    """Easy ones, hard ones, private ones, and two that no target may answer. All held out from training."""
    label = {"x-foreshore-privacy": "private"}
    for n, name in enumerate((*EASY, *HARD)):
        yield Ask(example=_example(name, n))
    for n, name in enumerate(PRIVATE):  # an e-mail address in the text makes these private
        yield Ask(example=_example(name, n), private=True)
    for name in ("sum-3", "sentiment-1"):  # a header makes these private, though a rule would send the first away
        yield Ask(example=_example(name, 99), headers=label, private=True)
    for name in ("extract-1", "sum-2"):  # private, and asking for the cloud: refused
        yield Ask(example=_example(name, 98), model="cloud", headers=label, private=True)


def _example(name: str, n: int) -> Example:
    task, _, level = name.rpartition("-")
    return example(task, int(level), HELD_OUT + n)


def send(client: httpx.Client, ask: Ask) -> Row:
    """Send `ask` as a streamed chat completion, and measure. A gateway that fails makes a row with an `error`."""
    try:
        return _send(client, ask)
    except (httpx.TransportError, ValueError, KeyError) as error:  # it died, or what it sent is not OpenAI's shape
        text = f"the gateway gave no whole answer: {error!r}"
        return Row(task=ask.example.name, private=ask.private, status=httpx.codes.BAD_GATEWAY, error=text)


def _send(client: httpx.Client, ask: Ask) -> Row:
    body: dict[str, Any] = {
        "model": ask.model,
        "messages": ask.example.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }
    if ask.example.tools:
        body["tools"] = ask.example.tools
    sent = time.monotonic()
    with client.stream(
        "POST", "/v1/chat/completions", json=body, headers=dict(ask.headers), timeout=TIMEOUT_S
    ) as response:
        row = Row(
            task=ask.example.name,
            private=ask.private,
            status=response.status_code,
            target=response.headers.get("x-foreshore-target", ""),
            rule=response.headers.get("x-foreshore-rule", ""),
        )
        if response.status_code != httpx.codes.OK:
            response.read()
            return replace(row, error=response.json()["error"]["message"])
        return _read(row, ask.example, response.iter_lines(), sent)


def _read(row: Row, wanted: Example, lines: Iterator[str], sent: float) -> Row:
    text, name, arguments = "", "", ""
    ttft = 0.0
    last: dict[str, Any] = {}
    for line in lines:
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            return replace(row, error=event["error"]["message"])
        last |= {key: event[key] for key in ("usage", "timings") if event.get(key)}
        delta = event["choices"][0]["delta"] if event["choices"] else {}
        call = (delta.get("tool_calls") or [{}])[0].get("function", {})
        text += delta.get("content") or ""
        name += call.get("name") or ""
        arguments += call.get("arguments") or ""
        if delta.get("content") or delta.get("reasoning_content") or call:
            ttft = ttft or time.monotonic() - sent
    call_made = {"name": name, "arguments": _json(arguments)} if name else None
    return replace(
        row,
        answer=text or f"{name}({arguments})",
        correct=correct(wanted, text, call_made),
        tokens=last["usage"]["completion_tokens"],
        ttft_ms=round(ttft * 1e3, 1),
        decode_ms=round(last["timings"]["decode_ms"], 2),
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
