"""From text to answer, reasoning and tool calls: the way text is cut never changes what comes out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreshore.edge import EngineOptions, Runtime
from foreshore.edge.grammar.grammar import Grammar
from foreshore.edge.parse import AnswerParser, Piece
from foreshore.edge.tools.formats import FORMATS, HERMES, TAGS, ToolFormat, tool_format
from foreshore.edge.tools.tools import Toolbox
from foreshore.edge.vocab import Vocab
from foreshore.errors import BadRequest
from tests.edge.bare_vocab import bare_vocab, quiet

Parsed = tuple[str, str, list[tuple[str, str]]]
ADD = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}
NAMES = ("add", "get-time")
ARGUMENTS = {"a": 1, "b": 'é "x" </tool_call> ]}'}
WRITTEN = json.dumps(ARGUMENTS, ensure_ascii=False)
BY_NAME = {form.name: form for form in FORMATS}


def box(form: ToolFormat) -> Toolbox:
    tools = [{"type": "function", "function": {"name": name, "parameters": ADD}} for name in NAMES]
    return Toolbox.of(form, tools)


def parse(pieces: list[str], **options: Any) -> Parsed:
    """Text, reasoning and calls, put together as a client would."""
    parser = AnswerParser(**options)
    out: list[Piece] = [*(parser.push(p) for p in pieces), parser.finish()]
    calls: list[tuple[str, str]] = []
    ids = set()
    for delta in (c for p in out for c in p.tool_calls):
        if delta.name is not None:
            assert delta.index == len(calls)
            ids.add(delta.id)
            calls.append((delta.name, ""))
        assert delta.index == len(calls) - 1
        calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    assert len(ids) == len(calls) == parser.calls
    return "".join(p.text for p in out), "".join(p.reasoning for p in out), calls


def cuts(text: str, places: list[int]) -> list[str]:
    borders = [0, *sorted(p % (len(text) + 1) for p in places), len(text)]
    return [text[a:b] for a, b in pairwise(borders)]


def everywhere(text: str, **options: Any) -> Parsed:
    """The result of `text`, which must be the same cut in two at each place, and letter by letter."""
    whole = parse([text], **options)
    assert parse(list(text), **options) == whole
    for at in range(len(text)):
        assert parse([text[:at], text[at:]], **options) == whole, text[:at]
    return whole


# What models of each family write: one call of add, then one of get-time.
R1 = "function<｜tool▁sep｜>{}\n```json\n{}\n```"
TWO: dict[str, list[str]] = {
    "hermes": [
        f'<tool_call>\n{{"name": "add", "arguments": {WRITTEN}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get-time", "arguments": {}}\n</tool_call>',
        f'<tool_call>{{"arguments": {WRITTEN}, "name": "add"}}</tool_call>'
        '<tool_call>{"name":"get-time","arguments":{}}',
        f'<tool_call>{{"type": "function", "function": {{"name": "add", "parameters": {WRITTEN}}}}}</tool_call>'
        '<tool_call>{"name": "get-time"}</tool_call>',
    ],
    "llama": [
        f'{{"name": "add", "parameters": {WRITTEN}}}; {{"name": "get-time", "parameters": {{}}}}',
        f'<|python_tag|>{{"name": "add", "parameters": {WRITTEN}}}; {{"name": "get-time", "parameters": {{}}}}',
        f'\n{{"type": "function", "name": "add", "parameters": {WRITTEN}}}\n\n'
        '{"name": "get-time", "parameters": {}}\n',
    ],
    "mistral": [
        f'[TOOL_CALLS][{{"name": "add", "arguments": {WRITTEN}}}, {{"name": "get-time", "arguments": {{}}}}]',
        f'[TOOL_CALLS] [{{"name": "add", "arguments": {WRITTEN}, "id": "abcdefghi"}},'
        ' {"name": "get-time", "arguments": {}, "id": "x"}]',
    ],
    "mistral-args": [
        f"[TOOL_CALLS]add[ARGS]{WRITTEN}[TOOL_CALLS]get-time[ARGS]{{}}",
        f"[TOOL_CALLS]add[CALL_ID]123456789[ARGS]{WRITTEN}[TOOL_CALLS]get-time[CALL_ID]a[ARGS]{{}}",
    ],
    "granite": [
        f'<|tool_call|>[{{"name": "add", "arguments": {WRITTEN}}}, {{"name": "get-time", "arguments": {{}}}}]',
        f'<tool_call> [ {{"name": "add", "arguments": {WRITTEN}}} , {{"name": "get-time", "arguments": {{}}}} ]',
    ],
    "phi": [
        f'<|tool_call|>[{{"name": "add", "arguments": {WRITTEN}}}, {{"name": "get-time", "arguments": {{}}}}]'
        "<|/tool_call|>",
    ],
    "nemotron": [
        f'<TOOLCALL>[{{"name": "add", "arguments": {WRITTEN}}}, {{"name": "get-time", "arguments": {{}}}}]</TOOLCALL>',
    ],
    "deepseek": [
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{WRITTEN}<｜tool▁call▁end｜>"
        "<｜tool▁call▁begin｜>get-time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ],
    "deepseek-r1": [
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{R1.format('add', WRITTEN)}<｜tool▁call▁end｜>\n"
        f"<｜tool▁call▁begin｜>{R1.format('get-time', '{}')}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ],
    "kimi": [
        f"<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{WRITTEN}<|tool_call_end|>"
        "<|tool_call_begin|>functions.get-time:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    ],
    "functionary": [f"<function=add>{WRITTEN}</function><function=get-time>{{}}</function>"],
    "qwen-coder": [
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n"
        + str(ARGUMENTS["b"])
        + "\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=get-time>\n</function>\n</tool_call>",
        f"<function=add>\n<parameter=a>1</parameter><parameter=b>{ARGUMENTS['b']}</function><function=get-time></function>",
    ],
    "glm": [
        "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n"
        '<arg_key>b</arg_key>\n<arg_value>é "x" ]}</arg_value>\n'
        "</tool_call>\n<tool_call>get-time\n</tool_call>",
    ],
}
CASES = [(name, text) for name, texts in TWO.items() for text in texts]


def test_every_format_has_its_examples() -> None:
    assert set(TWO) == set(BY_NAME)


@pytest.mark.parametrize(("name", "text"), CASES, ids=str)
def test_calls_are_read_wherever_they_are_cut(name: str, text: str) -> None:
    shown, reasoning, calls = everywhere(text, tools=box(BY_NAME[name]))
    wanted = dict(ARGUMENTS) if name != "glm" else {"a": 1, "b": 'é "x" ]}'}
    assert (shown.strip(), reasoning) == ("", "")
    assert [(n, json.loads(a)) for n, a in calls] == [("add", wanted), ("get-time", {})]


@pytest.mark.parametrize(("name", "text"), CASES, ids=str)
def test_one_call_alone_is_the_first_and_nothing_after_it(name: str, text: str) -> None:
    both = parse([text], tools=box(BY_NAME[name]))[2]
    shown, _, calls = everywhere(text + " and more", tools=box(BY_NAME[name]), one_call=True)
    assert (shown.strip(), calls) == ("", both[:1])


@pytest.mark.parametrize(("name", "text"), [case for case in CASES if case[0] != "llama" or "tag" in case[1]], ids=str)
def test_text_and_reasoning_before_a_call_are_told_apart(name: str, text: str) -> None:
    whole = "<think>Hm.</think>\n\nI add. \n" + text
    shown, reasoning, calls = parse([whole], tools=box(BY_NAME[name]))
    assert (shown.strip(), reasoning, [n for n, _ in calls]) == ("I add.", "Hm.", list(NAMES))
    assert parse(list(whole), tools=box(BY_NAME[name])) == (shown, reasoning, calls)


@pytest.mark.parametrize(("name", "text"), CASES, ids=str)
def test_without_tools_nothing_is_a_call(name: str, text: str) -> None:
    assert parse(list(text)) == (text, "", [])


@pytest.mark.parametrize(("name", "text"), CASES, ids=str)
def test_a_beginning_of_a_call_is_a_beginning_of_it_or_text(name: str, text: str) -> None:
    """An answer that ends early: all of it is shown, or its name is known and its arguments are what came of them."""
    tools = box(BY_NAME[name])
    for end in range(len(text)):
        shown, _, calls = parse([text[:end]], tools=tools)
        assert parse(list(text[:end]), tools=tools) == (shown, "", calls)
        if not calls:
            assert shown == text[:end]
        assert [n for n, _ in calls] == list(NAMES)[: len(calls)]


FORMS = st.sampled_from(FORMATS)
BITS = sorted({bit for text in (t for texts in TWO.values() for t in texts) for bit in (text[:12], text[-9:])})
FRAGMENTS = st.one_of(
    st.sampled_from([*sorted(TAGS), *BITS, *(t for texts in TWO.values() for t in texts)]),
    st.sampled_from(
        [
            *(
                "<think>",
                "</think>",
                "<th",
                "</",
                "<",
                ">",
                " ",
                "\n",
                "hello",
                "é",
                "😀",
                ";",
                ",",
                "[",
                "]",
                "{",
                "}",
            ),
            *('{"name": "add", "arguments": {"a": 1}}', '{"name": 3}', '{"name": "add", "arguments": "{}"}', '{"'),
            *(
                "<function=add>",
                "<parameter=a>",
                "add",
                "```",
                "[ARGS]",
                '{"city": "Bern"}',
                '{"name": "Eve", "age": 3}',
            ),
        ]
    ),
)


@settings(max_examples=400, deadline=None)
@given(
    FORMS, st.lists(FRAGMENTS, max_size=10), st.lists(st.integers(0, 900), max_size=12), st.booleans(), st.booleans()
)
def test_parsing_does_not_depend_on_the_chunks(
    form: ToolFormat, fragments: list[str], places: list[int], offered: bool, thinking: bool
) -> None:
    text = "".join(fragments)
    tools = box(form) if offered else None
    whole = parse([text], tools=tools, thinking=thinking)
    assert parse(cuts(text, places), tools=tools, thinking=thinking) == whole
    assert parse(list(text), tools=tools, thinking=thinking) == whole


@settings(max_examples=200, deadline=None)
@given(FORMS, st.text(alphabet='abn{}[]"<>:/=|\\ \n,;', max_size=60))
def test_text_that_holds_no_call_comes_out_as_it_was(form: ToolFormat, text: str) -> None:
    shown, reasoning, calls = parse(list(text), tools=box(form))
    assert (shown, reasoning, calls) == (text, "", [])


@given(st.text(alphabet="ab<>/think \n"))
def test_text_without_tags_passes_unchanged(text: str) -> None:
    if not text.lstrip().startswith("<think>"):
        assert parse(list(text)) == (text, "", [])


def test_reasoning_and_answer_are_told_apart() -> None:
    text = "<think>\nfive plus three\n</think>\n\nIt is 8."
    assert everywhere(text) == ("It is 8.", "five plus three", [])
    assert everywhere(text[8:], thinking=True) == ("It is 8.", "five plus three", [])


def test_reasoning_cut_off_by_the_limit_stays_reasoning() -> None:
    assert parse(["<think>five plus"]) == ("", "five plus", [])


NO_CALLS = [
    (HERMES, "a <tool_call>{nonsense}</tool_call> b"),
    (HERMES, '  <tool_call> {"name": 3} </tool_call>'),
    (HERMES, "<tool_call>"),
    (BY_NAME["llama"], '{"city": "Bern", "name": "add"}'),
    (BY_NAME["llama"], '{"name": "Eve", "parameters": {"a": 1}}'),
    (BY_NAME["llama"], '{"name": "add", "age": 3} and more'),
    (BY_NAME["llama"], '<|python_tag|>print("hello")'),
    (BY_NAME["llama"], 'Use {"name": "add", "parameters": {}} for that'),
    (BY_NAME["mistral"], "[TOOL_CALLS] are what I make"),
    (BY_NAME["qwen-coder"], "<tool_call>\n<func>add</func>"),
    (BY_NAME["functionary"], "<function=>{}"),
]


@pytest.mark.parametrize(("form", "text"), NO_CALLS, ids=lambda v: v.name if isinstance(v, ToolFormat) else v)
def test_what_is_no_call_after_all_is_given_out_unharmed(form: ToolFormat, text: str) -> None:
    assert everywhere(text, tools=box(form)) == (text, "", [])


def test_json_answers_are_not_held_back_longer_than_they_might_be_calls() -> None:
    parser = AnswerParser(tools=box(BY_NAME["llama"]))
    assert parser.push('{"na').text == ""
    assert parser.push('me": "Eve"').text == '{"name": "Eve"'
    assert parser.push(', "age').text == ', "age'


def test_arguments_are_streamed_as_they_come() -> None:
    parser = AnswerParser(tools=box(HERMES))
    assert not parser.push('<tool_call>{"name": "add", "argum')
    (begun,) = parser.push('ents": {"a": ').tool_calls
    assert (begun.name, begun.arguments) == ("add", '{"a": ')
    (more,) = parser.push("12").tool_calls
    assert (more.index, more.id, more.name, more.arguments) == (0, None, None, "12")
    assert parser.push("}}</tool").tool_calls[0].arguments == "}"
    assert not parser.push("_call>")
    assert parser.finish() == Piece()


def test_text_after_calls_is_shown() -> None:
    text = '<tool_call>{"name": "add", "arguments": {}}</tool_call>\nDone.'
    assert everywhere(text, tools=box(HERMES)) == ("Done.", "", [("add", "{}")])


SIGNS = {
    "hermes": "{{ '<tool_call>\\n' }}",
    "llama": "{{ '<|python_tag|>' }}",
    "mistral": "{{ '[TOOL_CALLS][' }}",
    "mistral-args": "{{ '[TOOL_CALLS]' + name + '[ARGS]' }}",
    "granite": "when needed answer with <|tool_call|> and a list",
    "phi": "<|tool|>{{ tools }}<|/tool|>",
    "nemotron": "<TOOLCALL>[",
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
    "deepseek-r1": "<｜tool▁calls▁begin｜>\n```json",
    "kimi": "<|tool_calls_section_begin|>",
    "functionary": "<|python_tag|> <function=",
    "qwen-coder": "<tool_call>\n<function=f>\n<parameter=p>",
    "glm": "<tool_call>f\n<arg_key>",
}


@pytest.mark.parametrize("name", list(BY_NAME))
def test_a_template_tells_the_format(name: str) -> None:
    assert tool_format("{% for m in messages %}" + SIGNS[name]).name == name
    assert tool_format("{{ messages }}") is HERMES


@pytest.fixture(scope="module")
def runtime(tiny: Path) -> Iterator[Runtime]:
    """A model that knows nothing, so that only a grammar shapes what it writes."""
    with Runtime(tiny, options=EngineOptions(threads=1)) as found:
        yield found


COLOUR = {"type": "string", "enum": ["red", "deep blue"]}
PAINT = {
    "type": "object",
    "properties": {"colour": COLOUR, "times": {"$ref": "#/$defs/few"}, "dry": {"type": "boolean"}},
    "required": ["colour", "times"],
    "$defs": {"few": {"type": "integer", "minimum": 1, "maximum": 12}},
}


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_required_call_is_written_in_the_models_own_format(runtime: Runtime, form: ToolFormat) -> None:
    functions = [
        {"name": "paint", "parameters": PAINT},
        {"name": "rest", "parameters": {"type": "object", "properties": {}}},
    ]
    tools = Toolbox.of(form, [{"type": "function", "function": f} for f in functions])
    named = {"type": "function", "function": {"name": "paint"}}
    for choice, names in (("required", {"paint", "rest"}), (named, {"paint"})):
        grammar = tools.grammar(choice)
        answers = [runtime.complete("x", grammar=grammar, seed=s, temperature=3, max_tokens=400) for s in range(3)]
        finished = [a.text for a in answers if a.finish_reason == "stop"]
        assert finished, "no draw came to an end"
        for text in finished:
            shown, _, calls = parse(list(text), tools=tools)
            assert (shown.strip(), len(calls)) == ("", 1), text
            name, arguments = calls[0][0], json.loads(calls[0][1])
            assert name in names
            if name == "paint":
                assert arguments["colour"] in COLOUR["enum"]
                assert arguments["times"] in range(1, 13)
                assert isinstance(arguments.get("dry", True), bool)


def follows(vocab: Vocab, grammar: str, text: str) -> bool:
    """Whether an answer may be `text`, written byte by byte."""
    native = Grammar(grammar, vocab)
    try:
        for token in vocab.tokenize(text, special=False):
            if not native.allows(token):
                return False
            native.accept(token)
        return native.allows(vocab.tokenize("<|end|>", special=True)[0])
    finally:
        native.close()


def strictly(name: str) -> str:
    """The grammar of a model that may call `add`, strictly, or `rest`."""
    add = {"type": "function", "function": {"name": "add", "parameters": ADD, "strict": True}}
    found = Toolbox.of(BY_NAME[name], [add, {"type": "function", "function": {"name": "rest"}}]).grammar("auto")
    assert found is not None
    return found


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_strict_tool_is_called_rightly_or_not_at_all(form: ToolFormat, tmp_path: Path) -> None:
    if form.name == "glm":
        before, after = "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>", "</arg_value>\n</tool_call>"
        good, bad, other = "1", "x", None
    elif form.name == "qwen-coder":
        before = "<tool_call>\n<function=add>\n<parameter=a>\n"
        good, bad, after, other = "1", "x", "\n</parameter>\n</function>\n</tool_call>", None
    else:
        before, after = form.spelled
        good, bad, other = '{"a": 1}', '{"a": "x"}', before.replace("{name}", "rest") + '{"any": []}' + after
        before = before.replace("{name}", "add")
    quiet()
    with bare_vocab(tmp_path, 400) as vocab:
        grammar = strictly(form.name)
        begin = "" if form.bare else "I see: a < b, <tool. "
        assert follows(vocab, grammar, f"{begin}{before}{good}{after}")
        assert not follows(vocab, grammar, f"{begin}{before}{bad}{after}")
        assert not follows(vocab, grammar, f"{begin}{form.opens[0]}nonsense")
        assert follows(vocab, grammar, "no call at all, <tool_cal or [TOOL")
        assert follows(vocab, grammar, "")
        assert other is None or follows(vocab, grammar, begin + other)
        assert form.bare or follows(vocab, grammar, f"{before}{good}{after} and {before}{good}{after}\n")


@pytest.mark.parametrize("choice", ["auto", "none", None])
def test_a_model_that_may_choose_is_not_bound(choice: str | None) -> None:
    assert box(HERMES).grammar(choice) is None


@pytest.mark.parametrize(
    ("parameters", "choice", "param"),
    [
        (ADD, {"type": "function", "function": {"name": "sub"}}, "tool_choice"),
        (ADD, {"type": "function"}, "tool_choice"),
        ({"properties": {"a": {"type": "string", "pattern": "a"}}}, "required", "tools"),
        ({"properties": [1]}, "required", "tools"),
        ([1], "required", "tools"),
    ],
)
def test_what_cannot_be_required_is_refused_by_name(parameters: Any, choice: Any, param: str) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": parameters}}]
    with pytest.raises(BadRequest) as caught:
        Toolbox.of(BY_NAME["qwen-coder"], tools).grammar(choice)
    assert caught.value.param == param
