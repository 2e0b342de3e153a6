"""Server-sent events, read incrementally, after the WHATWG HTML standard's section on event streams.

Whatever way the bytes are cut, the events are the same. CR, LF and CRLF end a line; a blank line ends an event;
comments and unknown fields are skipped; several `data` lines are joined by a newline.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["MAX_EVENT_BYTES", "EventTooLong", "SSEParser", "ServerSentEvent"]

MAX_EVENT_BYTES = 4 * 1024 * 1024


class EventTooLong(ValueError):
    """One event is longer than `MAX_EVENT_BYTES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    data: str
    event: str = "message"


class SSEParser:
    """`feed` bytes as they come; raises `UnicodeDecodeError` for what is not UTF-8 and `EventTooLong`."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._max = max_event_bytes
        self._line: list[str] = []  # pieces of the line that has not ended yet
        self._size = 0  # characters of the event so far
        self._data: list[str] = []
        self._event = ""
        self._after_cr = False
        self._at_start = True

    def feed(self, raw: bytes) -> Iterator[ServerSentEvent]:
        """Events completed by `raw`."""
        text = self._decoder.decode(raw)
        if self._at_start and text:
            self._at_start = False
            text = text.removeprefix("\ufeff")
        if self._after_cr and text:
            self._after_cr = False
            text = text.removeprefix("\n")
        for line in self._lines(text):
            event = self._take(line)
            if event is not None:
                yield event

    def _lines(self, text: str) -> Iterator[str]:
        """Lines that end within `text`; the rest waits. Other Unicode line ends are ordinary characters here."""
        start = 0
        while (end := _line_end(text, start)) >= 0:
            self._keep(text[start:end])
            line, self._line = "".join(self._line), []
            start = end + 1
            if text[end] == "\r":
                if start == len(text):
                    self._after_cr = True
                elif text[start] == "\n":
                    start += 1
            yield line
        self._keep(text[start:])

    def _keep(self, piece: str) -> None:
        self._size += len(piece)
        if self._size > self._max:
            raise EventTooLong(f"an event of more than {self._max} bytes")
        if piece:
            self._line.append(piece)

    def _take(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        if not self._data:
            self._size = 0  # comments may go on for ever, they are not kept
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event, self._size = [], "", 0
        return ServerSentEvent(data="\n".join(data), event=event or "message") if data else None


def _line_end(text: str, start: int) -> int:
    line_feed, carriage_return = text.find("\n", start), text.find("\r", start)
    if line_feed < 0 or carriage_return < 0:
        return max(line_feed, carriage_return)
    return min(line_feed, carriage_return)
