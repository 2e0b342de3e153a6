"""Grammars that make a model call a tool, in its own format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from foreshore.edge.grammar.free_text import free_rules
from foreshore.edge.grammar.gbnf import literal
from foreshore.edge.grammar.json_schema import schema_rules
from foreshore.edge.tools.formats import ToolFormat
from foreshore.errors import BadRequest

__all__ = ["call_grammar", "free_grammar"]

_NARROWS = frozenset({"pattern", "format", "minLength", "maxLength"})
_FREE_TEXT = "[^<]+"  # between tags, where text stands as it is: what begins no tag


def call_grammar(form: ToolFormat, tools: Mapping[str, Mapping[str, Any]]) -> str:
    """One call of one of `tools`, which has each function's JSON schema by its name."""
    if form.tags is not None:
        return _tagged(form, tools)
    before, after = form.spelled
    roots, rules = schema_rules(list(tools.values()))
    calls = []
    for name, root in zip(tools, roots, strict=True):
        written = json.dumps(name, ensure_ascii=False)[1:-1] if form.objects else name
        calls.append(f"{literal(before.replace('{name}', written))} {root} {literal(after)}")
    return f"root ::= {' | '.join(calls)}\n{rules}"


def free_grammar(form: ToolFormat, tools: Mapping[str, Mapping[str, Any]]) -> str:
    """Text, and in it any number of calls of `tools`, each as `call_grammar` has it.

    Where a call may begin an answer without a tag, an answer that begins with a brace is one.
    """
    calls = call_grammar(form, tools).replace("root ::=", "call ::=", 1)
    rules = free_rules(form.opens, None if form.bare else "call")
    # Without its tag a call begins at the first brace; `free1` is where the tag's first letter leads.
    root = '[ \\n]* (call | [^{< \\n] free0 | "<" free1)?' if form.bare else "free0"
    return "\n".join([f"root ::= {root}", *(f"{name} ::= {body}" for name, body in rules.items()), calls])


def _tagged(form: ToolFormat, tools: Mapping[str, Mapping[str, Any]]) -> str:
    """Each parameter between tags of its own: text as it is, all else as JSON."""
    parameters = [(tool, key, schema) for tool, whole in tools.items() for key, schema in _parameters(tool, whole)]
    roots, rules = schema_rules([schema for _, _, schema in parameters])
    written: dict[str, list[str]] = {tool: [] for tool in tools}
    for (tool, key, schema), root in zip(parameters, roots, strict=True):
        before, after = _around(form, key)
        value = _text(tool, key, schema) if schema.get("type") == "string" else root
        optional = "" if key in tools[tool].get("required", ()) else "?"
        written[tool].append(f"({literal(before)} {value} {literal(after)}){optional}")
    calls = [
        f"{literal(_opened(form, tool))} {' '.join(parts)} {literal(_closed(form))}" for tool, parts in written.items()
    ]
    return f"root ::= {' | '.join(calls)}\n{rules}"


def _text(tool: str, key: str, schema: Mapping[str, Any]) -> str:
    """Text stands between the tags without quotes, so that a schema's rule for JSON strings does not fit it."""
    narrowed = sorted(_NARROWS & set(schema))
    if narrowed:
        raise BadRequest(
            f"{narrowed[0]!r} of parameter {key!r} of {tool!r} cannot be enforced in this model's format of calls",
            hint="leave it out, or let the model choose (tool_choice auto, and not strict)",
            param="tools",
        )
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return f"({' | '.join(literal(str(value)) for value in values)})" if values else _FREE_TEXT


def _parameters(tool: str, whole: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each with the definitions that it may refer to."""
    properties = whole.get("properties", {})
    if not isinstance(properties, Mapping) or not all(isinstance(p, Mapping) for p in properties.values()):
        raise BadRequest(f"the parameters of {tool!r} have properties {properties!r:.80}", param="tools")
    shared = {key: whole[key] for key in ("$defs", "definitions") if key in whole}
    return [(str(key), {**shared, **schema}) for key, schema in properties.items()]


def _around(form: ToolFormat, key: str) -> tuple[str, str]:
    if form.tags == "glm":
        return f"<arg_key>{key}</arg_key>\n<arg_value>", "</arg_value>\n"
    return f"<parameter={key}>\n", "\n</parameter>\n"


def _opened(form: ToolFormat, name: str) -> str:
    return f"<tool_call>{name}\n" if form.tags == "glm" else f"<tool_call>\n<function={name}>\n"


def _closed(form: ToolFormat) -> str:
    return "</tool_call>" if form.tags == "glm" else "</function>\n</tool_call>"
