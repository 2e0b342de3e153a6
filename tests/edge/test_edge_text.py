"""From bytes to text that may be shown: the way bytes are cut never changes what comes out."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from foreshore.edge.text import StopStrings, TextStream, held_back


@given(st.text(alphabet="abc", max_size=30), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
def test_stop_strings_cut_at_the_first_and_only_there(text: str, stops: list[str]) -> None:
    stream = StopStrings(tuple(stops))
    shown = "".join(stream.push(letter) for letter in text) + stream.flush()
    # The stop string that is complete first ends the answer; of those complete together, the one that began first.
    ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
    assert shown == (text if not ends else text[: min(ends)[1]])
    assert stream.stopped == bool(ends)


@given(st.text(max_size=40), st.lists(st.integers(0, 200), max_size=10))
def test_characters_come_out_whole_wherever_bytes_are_cut(text: str, places: list[int]) -> None:
    raw = text.encode("utf-8", "replace")
    borders = [0, *sorted(p % (len(raw) + 1) for p in places), len(raw)]
    stream = TextStream()
    out = "".join(stream.push(raw[a:b]) for a, b in pairwise(borders)) + stream.flush()
    assert out == raw.decode()


def test_invalid_bytes_become_replacement_characters() -> None:
    stream = TextStream()
    assert stream.push(b"a\xffb\xe2\x82") + stream.flush() == "a�b�"


def test_held_back_is_the_longest_beginning_of_a_pattern() -> None:
    assert held_back("say <thi", ["<think>", "i"]) == 4
    assert held_back("say", ["<think>"]) == 0
    assert held_back("aa", ["aab", "ab"]) == 2
