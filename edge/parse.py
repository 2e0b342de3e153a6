"""Splits a model's raw text, while it streams, into answer, reasoning and tool calls.

Reasoning stands between `<think>` and `</think>` at the very beginning (or from the beginning, where
the template has opened it). Tool calls are written in the model's own format (`tools.formats`). What does
not turn out to be a call stays text: nothing a model wrote is lost. However the text is cut into chunks,
the joined result is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from foreshore.edge.text import held_back
from foreshore.edge.tools.reader import CallPiece, Reader, reader
from foreshore.edge.tools.tools import Toolbox
from foreshore.types import ToolCallDelta, new_id

__all__ = ["AnswerParser", "Piece"]

OPEN_THINK, CLOSE_THINK = "<think>", "</think>"

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

    def __init__(self, *, tools: Toolbox | None = None, thinking: bool = False, one_call: bool = False) -> None:
        """`tools`: what may be called, if anything; `thinking`: the prompt ended inside the model's reasoning;
        `one_call`: what follows the first call is dropped."""
        self._tools, self._one_call = tools, one_call
        self.over = False  # nothing that comes now can be shown
        self._opens = tools.form.opens if tools else ()
        self._signs = frozenset(tag[0] for tag in self._opens)
        self._reader: Reader | None = None
        self._held = ""  # blanks and the tag before what may turn out to be no call
        self._bare = tools is not None and tools.form.bare  # a call may stand here without a tag
        self._state: State = "reasoning" if thinking else "start"
        self._buffer = ""
        self._begun = False  # something of the current part was shown: its leading blanks are over
        self.calls = 0

    @property
    def in_reasoning(self) -> bool:
        return self._state == "reasoning"

    def push(self, text: str) -> Piece:
        if self.is_plain(text):
            return Piece(text=text)
        self._buffer += text
        return _join(self._drain(final=False))

    def is_plain(self, text: str) -> bool:
        """Whether `push` would only give `text` back: as of most of an answer, which so costs next to nothing."""
        if self._state != "content" or self._buffer or self._bare:
            return False
        return not self._opens or not (self._signs.intersection(text) or text[-1:].isspace())

    def finish(self) -> Piece:
        return _join(self._drain(final=True))

    def _drain(self, *, final: bool) -> Iterator[Piece]:
        state: State | None = None
        while state != self._state and not self.over:  # each pass either moves to another state or waits for more text
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
        if self._bare:
            body = self._buffer.lstrip()
            if not body and not final:
                return
            self._bare = False
            if body.startswith("{"):
                self._enter("", len(self._buffer) - len(body))
                return
        found = [(at, tag) for tag in self._opens if (at := self._buffer.find(tag)) >= 0]
        if not found:
            yield Piece(text=self._release(final, self._opens, hold_blanks=bool(self._opens)))
            return
        at, tag = min(found)
        shown = len(self._buffer[:at].rstrip())
        yield Piece(text=self._buffer[:shown])
        self._buffer = self._buffer[shown:]
        self._enter(tag, at - shown + len(tag))

    def _enter(self, tag: str, size: int) -> None:
        assert self._tools is not None
        self._held, self._buffer = self._buffer[:size], self._buffer[size:]
        self._reader = reader(self._tools.form, self._tools.parameters, opened_by=tag)
        self._state = "call"

    def _call(self, final: bool) -> Iterator[Piece]:
        assert self._reader is not None
        reading = self._reader.read(self._buffer, final)
        self._buffer = self._buffer[reading.used :]
        if reading.pieces:
            yield Piece(tool_calls=tuple(self._deltas(reading.pieces)))
        if reading.state == "not":
            yield Piece(text=self._held)
            self._state = "content"
        elif reading.state == "done":
            assert self._tools is not None
            self.over = self._one_call and self.calls > 0
            self._state, self._bare = "gap", self._tools.form.bare

    def _deltas(self, pieces: tuple[CallPiece, ...]) -> Iterator[ToolCallDelta]:
        for piece in pieces:
            if self.over:
                return
            if piece.name is not None and self._one_call and self.calls:
                self.over = True
            elif piece.name is None:
                yield ToolCallDelta(index=self.calls - 1, arguments=piece.arguments)
            else:
                yield ToolCallDelta(index=self.calls, id=new_id("call"), name=piece.name, arguments=piece.arguments)
                self.calls += 1

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


def _join(pieces: Iterator[Piece]) -> Piece:
    parts = list(pieces)
    return Piece(
        text="".join(p.text for p in parts),
        reasoning="".join(p.reasoning for p in parts),
        tool_calls=tuple(c for p in parts for c in p.tool_calls),
    )
