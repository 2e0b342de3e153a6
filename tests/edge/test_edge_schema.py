"""JSON schemas as grammars: what the engine draws under one satisfies it, and what cannot be held is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.backend import Answer
from foreshore.edge import EngineOptions, Runtime
from foreshore.edge.grammar.json_ranges import integers
from foreshore.edge.grammar.json_schema import any_json_grammar, schema_grammar
from foreshore.errors import BadRequest

INT = {"type": "integer", "minimum": 0, "maximum": 3}
NEXT = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
NODE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": {"type": "object", "properties": {"next": NEXT}, "required": ["next"]}},
}


def in_a(value: Any) -> bool:
    return set(value) == {"a"} and value["a"] in range(4)


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
        ({"type": "integer", "minimum": -12, "maximum": 345}, lambda v: -12 <= v <= 345),
        ({"type": "integer", "exclusiveMinimum": 7}, lambda v: v > 7),
        ({"type": "integer", "maximum": -100}, lambda v: v <= -100),
        ({"type": "string", "pattern": "^[a-c]{2}-\\d+(x|yz)?$"}, lambda v: re.search("^[a-c]{2}-\\d+(x|yz)?$", v)),
        ({"type": "string", "pattern": '^"\\\\[xy]$'}, lambda v: v in ('"\\x', '"\\y')),
        ({"allOf": [{"$ref": "#/$defs/a"}, {"required": ["a"]}], "$defs": {"a": {"properties": {"a": INT}}}}, in_a),
        ({"allOf": [{"type": "integer", "minimum": 3}, {"type": "number", "maximum": 4}]}, lambda v: v in (3, 4)),
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
        ({"type": "string", "pattern": "^(a"}, "'^(a'"),
        ({"type": "string", "pattern": "a(?=b)"}, "more than"),
        ({"type": "string", "pattern": "\\bword"}, "not known"),
        ({"type": "string", "pattern": "a**"}, "after a repetition"),
        ({"type": "string", "pattern": "a{3,1}"}, "less than at least"),
        ({"type": "string", "pattern": "a$b"}, "after '$'"),
        ({"type": "string", "pattern": '["x]'}, "escape"),
        ({"type": "string", "pattern": "[z-a]"}, "backwards"),
        ({"type": "string", "pattern": "a)"}, "unexpected"),
        ({"type": "string", "pattern": "a" * 1000}, "longer than"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "alone"),
        ({"type": "string", "pattern": 3}, "text"),
        ({"type": "object", "patternProperties": {}}, "'patternProperties'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"allOf": []}, "at least one"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "'type'"),
        ({"allOf": [{"type": "array"}, {"uniqueItems": True}]}, "'uniqueItems'"),
        ({"allOf": [{"enum": [1]}, {"enum": [2]}]}, "'enum'"),
        ({"allOf": [{"minimum": 1}, {"minimum": "a"}]}, "'minimum'"),
        ({"allOf": [{"properties": {"a": {}}, "additionalProperties": False}, {"properties": {"b": {}}}]}, "['b']"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}}, "nests deeper"),
        ({"not": {}}, "'not'"),
        ({"type": "number", "minimum": 1}, "'minimum'"),
        ({"type": "integer", "minimum": 1.5}, "1.5"),
        ({"type": "integer", "minimum": 3, "maximum": 1}, "no number"),
        ({"type": "integer", "maximum": 10**17}, "16 digits"),
        ({"type": "integer", "multipleOf": 2}, "'multipleOf'"),
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


@given(st.integers(-(10**6), 10**6), st.integers(0, 10**6), st.integers(-(2 * 10**6), 2 * 10**6))
def test_a_range_holds_exactly_its_numbers(low: int, more: int, other: int) -> None:
    """The digits' expression, read as a regular expression: it is in the notation that both share."""
    high = low + more
    pattern = re.compile(integers(low, high).replace('"', "").replace(" ", ""))
    for number in {low, high, low - 1, high + 1, (low + high) // 2, other, -other}:
        assert bool(pattern.fullmatch(str(number))) == (low <= number <= high), number
    assert not pattern.fullmatch("-0")
    assert not pattern.fullmatch(f"0{high}")


def test_an_open_range_ends_after_sixteen_digits() -> None:
    pattern = re.compile(integers(5, None).replace('"', "").replace(" ", ""))
    assert pattern.fullmatch("9" * 16)
    assert not pattern.fullmatch("1" + "0" * 16)
    assert not pattern.fullmatch("4")
