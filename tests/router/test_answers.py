"""The usual event of a stream is put together from parts: whatever its text, it is the event that JSON would give."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.router.api.answers import Answers
from foreshore.router.api.door import Frame
from foreshore.types import Chunk, Task

FRAME = Frame(model='odd "\0" name', fingerprint="fs-edge")


def events(raw: bytes) -> list[dict[str, Any]]:
    assert raw.endswith(b"\n\n")
    return [json.loads(part.removeprefix(b"data: ")) for part in raw[:-2].split(b"\n\n")]


def content(choice: dict[str, Any]) -> str:
    found: str = choice["delta"]["content"] if "delta" in choice else choice["text"]
    return found


@pytest.mark.parametrize("task", ["chat", "completion"])
@pytest.mark.parametrize("wants_usage", [False, True])
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.tuples(st.text(min_size=1), st.integers(0, 1)), min_size=1, max_size=4))
def test_texts_arrive_as_they_are_in_the_frame_of_all_other_events(
    task: Task, wants_usage: bool, texts: list[tuple[str, int]]
) -> None:
    answers = Answers(task, FRAME, wants_usage=wants_usage, choices=2)
    last = events(answers.chunk(Chunk(finish_reason="stop")))[0]
    for text, index in [*texts, ("\0", 0), ('"\n\u2028\x7f\U0001f600', 1)]:
        (found,) = events(answers.chunk(Chunk(text=text, index=index)))
        (choice,) = found["choices"]
        assert content(choice) == text
        assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (index, None, None)
        assert {k: v for k, v in found.items() if k != "choices"} == {k: v for k, v in last.items() if k != "choices"}


def test_half_a_character_does_not_end_the_stream() -> None:
    (found,) = events(Answers("chat", FRAME).chunk(Chunk(text="a\ud800b")))
    assert content(found["choices"][0]) == "a?b"


def test_text_and_an_end_in_one_chunk_are_two_events() -> None:
    first, last = events(Answers("completion", FRAME).chunk(Chunk(text="so", finish_reason="length")))
    assert content(first["choices"][0]) == "so"
    assert (content(last["choices"][0]), last["choices"][0]["finish_reason"]) == ("", "length")
