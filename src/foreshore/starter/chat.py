"""The starters' chat format, as a Jinja template for the model folder and as the text a training example becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from foreshore.starter.tasks import Example

__all__ = ["ADDED_TOKENS", "END", "PAD", "START", "TEMPLATE", "prompt", "target"]

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
ADDED_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
TOOL_HINT = 'To use one, answer <tool_call>{"name": ..., "arguments": {...}}</tool_call>.'

TEMPLATE = """\
{%- set first = messages[0] %}
{%- if tools or first.role == 'system' %}
{{- '<|im_start|>system\\n' }}
{%- if first.role == 'system' %}{{- first.content }}{%- endif %}
{%- if tools %}
{{- '\\n\\nTools:' if first.role == 'system' else 'Tools:' }}
{%- for tool in tools %}{{- '\\n' + (tool.function | tojson) }}{%- endfor %}
{{- '\\nTOOL_HINT' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- if message.content %}{{- message.content.split('</think>')[-1] }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>{"name": ' + (call.function.name | tojson) + ', "arguments": ' }}
{{- call.function.arguments if call.function.arguments is string else (call.function.arguments | tojson) }}
{{- '}</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role != 'system' or not loop.first %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
""".replace("TOOL_HINT", TOOL_HINT)


def prompt(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """What `TEMPLATE` renders with a generation prompt (a test holds the two equal), but fast enough to train on."""
    first = messages[0]
    text = ""
    if tools or first["role"] == "system":
        system = first["content"] if first["role"] == "system" else ""
        if tools:
            listed = "".join("\n" + json.dumps(tool["function"]) for tool in tools)
            system += f"{chr(10) * 2 if system else ''}Tools:{listed}\n{TOOL_HINT}"
        text += _turn("system", system)
    rest = messages[1:] if first["role"] == "system" else messages
    return text + "".join(_turn(m["role"], _content(m)) for m in rest) + f"{START}assistant\n"


def target(example: Example, *, reasons: bool) -> str:
    """What the assistant should write, end of turn included."""
    if example.call is not None:
        return f"{_call(example.call['name'], json.dumps(example.call['arguments']))}{END}"
    thought = f"<think>{example.reasoning}</think>" if reasons and example.reasoning else ""
    return f"{thought}{example.answer}{END}"


def _turn(role: str, content: str) -> str:
    return f"{START}{role}\n{content}{END}\n"


def _content(message: Mapping[str, Any]) -> str:
    calls = (call["function"] for call in message.get("tool_calls") or ())
    return str(message["content"]) + "".join(_call(c["name"], c["arguments"]) for c in calls)


def _call(name: str, arguments: str) -> str:
    return f'<tool_call>{{"name": {json.dumps(name)}, "arguments": {arguments}}}</tool_call>'
