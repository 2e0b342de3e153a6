"""Types of expressions, found without running them."""

from __future__ import annotations

import cel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.router.lint.types import check_types
from foreshore.router.rules import OF_TARGETS, SCENE
from foreshore.router.syntax import MAX_DEPTH, Beyond, Node, parse, walk

REQUEST = {"prompt_tokens": 3, "deadline_s": 1.5, "private": True, "tenant": "hr", "text": "ab"}
REQUEST |= {"labels": ["email"], "headers": {"x-a": "b"}}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("request.prompt_tokens > 'a'", "an int and a string have no order"),
        ("request.private && request.tenant", "compare it, as in != ''"),
        ("request.private ? request.deadline_s + 1 > 2.0 : true", "'+' does not take a double and an int; write 1.0"),
        ("request.deadline_s % 2.0 == 0.0", "'%' does not take a double and a double"),
        ("'a' in request.text", "write .contains()"),
        ("request.labels.contains('email')", "write 'x' in ..."),
        ("request.labels.exists(l, l > 3)", "a string and an int have no order"),
        ("request.labels.exists(l)", "takes a name for the item"),
        ("request.headers['x-a'] == 3", "compares a string with an int: never equal"),
        ("request.headers[3] == 'a'", "the keys are strings"),
        ("request.private == 'yes'", "never equal"),
        ("request.tenant in [1, 2]", "looks for a string among ints"),
        ("request.txt == 'a'", "did you mean 'text'?"),
        ("reqest.text == 'a'", "did you mean 'request'?"),
        ("request", "needs a field"),
        ("request.prompt_tokens", "gives an int, and a condition must give true or false"),
        ("!request.prompt_tokens", "'!' negates a bool"),
        ("-request.tenant == 'a'", "a string has no negative"),
        ("request.text.matches('(')", "no regular expression"),
        ("request.text.matches(3)", "takes a string and a string"),
        ("request.tenant.size", "has no fields"),
        ("request.text[0] == 'a'", "cannot be indexed"),
        ("size(request.prompt_tokens) > 1", "size() is of a string, a list or a map"),
        ("min(1, 2) == 1", "there is no function 'min'"),
        ("has(request.headers['x-a'])", "has() takes one field"),
        ("target.local", "'target' means nothing here"),
        ("true ? 1 : 'a'", "gives an int or a string"),
        ("false && request.prompt_tokens > 'a'", "have no order"),
    ],
)
def test_a_mistake_is_found_in_any_branch(source: str, said: str) -> None:
    (mistake, *_) = check_types(source, where="f: rule 'r', when", sees=SCENE)
    assert said in mistake.message
    assert str(mistake).startswith("f: rule 'r', when, line 1, column ")


@pytest.mark.parametrize(
    "source",
    [
        "request.prompt_tokens > 2.5 && 2 < request.deadline_s",
        "request.labels.exists(l, l.startsWith('e')) || request.labels.filter(l, l != 'a').size() == 1",
        "request.headers.all(k, k != 'x-b') && has(request.headers.a) == false",
        "'x-a' in request.headers && request.headers['x-a'].matches(r'^\\w+$')",
        "double(request.prompt_tokens) / 2.0 > 1.0 && string(request.prompt_tokens) == '3'",
        "request.labels.map(l, size(l)) == [5] && request.labels[0] in ['email', 'card']",
        "duration('5s') > duration('1s') && timestamp('2026-01-01T00:00:00Z').getFullYear() == 2026",
        "now.hour >= 22 || device.battery_percent < 20 || budget.left < 1.0 // at night",
        '''request.tenant == """hr""" ? !request.private : request.private == true''',
        "0x1F > 7 && 7u > 3u && -5 < .5 && 1e3 == 1000.0",
    ],
)
def test_what_the_engine_takes_has_no_mistake(source: str) -> None:
    assert check_types(source, where="f", sees=OF_TARGETS) == []
    scene = {"request": REQUEST, "now": {"hour": 3}, "device": {"battery_percent": 3.0}, "budget": {"left": 1.0}}
    assert isinstance(cel.evaluate(source, scene), bool)


def test_several_mistakes_are_all_named_with_their_places() -> None:
    found = check_types("request.private > 1 ||\n  request.txt == 'a'", where="f", sees=SCENE)
    assert [(m.line, m.column) for m in found] == [(1, 1), (2, 3)]


def test_what_cannot_be_read_is_said_and_not_guessed() -> None:
    deep = "(" * (MAX_DEPTH + 1) + "true" + ")" * (MAX_DEPTH + 1)
    (mistake,) = check_types(deep, where="f")
    assert "nested deeper" in mistake.message
    for source in ("", "request.", "1 +", "a b", "'open", "@"):
        with pytest.raises(Beyond):
            parse(source)


def test_a_long_chain_is_no_deep_one() -> None:
    assert check_types(" || ".join(["request.private"] * 200), where="f") == []


def expressions() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(("1", "7", "2.5", "'a'", "true", "x", "x.y", "f(1)", "[1, 2]", "-1"))

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        signs = st.sampled_from(("+", "-", "*", "==", "<", "&&", "||", "in"))
        return st.one_of(
            st.tuples(inner, signs, inner).map(" ".join),
            inner.map(lambda e: f"({e})"),
            inner.map(lambda e: f"!({e})"),
            st.tuples(inner, inner, inner).map(lambda p: f"({p[0]}) ? ({p[1]}) : ({p[2]})"),
        )

    return st.recursive(leaves, larger, max_leaves=8)


@given(expressions())
def test_a_tree_reads_as_its_text_with_every_parenthesis_written(source: str) -> None:
    cel.compile(source)
    again = parse(_written(parse(source)))
    assert _shape(again) == _shape(parse(source))
    for node in walk(parse(source)):
        assert _shape(parse(source[node.start : node.end])) == _shape(node)


def _written(node: Node) -> str:
    parts = [f"({_written(part)})" for part in node.parts]
    if node.kind == "binary":
        return f" {node.text} ".join(parts)
    if node.kind == "ternary":
        return f"{parts[0]} ? {parts[1]} : {parts[2]}"
    if node.kind == "unary":
        return node.text + parts[0]
    if node.kind == "member":
        return f"{_written(node.parts[0])}.{node.text}"
    if node.kind == "list":
        return f"[{', '.join(parts)}]"
    return f"{node.text}({', '.join(parts)})" if node.kind == "call" else node.text


def _shape(node: Node) -> tuple[object, ...]:
    return node.kind, node.text, tuple(map(_shape, node.parts))
