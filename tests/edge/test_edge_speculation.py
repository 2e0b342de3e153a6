"""Guessing tokens changes how fast an answer comes, never which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from foreshore.edge import EngineOptions, Runtime
from foreshore.edge.pacer import Pacer
from foreshore.edge.sequence import Sequence
from foreshore.edge.speculation import Lookup, Speculator
from foreshore.errors import ForeshoreError, UsageError

PROMPT = "one two three four one two three four one two three four one two"
ASK: dict[str, Any] = {"max_tokens": 120, "temperature": 0, "extra": {"ignore_eos": True}}


def running(tokens: list[int], answer: int = 100) -> Sequence:
    sequence = Sequence(id="s", tokens=tokens, max_tokens=answer, arrived=0.0)
    sequence.generated = 1
    return sequence


def pacer(alone: dict[int, float]) -> Pacer:
    known = Pacer(gap_target=3.0, batch_tokens=64)
    for streams, seconds in alone.items():
        known.observe(streams=streams, prompt_tokens=0, seconds=seconds)
    return known


def test_lookup_finds_what_followed_before() -> None:
    lookup = Lookup()
    sequence = running([1, 2, 3, 4, 5, 9, 1, 2, 3])
    assert lookup.propose({sequence: 3}) == {sequence: (4, 5, 9)}
    sequence.tokens += [4, 5, 9]
    assert lookup.propose({sequence: 2}) == {sequence: (1, 2)}
    sequence.tokens += [77]
    assert lookup.propose({sequence: 2}) == {}
    lookup.drop(sequence)


def test_one_stream_is_drafted_for_and_many_are_not() -> None:
    cheap = pacer({1: 0.030, 4: 0.038, 8: 0.062})
    alone = running([1, 2, 3, 1, 2, 3])
    Speculator(Lookup(), cheap).prepare([alone])
    assert len(alone.draft) == 3
    many = [running([1, 2, 3, 1, 2, 3]) for _ in range(9)]
    Speculator(Lookup(), cheap).prepare(many)
    assert not any(s.draft for s in many)


def test_guesses_that_fail_are_given_up_and_tried_again_later() -> None:
    speculator = Speculator(Lookup(), pacer({1: 0.030, 4: 0.038}))
    sequence = running([1, 2, 3, 1, 2, 3], answer=1000)
    for _ in range(40):
        speculator.check(sequence, 3, 0)
    sequence.draft = ()
    speculator.prepare([sequence])
    assert sequence.draft == ()
    sequence.generated += 64
    speculator.prepare([sequence])
    assert sequence.draft


def test_where_more_rows_cost_as_much_as_they_give_nothing_is_guessed() -> None:
    sequence = running([1, 2, 3, 1, 2, 3])
    Speculator(Lookup(), pacer({1: 0.010, 4: 0.040})).prepare([sequence])
    assert sequence.draft == ()


@pytest.mark.parametrize("kind", ["lookup", "draft"])
def test_the_answer_is_the_same_and_guesses_were_made(tiny: Path, kind: Any) -> None:
    # How many are guessed follows measured times, and the rounding of logits follows that: in a long answer a draw near
    # the border between two tokens may fall to the other side.
    drawn = {**ASK, "temperature": 0.7, "max_tokens": 12}
    with Runtime(tiny, options=EngineOptions(threads=1)) as plain:
        expected = [plain.complete(PROMPT, **ASK).text, plain.complete("x", seed=3, **drawn).text]
    options = EngineOptions(threads=1, speculation=kind, draft_model=str(tiny) if kind == "draft" else None)
    with Runtime(tiny, options=options) as guessing:
        answers = [guessing.complete(PROMPT, **ASK).text]
        load = guessing.load()
        answers.append(guessing.complete("x", seed=3, **drawn).text)
    assert answers == expected
    assert load.drafted > 0
    assert 0 <= load.accepted <= load.drafted
    if kind == "draft":
        assert load.accepted > load.drafted / 2, "the same model guesses right"


def test_a_draft_model_must_speak_the_same_tokens(tiny: Path, tiny_encoder: Path) -> None:
    options = EngineOptions(threads=1, speculation="draft", draft_model=str(tiny_encoder))
    with pytest.raises(ForeshoreError), Runtime(tiny, options=options):
        pass
    with pytest.raises(UsageError, match="belong together"):
        EngineOptions(speculation="draft")
