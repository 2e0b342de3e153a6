"""Expressions: what they see, what is wrong with them, and that Python code says of one what CEL says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.config import Config
from foreshore.errors import ConfigError
from foreshore.router.facts import (
    ANY_TIME,
    NO_BUDGET,
    ON_MAINS,
    BudgetFacts,
    ClockFacts,
    DeviceFacts,
    RequestFacts,
    TargetFacts,
)
from foreshore.router.policy import Policy
from foreshore.router.program import Scene
from foreshore.router.rules import OF_TARGETS, SCENE, Evaluator, Expression

WORDS = ["", "a", "edge", "write Proof", "éa", "日本", "long " * 50]
STRINGS = ["request.text", "request.tenant", "target.name", "target.breaker"]
INTS = ["request.prompt_tokens", "target.waiting", "now.hour", "size(request.text)", "request.labels.size()", "3", "0"]
DOUBLES = ["target.total_s", "target.cost", "device.battery_percent", "budget.left", "request.deadline_s", "0.5", "2.0"]
BOOLS = ["request.private", "target.local", "device.online", "true", "false"]
PATTERNS = ["'(?i)proof|a$'", "'^[a-z ]+$'", "'日'"]
LISTS = ["request.labels", "target.tags", "['a', 'edge']"]


def compiled(source: str, sees: Sequence[str] = OF_TARGETS) -> Expression:
    return Expression.compile(source, where="test", sees=sees)


def asked(expression: Expression, **parts: Any) -> tuple[bool | None, str]:
    return answers([expression], **parts)[0]


def answers(expressions: Sequence[Expression], **parts: Any) -> list[tuple[bool | None, str]]:
    whole: dict[str, Any] = {
        "request": RequestFacts(), "target": TargetFacts(name="edge"), "device": ON_MAINS, "budget": NO_BUDGET,
        "now": ANY_TIME, **parts,
    }  # fmt: skip
    with Evaluator(expressions) as evaluator:
        for part, facts in whole.items():
            evaluator.load(part, facts)
        return [evaluator.ask(expression) for expression in expressions]


@st.composite
def conditions(draw: st.DrawFn, depth: int = 3) -> str:
    def one(of: list[str]) -> str:
        return draw(st.sampled_from(of))

    if depth and draw(st.booleans()):
        left, right = draw(conditions(depth - 1)), draw(conditions(depth - 1))
        shape = one(["({0}) && ({1})", "({0}) || ({1})", "!({0})", "({0}) ? ({1}) : ({0})", "({0}) == ({1})"])
        return shape.format(left, right)
    sign, doubles, negated = one(["+", "-", "*"]), (one(DOUBLES), one(DOUBLES)), one(["target.cost", "1.5"])
    number = [*INTS, *DOUBLES, f"{doubles[0]} {sign} {doubles[1]}", f"-{negated}"]
    order = one(["==", "!=", "<", "<=", ">", ">="])
    literal = draw(st.sampled_from(["'a'", '"edge"', "'é'", "r'\\d'", "'日'"]))
    text = one(STRINGS)
    return one(
        [
            one(BOOLS),
            f"{one(number)} {order} {one(number)}",
            f"{text} {order} {one([*STRINGS, literal])}",
            f"{text}.{one(['contains', 'startsWith', 'endsWith'])}({one([*STRINGS, literal])})",
            f"{text}.matches({one(PATTERNS)})",
            f"{one([text, literal])} in {one([*LISTS, 'request.headers'])}",
            f"{one(LISTS)}.{one(['exists', 'all'])}(x, x == 'a' || x.startsWith({literal}))",
        ]
    )


TEXT = st.sampled_from(WORDS)
NUMBER = st.sampled_from([0.0, 0.5, 2.0, 3.0, 1e18, float("inf")])  # no fact is NaN
COUNT = st.integers(0, 4)
LABELS = st.lists(st.sampled_from(["a", "edge", "email"]), max_size=3).map(tuple)


@st.composite
def scenes(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "request": RequestFacts(
            text=draw(TEXT), tenant=draw(TEXT), prompt_tokens=draw(COUNT), deadline_s=draw(NUMBER),
            private=draw(st.booleans()), labels=draw(LABELS), headers={draw(TEXT): "a"},
        ),
        "target": TargetFacts(
            name=draw(TEXT), breaker=draw(TEXT), local=draw(st.booleans()), tags=draw(LABELS), waiting=draw(COUNT),
            total_s=draw(NUMBER), cost=draw(NUMBER),
        ),
        "device": DeviceFacts(battery_percent=draw(NUMBER), online=draw(st.booleans())),
        "budget": BudgetFacts(left=draw(NUMBER)),
        "now": ClockFacts(hour=draw(COUNT)),
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(conditions(), scenes())
def test_python_says_what_cel_says(source: str, scene: dict[str, Any]) -> None:
    expression = compiled(source)
    assert expression.plain is not None, source
    ours, theirs = answers([expression, replace(expression, plain=None)], **scene)
    assert ours == theirs


OTHERS = {
    "target.name": "request.tenant", "target.breaker": "request.language", "target.waiting": "now.minute",
    "target.total_s": "budget.left", "target.cost": "budget.spent", "target.local": "request.stream",
    "target.tags": "request.labels",
}  # fmt: skip
FAILING = "request.headers['none'] == 'a'"


def of_the_scene(source: str) -> str:
    for field, other in OTHERS.items():
        source = source.replace(field, other)
    return source


def scene_of(parts: dict[str, Any]) -> Scene:
    return Scene(**{part: parts[part] for part in SCENE})


@settings(max_examples=50, deadline=None)
@given(conditions(), st.lists(scenes(), min_size=1, max_size=3))
def test_of_each_target_python_says_what_cel_says(source: str, drawn: list[dict[str, Any]]) -> None:
    expression, targets = compiled(source), [parts["target"] for parts in drawn]
    both = [expression, replace(expression, plain=None)]
    ours, theirs = (Evaluator(both).each(one, targets, scene_of(drawn[0]), "no") for one in both)
    assert ours == theirs


@settings(max_examples=50, deadline=None)
@given(st.lists(conditions().map(of_the_scene), max_size=4), st.none() | st.integers(0, 4), scenes())
def test_the_first_rule_that_holds_is_the_first_that_cel_says_holds(
    sources: list[str], failing: int | None, parts: dict[str, Any]
) -> None:
    """Also where one cannot be evaluated: it is passed over, and said to be."""
    if failing is not None:
        sources = [*sources[:failing], FAILING, *sources[failing:]]
    rules = [{"name": f"r{i}", "when": source, "prefer": ["edge"]} for i, source in enumerate(sources)]
    targets = {"edge": {"kind": "local", "model": "m"}}
    policy = Policy(Config.model_validate({"targets": targets, "rules": rules}))
    match = policy.match(scene_of(parts))
    alone = answers([replace(rule.when, plain=None) for rule in policy.candidates], **parts)
    holding = next(i for i, (holds, _) in enumerate(alone) if holds)
    assert match is not None
    assert match.number == holding
    assert [columns[0] for _, *columns in match.notes] == [[f"r{i}"] for i in range(holding) if alone[i][0] is None]


@pytest.mark.parametrize(
    "source",
    [
        "request.headers['x-team'] == 'a'",
        "request.prompt_tokens / 2 > 4",
        "request.prompt_tokens + 1 > 4",
        "request.labels[0] == 'a'",
        "int(target.cost) == 0",
        "size(request.labels.filter(l, l == 'a')) == 1",
        "target.cost / 2.0 == 1.0",
        "1u < 2u",
    ],
)
def test_what_can_fail_or_differ_is_left_to_cel(source: str) -> None:
    assert compiled(source).plain is None


def test_integers_that_overflow_and_headers_that_lack_decide_nothing() -> None:
    scene = {"request": RequestFacts(prompt_tokens=2**62)}
    assert asked(compiled("request.prompt_tokens * 4 > 0"), **scene)[0] is None
    assert asked(compiled("request.headers['x-team'] == 'a'"), **scene)[0] is None
    assert asked(compiled("request.headers['x-team'] == 'a'"), request=RequestFacts(headers={"x-team": "a"}))[0]


@pytest.mark.parametrize("source", ["request.text.matches('secret')", "!request.text.matches('secret')"])
def test_text_that_is_no_unicode_passes_for_nothing(source: str) -> None:
    expression, scene = compiled(source), {"request": RequestFacts(text="a \ud83d b")}
    for tried in (expression, replace(expression, plain=None)):
        answer, why = asked(tried, **scene)
        assert answer is None
        assert "ud83d" not in why


def test_a_pattern_is_taken_from_the_request_and_what_is_wrong_with_it_is_not_repeated() -> None:
    expression = compiled("'secret'.matches(request.text)")
    assert asked(expression, request=RequestFacts(text="^s"))[0] is True
    answer, why = asked(expression, request=RequestFacts(text="(jane@example.com"))
    assert answer is None
    assert "jane" not in why


def test_what_is_read_is_known() -> None:
    found = compiled("request . text == 'a' && (target.cost < budget.left || now.hour > 3) // device.online")
    assert found.reads == {"request.text", "target.cost", "budget.left", "now.hour"}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("device.battery_pct < 3.0", "unknown field of device 'battery_pct'; did you mean 'battery_percent'"),
        ("target.local", "'target' means nothing here; budget, device, now, request do"),
        ("has(request.text)", "column 5: has() is for headers: 'request.text' is always there"),
        ("request_text == 'a'", "no name may begin as 'request_text' does"),
        ("request.labels.exists(now_x, true)", "no name may begin as 'now_x' does"),
        ("device", "'device' needs a field"),
    ],
)
def test_a_wrong_one_is_told_where(source: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(source, SCENE)
    assert said in caught.value.message


def test_what_was_asked_is_forgotten() -> None:
    expression = compiled("request.headers['a'] == 'b'")
    with Evaluator([expression]) as evaluator:
        evaluator.load("request", RequestFacts(headers={"a": "b"}))
        assert evaluator.holds(expression)
    with evaluator:
        assert evaluator.ask(expression)[0] is None
