"""How models write tool calls: one format for each family, told by the chat template that the model came with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foreshore.edge.tools.steps import BLANK, NAME, TEXT

__all__ = ["FORMATS", "HERMES", "TAGS", "ToolFormat", "tool_format"]

Pattern = tuple[str | tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """`opens` begin a block of calls. Then, unless it is written as `tags`, come:

    `enter`; a call, which is one of `heads` up to its arguments, the arguments, and `tail`; further calls after
    `again`; and `leave`. Each is a choice of patterns (`steps`); what may be left out is a choice of none.
    `spelled` is how a forced call is written: what stands before it, between name and arguments, after it, with
    `{name}` for the name.
    """

    name: str
    opens: tuple[str, ...]
    enter: tuple[Pattern, ...] = ((),)
    heads: tuple[Pattern, ...] = ()
    tail: tuple[Pattern, ...] = ()
    again: tuple[Pattern, ...] = ()
    leave: tuple[Pattern, ...] = ()
    objects: bool = False  # calls are JSON objects, whose keys may come in any order
    bare: bool = False  # a call may begin an answer without a tag, so its name must be that of a tool
    tags: Literal["qwen", "glm"] | None = None
    spelled: tuple[str, str] = ("", "")

    @property
    def shown(self) -> frozenset[str]:
        """Tags of the format that may be control tokens, which answers keep for the parser."""
        patterns = (*self.enter, *self.heads, *self.tail, *self.again, *self.leave)
        steps = [s for p in patterns for step in p for s in ((step,) if isinstance(step, str) else step)]
        texts = {tag for text in (*self.opens, *steps) for tag in _TAG.findall(text)}
        return frozenset(texts)


_TAG = re.compile(r"<[|｜]?/?[\w▁]+[|｜]?>|<\|/\w+\|>|\[[A-Z_]{4,}\]|</\w+>")
_ARGUMENTS = ('"arguments"', '"parameters"')
_OBJECT: Pattern = ("{", BLANK, '"name"', BLANK, ":", BLANK, TEXT, BLANK, ",", BLANK, _ARGUMENTS, BLANK, ":", BLANK)
_OBJECT_END: tuple[Pattern, ...] = (
    (BLANK, "}"),
    (BLANK, ",", BLANK, '"id"', BLANK, ":", BLANK, TEXT, BLANK, "}"),
)
_LISTED: tuple[Pattern, ...] = ((BLANK, "[", BLANK),)


def _list(name: str, opens: tuple[str, ...], close: str = "") -> ToolFormat:
    """A JSON list of objects after a tag."""
    return ToolFormat(
        name=name,
        opens=opens,
        enter=(*_LISTED, (BLANK,)),
        heads=(_OBJECT,),
        tail=_OBJECT_END,
        again=((BLANK, ",", BLANK),),
        leave=((BLANK, "]", BLANK, close), (BLANK, close), (BLANK, "]"), ()) if close else ((BLANK, "]"), ()),
        objects=True,
        spelled=(f'{opens[0]}[{{"name": "{{name}}", "arguments": ', f"}}]{close}"),
    )


def _deepseek(name: str, before: str, after: str, heads: tuple[Pattern, ...]) -> ToolFormat:
    opened, ended = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
    one, done = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
    return ToolFormat(
        name=name,
        opens=(opened,),
        enter=((BLANK, one, BLANK), (BLANK,)),
        heads=heads,
        tail=((BLANK, "```", BLANK, done), (BLANK, done)),
        again=((BLANK, one, BLANK),),
        leave=((BLANK, ended),),
        spelled=(f"{opened}{one}{before}", f"{after}{done}{ended}"),
    )


_R1_HEAD: Pattern = ("function<｜tool▁sep｜>", NAME, BLANK, "```json", BLANK)
_V3_HEAD: Pattern = (NAME, "<｜tool▁sep｜>", BLANK)

HERMES = ToolFormat(
    name="hermes",  # Hermes 2 and 3, Qwen 2.5 and 3, Granite 4
    opens=("<tool_call>",),
    enter=((BLANK,),),
    heads=(_OBJECT,),
    tail=_OBJECT_END,
    leave=((BLANK, "</tool_call>"),),
    objects=True,
    spelled=('<tool_call>\n{"name": "{name}", "arguments": ', "}\n</tool_call>"),
)
LLAMA = ToolFormat(
    name="llama",  # Llama 3.1, 3.2, 3.3
    opens=("<|python_tag|>",),
    enter=((BLANK,),),
    heads=(_OBJECT,),
    tail=_OBJECT_END,
    again=((BLANK, ";", BLANK),),
    leave=((),),
    objects=True,
    bare=True,
    spelled=('{"name": "{name}", "parameters": ', "}"),
)
MISTRAL = ToolFormat(
    name="mistral",  # Mistral 7B v0.3, Nemo, Large
    opens=("[TOOL_CALLS]",),
    enter=(*_LISTED, (BLANK,)),
    heads=(_OBJECT, (NAME, "[ARGS]", BLANK), (NAME, "[CALL_ID]", NAME, "[ARGS]", BLANK)),
    tail=(*_OBJECT_END, ()),
    again=((BLANK, ",", BLANK), (BLANK, "[TOOL_CALLS]", BLANK)),
    leave=((BLANK, "]"), ()),
    objects=True,
    spelled=('[TOOL_CALLS][{"name": "{name}", "arguments": ', "}]"),
)
MISTRAL_ARGS = ToolFormat(
    name="mistral-args",  # Mistral Small 3.2, Devstral, Ministral 3
    opens=MISTRAL.opens,
    enter=MISTRAL.enter,
    heads=MISTRAL.heads,
    tail=MISTRAL.tail,
    again=MISTRAL.again,
    leave=MISTRAL.leave,
    objects=True,
    spelled=("[TOOL_CALLS]{name}[ARGS]", ""),
)
GRANITE = _list("granite", ("<|tool_call|>", "<tool_call>"))  # Granite 3
PHI = _list("phi", ("<|tool_call|>",), "<|/tool_call|>")  # Phi-4-mini
NEMOTRON = _list("nemotron", ("<TOOLCALL>",), "</TOOLCALL>")  # Nemotron Nano
DEEPSEEK_R1 = _deepseek("deepseek-r1", "function<｜tool▁sep｜>{name}\n```json\n", "\n```", (_R1_HEAD, _V3_HEAD))
DEEPSEEK = _deepseek("deepseek", "{name}<｜tool▁sep｜>", "", (_R1_HEAD, _V3_HEAD))  # V3.1
KIMI = ToolFormat(
    name="kimi",  # Kimi K2
    opens=("<|tool_calls_section_begin|>",),
    enter=((BLANK, "<|tool_call_begin|>", BLANK),),
    heads=((NAME, BLANK, "<|tool_call_argument_begin|>", BLANK),),
    tail=((BLANK, "<|tool_call_end|>"),),
    again=((BLANK, "<|tool_call_begin|>", BLANK),),
    leave=((BLANK, "<|tool_calls_section_end|>"),),
    spelled=(
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>",
        "<|tool_call_end|><|tool_calls_section_end|>",
    ),
)
FUNCTIONARY = ToolFormat(
    name="functionary",  # Functionary 3.1
    opens=("<function=",),
    heads=((NAME, ">", BLANK),),
    tail=((BLANK, "</function>"),),
    leave=((),),
    spelled=("<function={name}>", "</function>"),
)
QWEN_CODER = ToolFormat(name="qwen-coder", opens=("<tool_call>", "<function="), tags="qwen")  # Qwen3-Coder, Qwen 3.5
GLM = ToolFormat(name="glm", opens=("<tool_call>",), tags="glm")  # GLM 4.5 and later

FORMATS = (
    HERMES,
    LLAMA,
    MISTRAL,
    MISTRAL_ARGS,
    GRANITE,
    PHI,
    NEMOTRON,
    DEEPSEEK,
    DEEPSEEK_R1,
    KIMI,
    FUNCTIONARY,
    QWEN_CODER,
    GLM,
)
_GLM_TAGS = {"<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"}
TAGS = frozenset[str]().union(*(f.shown for f in FORMATS)) | _GLM_TAGS

# What must stand in a template, all of it, for a format; the first that fits is taken.
_SIGNS: Sequence[tuple[tuple[str, ...], ToolFormat]] = (
    (("<｜tool▁calls▁begin｜>", "```json"), DEEPSEEK_R1),
    (("<｜tool▁calls▁begin｜>",), DEEPSEEK),
    (("<|tool_calls_section_begin|>",), KIMI),
    (("[TOOL_CALLS]", "[ARGS]"), MISTRAL_ARGS),
    (("[TOOL_CALLS]",), MISTRAL),
    (("<function=", "<parameter="), QWEN_CODER),
    (("<function=", "<|python_tag|>"), FUNCTIONARY),
    (("<|python_tag|>",), LLAMA),
    (('{"name": function name, "parameters":',), LLAMA),
    (("<arg_key>",), GLM),
    (("<|tool_call|>",), GRANITE),
    (("<|tool|>",), PHI),
    (("<TOOLCALL>",), NEMOTRON),
)


def tool_format(template: str) -> ToolFormat:
    """The format that a chat template asks its model for; Hermes's, which most have learned, where it shows none."""
    return next((form for signs, form in _SIGNS if all(sign in template for sign in signs)), HERMES)
