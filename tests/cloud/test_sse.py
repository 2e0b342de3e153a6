"""However the bytes are cut, the events are the same."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.cloud.sse import EventTooLong, ServerSentEvent, SSEParser

STREAM = (
    "\ufeff: a comment\r\n"
    "data: one\r\n\r\n"
    "event: ping\rdata: zwei \U0001f30a\r\r"
    "id: 7\nretry: 10\ndata\ndata: a\ndata:b\n\n"
    "\n\n"
    "data: \u2028 is no line end \x85 nor is this\n\n"
    "data: unfinished"
).encode()
EVENTS = [
    ServerSentEvent(data="one"),
    ServerSentEvent(data="zwei \U0001f30a", event="ping"),
    ServerSentEvent(data="\na\nb"),
    ServerSentEvent(data="\u2028 is no line end \x85 nor is this"),
]


def read(pieces: list[bytes]) -> list[ServerSentEvent]:
    parser = SSEParser()
    return [event for piece in pieces for event in parser.feed(piece)]


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_cut_gives_the_same_events(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert read([STREAM[a:b] for a, b in itertools.pairwise(edges)]) == EVENTS


def test_byte_by_byte_gives_the_same_events() -> None:
    assert read([bytes([b]) for b in STREAM]) == EVENTS


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_garbage_raises_nothing_but_what_is_promised(pieces: list[bytes]) -> None:
    with contextlib.suppress(UnicodeDecodeError):
        read(pieces)


def test_an_endless_line_is_refused_and_endless_comments_are_not() -> None:
    parser = SSEParser(max_event_bytes=100)
    for _ in range(50):
        assert list(parser.feed(b": still working\n")) == []
    with pytest.raises(EventTooLong):
        list(parser.feed(b"data: xxxxxxxxxx" * 50))


def test_many_short_data_lines_of_one_event_are_bounded_too() -> None:
    parser = SSEParser(max_event_bytes=100)
    with pytest.raises(EventTooLong):
        list(parser.feed(b"data: xxxxxxxxxx\n" * 50))
