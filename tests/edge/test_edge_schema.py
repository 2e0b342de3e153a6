"""JSON schemas as grammars: what the engine draws under one satisfies it, and what cannot be held is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.backend import Answer
from foreshore.edge import EngineOptions, Runtime
from foreshore.edge.grammar.json_decimals import PLACES, Bound, decimals
from foreshore.edge.grammar.json_keys import other_keys
from foreshore.edge.grammar.json_ranges import integers
from foreshore.edge.grammar.json_schema import any_json_grammar, schema_grammar
from foreshore.errors import BadRequest

QUICK = settings(max_examples=60, deadline=None)
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
        ({"type": "string", "format": "date"}, date.fromisoformat),
        ({"type": "string", "format": "time"}, lambda v: datetime.fromisoformat(f"2026-01-01T{v}")),
        ({"type": "string", "format": "date-time"}, datetime.fromisoformat),
        ({"type": "string", "format": "uuid"}, UUID),
        ({"type": "string", "format": "ipv4"}, IPv4Address),
        ({"type": "string", "format": "ipv6"}, IPv6Address),
        ({"type": "string", "format": "hostname"}, re.compile(r"[\w-]+(\.[\w-]+)*", re.A).fullmatch),
        ({"type": "string", "format": "email"}, re.compile(r"[^@]+@[^@]+\.[a-zA-Z]+").fullmatch),
        ({"type": "string", "format": "duration"}, re.compile(r"P(?!$)(\d+[YMWD])*(T(\d+[HMS])+)?").fullmatch),
        ({"type": "string", "format": "uri"}, lambda v: urlsplit(v).scheme),
        ({"type": "number", "minimum": 0, "maximum": 1}, lambda v: 0 <= v <= 1),
        ({"type": "number", "exclusiveMinimum": -2.5, "exclusiveMaximum": -0.25}, lambda v: -2.5 < v < -0.25),
        (
            {"type": "object", "properties": {"a": INT, "ab": INT}, "additionalProperties": {"type": "null"}},
            lambda v: all((value in range(4)) if key in ("a", "ab") else value is None for key, value in v.items()),
        ),
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
        ({"type": "number", "minimum": "1"}, "'1'"),
        ({"type": "number", "minimum": 10**400}, "15 digits"),
        ({"type": "number", "minimum": float("nan")}, "nan"),
        ({"type": "number", "minimum": 1e-20}, "after the point"),
        ({"type": "number", "minimum": 1, "maximum": 0.5}, "0.5"),
        ({"type": "number", "minimum": 1, "exclusiveMaximum": 1}, "no number"),
        ({"type": "number", "multipleOf": 0.5}, "'multipleOf'"),
        ({"type": "integer", "minimum": 1.5}, "1.5"),
        ({"type": "integer", "minimum": 3, "maximum": 1}, "no number"),
        ({"type": "integer", "maximum": 10**17}, "16 digits"),
        ({"type": "integer", "multipleOf": 2}, "'multipleOf'"),
        ({"type": "string", "format": "colour"}, "'colour'"),
        ({"type": "string", "format": {}}, "{}"),
        ({"type": "object", "properties": {"a" * 300: {}}, "additionalProperties": True}, "longer than"),
        ({"allOf": [{"properties": 3}, {}]}, "3"),
        ({"allOf": [{"properties": ["a"]}, {"properties": {}}]}, "['a']"),
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


@QUICK
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


def expression(grammar: str) -> re.Pattern[str]:
    """An expression without rules of its own, as a regular expression."""
    parts = re.split(r'("(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\])', grammar)
    texts = [re.escape(re.sub(r"\\(.)", r"\1", p[1:-1])) if p[:1] == '"' else p for p in parts[1::2]]
    quoted = [f"(?:{text})" if not text.startswith("[") else text for text in texts]
    plain = [part.replace(" ", "") for part in parts[::2]]
    return re.compile("".join(a + b for a, b in zip(plain, [*quoted, ""], strict=True)))


NUMBERS = st.decimals(-1000, 1000, places=3) | st.decimals(-1, 1, places=1) | st.integers(-12, 12).map(Decimal)


@QUICK
@given(
    st.none() | st.builds(Bound, NUMBERS, st.booleans()),
    st.none() | st.builds(Bound, NUMBERS, st.booleans()),
    st.data(),
)
def test_decimals_between_two_bounds(low: Bound | None, high: Bound | None, data: st.DataObject) -> None:
    if low and high and low.value > high.value:
        low, high = high, low
    written = decimals(low, high)
    ends = [bound.value for bound in (low, high) if bound]
    near = [end + step for end in ends for step in (Decimal("0.001"), Decimal("-0.001"), Decimal(1), Decimal(-1))]
    for number in [*ends, *near, data.draw(NUMBERS)]:
        above = low is None or number > low.value or (number == low.value and not low.open)
        below = high is None or number < high.value or (number == high.value and not high.open)
        spellings = {f"{number:f}", f"{number:.5f}", f"{number.normalize():f}"} - {f"-{0:.{n}f}" for n in range(9)}
        fits = [bool(written) and bool(expression(written).fullmatch(text)) for text in spellings]
        assert any(fits) if above and below else not any(fits), (number, written)


def test_no_number_is_written_that_a_double_would_round_over_its_bound() -> None:
    pattern = expression(decimals(None, Bound(Decimal(100), open=True)))
    assert pattern.fullmatch("99." + "9" * (PLACES - 2))
    assert not pattern.fullmatch("99." + "9" * (PLACES - 1))


@QUICK
@given(st.sets(st.text("ab-]^", max_size=4), min_size=1, max_size=5), st.text("abc-]^", max_size=5))
def test_a_key_that_is_none_of_those_named(names: set[str], key: str) -> None:
    pattern = expression(other_keys(sorted(names), lambda body: f"({body})"))
    assert bool(pattern.fullmatch(f'"{key}"')) == (key not in names)


WORDS = [
    "type",
    "properties",
    "required",
    "allOf",
    "anyOf",
    "enum",
    "const",
    "items",
    "minItems",
    "$ref",
    "minimum",
    "format",
]
VALUES = st.sampled_from([None, True, 0, -1, 1.5, "object", "array", "string", "number", "a", "#", "#/allOf/0", "date"])
ODD = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*WORDS, "a"]), inner, max_size=3),
)


@QUICK
@given(st.dictionaries(st.sampled_from(WORDS), ODD, max_size=4))
def test_any_schema_gives_a_grammar_or_a_refusal(schema: dict[str, Any]) -> None:
    with suppress(BadRequest):
        assert schema_grammar(schema).startswith("root ::= ")


def test_a_small_schema_that_unfolds_to_a_huge_one_is_refused() -> None:
    doubled = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(18)}
    with pytest.raises(BadRequest, match="unfolds"):
        schema_grammar({"$ref": "#/$defs/d0", "$defs": {**doubled, "d18": {"type": "string"}}})


def test_a_grammar_grows_no_faster_than_its_optional_properties() -> None:
    sizes = [
        len(schema_grammar({"type": "object", "properties": {f"p{i:04}": {"type": "null"} for i in range(n)}}))
        for n in (100, 1000)
    ]
    assert sizes[1] < 12 * sizes[0]
