"""Grammars that a stranger wrote: what cannot be read, cannot go on or takes too long fails that request alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from foreshore.edge import EngineOptions, Runtime
from foreshore.errors import BadRequest


@pytest.fixture(scope="module")
def runtime(tiny: Path) -> Iterator[Runtime]:
    with Runtime(tiny, options=EngineOptions(threads=1)) as found:
        yield found


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("root ::= (" + " | ".join(['"a"'] * 700) + ")* ", "too many ways"),
        ("root ::= [^", "cannot be read"),
        ("root ::= root", "cannot be read"),
        ("root ::= <[99999999]>", "no token of this model"),
    ],
)
def test_a_bad_grammar_fails_its_request_alone(runtime: Runtime, grammar: str, why: str) -> None:
    worker = runtime.backend.pid
    with pytest.raises(BadRequest, match=why) as caught:
        runtime.complete("x", grammar=grammar, max_tokens=8)
    assert caught.value.param == "grammar"
    assert runtime.complete("x", grammar='root ::= "ab"', max_tokens=8).text == "ab"
    assert runtime.backend.pid == worker
