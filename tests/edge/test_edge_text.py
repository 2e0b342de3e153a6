"""From bytes to answer, reasoning and tool calls: the way text is cut never changes what comes out."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from foreshore.edge.parse import AnswerParser, Piece
from foreshore.edge.text import StopStrings, TextStream, held_back

FRAGMENTS = st.sampled_from(
    [
        *("<think>", "</think>", "<tool_call>", "</tool_call>", "<th", "</", "<", ">", " ", "\n", "hello", "é", "😀"),
        *('{"name": "add", "arguments": {"a": 1}}', '{"name": 3}', '{"name": "f", "arguments": "{}"}', "{"),
    ]
)


def parse(pieces: list[str], *, tools: bool, thinking: bool) -> tuple[str, str, list[tuple[str | None, str]]]:
    parser = AnswerParser(tools=tools, thinking=thinking)
    out: list[Piece] = [*(parser.push(p) for p in pieces), parser.finish()]
    calls = [(c.name, c.arguments) for p in out for c in p.tool_calls]
    assert [c.index for p in out for c in p.tool_calls] == list(range(len(calls)))
    return "".join(p.text for p in out), "".join(p.reasoning for p in out), calls


def cuts(text: str, places: list[int]) -> list[str]:
    borders = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in pairwise(borders)]


@given(st.lists(FRAGMENTS, max_size=12), st.lists(st.integers(0, 500), max_size=12), st.booleans(), st.booleans())
def test_parsing_does_not_depend_on_the_chunks(
    fragments: list[str], places: list[int], tools: bool, thinking: bool
) -> None:
    text = "".join(fragments)
    whole = parse([text], tools=tools, thinking=thinking)
    assert parse(cuts(text, places), tools=tools, thinking=thinking) == whole
    assert parse(list(text), tools=tools, thinking=thinking) == whole


@given(st.text(alphabet="ab<>/think \n"))
def test_text_without_tags_passes_unchanged(text: str) -> None:
    if not text.lstrip().startswith("<think>"):
        assert parse(list(text), tools=False, thinking=False) == (text, "", [])


def test_reasoning_and_answer_are_told_apart() -> None:
    text = "<think>\nfive plus three\n</think>\n\nIt is 8."
    assert parse([text], tools=False, thinking=False) == ("It is 8.", "five plus three", [])
    assert parse([text[8:]], tools=False, thinking=True) == ("It is 8.", "five plus three", [])


def test_reasoning_cut_off_by_the_limit_stays_reasoning() -> None:
    assert parse(["<think>five plus"], tools=False, thinking=False) == ("", "five plus", [])


def test_tool_calls_are_read_and_broken_ones_stay_text() -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
    text, reasoning, calls = parse(["I add.\n" + call + "\n" + call], tools=True, thinking=False)
    assert (text, reasoning) == ("I add.", "")
    assert [(n, json.loads(a)) for n, a in calls] == [("add", {"a": 1, "b": "é"})] * 2
    broken = "<tool_call>{nonsense}</tool_call>"
    assert parse([broken], tools=True, thinking=False) == (broken, "", [])
    assert parse([call], tools=False, thinking=False) == (call, "", [])


def test_a_call_without_its_closing_tag_counts_at_the_end() -> None:
    assert parse(['<tool_call>{"name": "f"}'], tools=True, thinking=False) == ("", "", [("f", "{}")])


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
