"""Patterns over text that is still coming: each says at the first possible letter whether it can still match.

Regular expressions cannot say that, and so would either hold text back for nothing or let half a tag through.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BLANK", "NAME", "TEXT", "JsonSpan", "Match", "match_any"]

BLANK, NAME, TEXT = "\0blank", "\0name", "\0text"  # any blanks; a bare function name; a JSON string
_BLANKS = re.compile(r"\s*")
_NAME = re.compile(r"[\w.\-/:]+")
_TEXT = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_TEXT_BEGUN = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*\\?\Z')
_OUTSIDE = frozenset('{}[],:"0123456789+-.eEtrufalsn \t\r\n')  # what JSON has outside of strings

Steps = Sequence[str | tuple[str, ...]]  # a marker above, a literal, or literals of which one must stand there


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """`end` is where the pattern ended, `None` while more text may complete it. `found` holds its names and texts."""

    end: int | None
    found: tuple[str, ...] = ()


def match_any(patterns: Sequence[Steps], text: str, start: int = 0) -> Match | None:
    """The first of `patterns` that matches, or may yet match, `text` from `start` on; `None` where none ever will."""
    for steps in patterns:
        match = _match(steps, text, start)
        if match is not None:
            return match
    return None


def _match(steps: Steps, text: str, at: int) -> Match | None:
    found: list[str] = []
    for step in steps:
        if step == BLANK:
            at = _end(_BLANKS, text, at)
            continue
        end = _step(step, text, at)
        if end is None:
            return None
        if end < 0:
            return Match(end=None)
        if step in (NAME, TEXT):
            found.append(text[at:end])
        at = end
    return Match(end=at, found=tuple(found))


def _step(step: str | tuple[str, ...], text: str, at: int) -> int | None:
    """The end of `step`, -1 if the text ends before it does, `None` if it does not stand there."""
    if step == NAME:
        end = _end(_NAME, text, at)
        return -1 if end == len(text) else end if end > at else None
    if step == TEXT:
        whole = _TEXT.match(text, at)
        if whole:
            return whole.end()
        return -1 if at == len(text) or _TEXT_BEGUN.match(text, at) else None
    for literal in (step,) if isinstance(step, str) else step:
        if text.startswith(literal, at):
            return at + len(literal)
        if literal.startswith(text[at:]):
            return -1
    return None


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


class JsonSpan:
    """Finds the end of a JSON object or list, letter by letter; it looks at brackets and strings only."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = False
        self.done = False  # the last bracket is closed
        self.broken = False  # a letter came that JSON does not have there

    def feed(self, text: str, at: int = 0) -> int:
        """Where the value goes on to, from `at`: at the end of `text`, unless `done` or `broken`."""
        while at < len(text) and not self.done and not self.broken:
            letter = text[at]
            if self._quoted:
                self._string(letter)
            elif letter in _OUTSIDE:
                self._outside(letter)
            else:
                self.broken = True
                break
            at += 1
        return at

    def _string(self, letter: str) -> None:
        if self._escaped:
            self._escaped = False
        elif letter == "\\":
            self._escaped = True
        elif letter == '"':
            self._quoted = False

    def _outside(self, letter: str) -> None:
        if letter == '"':
            self._quoted = True
        elif letter in "{[":
            self._depth += 1
        elif letter in "}]":
            self._depth -= 1
            self.done = self._depth <= 0
