"""JSON schemas as grammars: what the engine draws under one satisfies it, and what cannot be held is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from foreshore.backend import Answer
from foreshore.edge import EngineOptions, Runtime
from foreshore.edge.json_schema import any_json_grammar, schema_grammar
from foreshore.errors import BadRequest

INT = {"type": "integer", "minimum": 0, "maximum": 3}
NEXT = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
NODE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": {"type": "object", "properties": {"next": NEXT}, "required": ["next"]}},
}


@pytest.fixture(scope="module")
def draw(tiny: Path) -> Iterator[Callable[..., Answer]]:
    """Draws text under a grammar from a model that knows nothing, so that only the grammar shapes it."""
    with Runtime(tiny, options=EngineOptions(threads=1)) as runtime:
        yield lambda grammar, seed, tokens=300: runtime.complete(
            "x", grammar=grammar, seed=seed, temperature=3, max_tokens=tokens
        )


@pytest.mark.parametrize(
    ("schema", "holds"),
    [
        ({"const": 'a "quoted" \n word'}, lambda v: v == 'a "quoted" \n word'),
        ({"enum": [1, "é", None, {"a": []}]}, lambda v: v in [1, "é", None, {"a": []}]),
        (INT, lambda v: v in range(4)),
        ({"type": "boolean"}, lambda v: isinstance(v, bool)),
        ({"type": ["null", "boolean"]}, lambda v: v is None or isinstance(v, bool)),
        ({"type": "string", "minLength": 2, "maxLength": 4}, lambda v: 2 <= len(v) <= 4),
        ({"type": "string", "format": "date"}, lambda v: len(v) == 10 and v[4] == "-"),
        ({"type": "array", "items": INT, "minItems": 2, "maxItems": 3}, lambda v: 2 <= len(v) <= 3),
        ({"type": "array", "items": INT, "maxItems": 0}, lambda v: v == []),
        (
            {"type": "object", "properties": {"a": INT, "b": INT, "c": INT}, "required": ["b"]},
            lambda v: "b" in v and set(v) <= {"a", "b", "c"},
        ),
        ({"type": "object", "properties": {"a": INT, "b": INT}}, lambda v: set(v) <= {"a", "b"}),
        ({"type": "object", "properties": {}, "additionalProperties": False}, lambda v: v == {}),
        ({"anyOf": [INT, {"type": "null"}]}, lambda v: v is None or v in range(4)),
        (NODE, lambda v: set(v) == {"next"}),
        ({"title": "t", "description": "d", "default": 1, **INT}, lambda v: v in range(4)),
    ],
)
def test_what_is_drawn_satisfies_the_schema(
    draw: Callable[..., Answer], schema: dict[str, Any], holds: Callable[[Any], bool]
) -> None:
    grammar = schema_grammar(schema)
    finished = [answer.text for seed in range(12) if (answer := draw(grammar, seed)).finish_reason == "stop"]
    # A model that knows nothing also writes bytes that are no UTF-8, which have no length in characters.
    finished = [text for text in finished if "\ufffd" not in text]
    assert finished, "no draw came to an end"
    for text in finished:
        assert holds(json.loads(text)), text


def test_any_json_is_an_object(draw: Callable[..., Any]) -> None:
    answers = [draw(any_json_grammar(), seed, 60) for seed in range(8)]
    assert all(a.text.startswith("{") for a in answers)
    assert all(isinstance(json.loads(a.text), dict) for a in answers if a.finish_reason == "stop")


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "pattern": "^a"}, "'pattern'"),
        ({"type": "object", "patternProperties": {}}, "'patternProperties'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"allOf": [{}]}, "'allOf'"),
        ({"not": {}}, "'not'"),
        ({"type": "number", "minimum": 1}, "'minimum'"),
        ({"type": "integer", "minimum": 1}, "None"),
        ({"type": "string", "format": "ipv4"}, "'ipv4'"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength"),
        ({"type": "colour"}, "'colour'"),
        ({"$ref": "https://example.com/schema"}, "example.com"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"enum": []}, "enum"),
        ({"anyOf": []}, "anyOf"),
        ({"type": "object", "properties": {"a": 5}}, "properties/a"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "'b'"),
        ({"type": {"a": 1}}, "'a'"),
        ({"type": [{}]}, "[{}]"),
        ({"$ref": {"a": 1}}, "'a'"),
        ({"properties": ["a"]}, "['a']"),
        ({"properties": {"a": {}}, "required": "a"}, "'a'"),
        ({"properties": {"a": {}}, "required": [["a"]]}, "[['a']]"),
        ("string", "object"),
    ],
)
def test_what_cannot_be_held_is_refused_by_name(schema: Any, named: str) -> None:
    with pytest.raises(BadRequest, match=r"schema|enum|anyOf") as caught:
        schema_grammar(schema)
    assert named in caught.value.message
    assert caught.value.param == "response_format"


def test_a_schema_that_nests_too_deep_is_refused() -> None:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    with pytest.raises(BadRequest, match="nests deeper"):
        schema_grammar(schema)
