"""Splits a model's raw text, while it streams, into answer, reasoning and tool calls.

Reasoning stands between `<think>` and `</think>` at the very beginning (or from the beginning, where
the template has opened it). A tool call is `<tool_call>` JSON `</tool_call>`, the format of Hermes and
Qwen models. What does not parse stays text: nothing a model wrote is lost. However the text is cut
into chunks, the joined result is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from foreshore.edge.text import held_back
from foreshore.types import ToolCallDelta, new_id

__all__ = ["AnswerParser", "Piece"]

OPEN_THINK, CLOSE_THINK = "<think>", "</think>"
OPEN_CALL, CLOSE_CALL = "<tool_call>", "</tool_call>"

State = Literal["start", "reasoning", "gap", "content", "call"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.tool_calls)


class AnswerParser:
    """`push` text as it comes, `finish` once at the end; both return what can be shown since the last call."""

    def __init__(self, *, tools: bool = False, thinking: bool = False) -> None:
        self._tools = tools
        self._state: State = "reasoning" if thinking else "start"
        self._buffer = ""
        self._begun = False  # something of the current part was shown: its leading blanks are over
        self.calls = 0

    @property
    def in_reasoning(self) -> bool:
        return self._state == "reasoning"

    def push(self, text: str) -> Piece:
        self._buffer += text
        return _join(self._drain(final=False))

    def finish(self) -> Piece:
        return _join(self._drain(final=True))

    def _drain(self, *, final: bool) -> Iterator[Piece]:
        state: State | None = None
        while state != self._state:  # each pass either moves to another state or waits for more text
            state = self._state
            yield from getattr(self, f"_{state}")(final)

    def _start(self, final: bool) -> Iterator[Piece]:
        body = self._buffer.lstrip()
        if body.startswith(OPEN_THINK):
            self._buffer = body[len(OPEN_THINK) :]
            self._state = "reasoning"
        elif final or not OPEN_THINK.startswith(body):
            self._state = "content"
        return iter(())

    def _reasoning(self, final: bool) -> Iterator[Piece]:
        at = self._buffer.find(CLOSE_THINK)
        if at >= 0:
            text, self._buffer = self._buffer[:at].rstrip(), self._buffer[at + len(CLOSE_THINK) :]
            yield Piece(reasoning=self._trimmed(text))
            self._state, self._begun = "gap", False
            return
        yield Piece(reasoning=self._trimmed(self._release(final, (CLOSE_THINK,), hold_blanks=True)))

    def _gap(self, final: bool) -> Iterator[Piece]:
        """Blanks between the parts of an answer belong to none."""
        self._buffer = self._buffer.lstrip()
        if self._buffer or final:
            self._state = "content"
        return iter(())

    def _content(self, final: bool) -> Iterator[Piece]:
        at = self._buffer.find(OPEN_CALL) if self._tools else -1
        if at >= 0:
            text, self._buffer = self._buffer[:at].rstrip(), self._buffer[at + len(OPEN_CALL) :]
            yield Piece(text=text)
            self._state = "call"
            return
        tags = (OPEN_CALL,) if self._tools else ()
        yield Piece(text=self._release(final, tags, hold_blanks=self._tools))

    def _call(self, final: bool) -> Iterator[Piece]:
        at = self._buffer.find(CLOSE_CALL)
        if at < 0 and not final:
            return
        whole = at >= 0  # some models leave the closing tag out at the end of an answer
        body = self._buffer[:at] if whole else self._buffer
        self._buffer = self._buffer[at + len(CLOSE_CALL) :] if whole else ""
        call = _read_call(body)
        if call is None:
            yield Piece(text=OPEN_CALL + body + (CLOSE_CALL if whole else ""))
            self._state = "content"
            return
        yield Piece(tool_calls=(ToolCallDelta(index=self.calls, id=new_id("call"), name=call[0], arguments=call[1]),))
        self.calls += 1
        self._state = "gap"

    def _release(self, final: bool, tags: tuple[str, ...], *, hold_blanks: bool) -> str:
        """Take from the buffer what can no longer turn into a tag, or into blanks before one."""
        if final:
            text, self._buffer = self._buffer, ""
            return text.rstrip() if hold_blanks and self._state == "reasoning" else text
        end = len(self._buffer) - held_back(self._buffer, tags)
        if hold_blanks:
            end = len(self._buffer[:end].rstrip())
        text, self._buffer = self._buffer[:end], self._buffer[end:]
        return text

    def _trimmed(self, text: str) -> str:
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        return text


def _read_call(body: str) -> tuple[str, str] | None:
    """Name and arguments (JSON text) of a call, or `None` where `body` is not one."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _join(pieces: Iterator[Piece]) -> Piece:
    parts = list(pieces)
    return Piece(
        text="".join(p.text for p in parts),
        reasoning="".join(p.reasoning for p in parts),
        tool_calls=tuple(c for p in parts for c in p.tool_calls),
    )
