"""From token bytes to text that may be shown: whole characters, and nothing that might be part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from foreshore.errors import BadRequest

__all__ = ["StopStrings", "TextStream", "held_back", "utf8"]


def utf8(text: str) -> bytes:
    """Raises `BadRequest` for what is not Unicode: lone surrogates."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(
            f"the text is not valid Unicode at character {error.start}: {text[error.start]!r}",
            hint="remove lone surrogates",
            param="messages",
        ) from error


def held_back(text: str, patterns: Iterable[str]) -> int:
    """Length of the longest end of `text` that is a proper beginning of one of `patterns`."""
    best = 0
    for pattern in patterns:
        for size in range(min(len(pattern) - 1, len(text)), best, -1):
            if text.endswith(pattern[:size]):
                best = size
                break
    return best


class StopStrings:
    """Passes text through up to the first stop string, wherever token borders fall."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._tail = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """What of all text so far may be shown now. After `stopped`, nothing more."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        self._tail += text
        # The one that is complete first wins, so that it does not matter how the text was cut.
        found = [(at + len(stop), at) for stop in self._stops if (at := self._tail.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._take(min(found)[1])
        return self._take(len(self._tail) - held_back(self._tail, self._stops))

    def flush(self) -> str:
        """What was held back and turned out not to be a stop string."""
        return "" if self.stopped else self._take(len(self._tail))

    def _take(self, size: int) -> str:
        shown, self._tail = self._tail[:size], self._tail[size:]
        return shown


class TextStream:
    """Bytes of one answer in, showable text out. Invalid UTF-8 becomes U+FFFD."""

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._decode = self._decoder.decode
        self._stops = StopStrings(stops)
        self._plain = not stops

    @property
    def stopped(self) -> bool:
        return self._stops.stopped

    def push(self, raw: bytes) -> str:
        text = self._decode(raw)
        return text if self._plain else self._stops.push(text)

    def flush(self) -> str:
        return self._stops.push(self._decoder.decode(b"", final=True)) + self._stops.flush()
