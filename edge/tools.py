"""A grammar that makes the model call a tool, for `tool_choice` "required" or one function by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foreshore.edge.json_schema import schema_grammar
from foreshore.edge.parse import CLOSE_CALL, OPEN_CALL
from foreshore.errors import BadRequest

__all__ = ["tool_grammar"]


def tool_grammar(tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any] | None) -> str | None:
    """`None` where the model may choose for itself. Raises `BadRequest` for a function that is not among `tools`."""
    if choice in (None, "auto", "none"):
        return None
    name = None if choice == "required" else _named(choice)
    functions = [t["function"] for t in tools if name in (None, t["function"]["name"])]
    if not functions:
        raise BadRequest(f"tool_choice is {choice!r}, but no such tool is given", param="tool_choice")
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": f["name"]}, "arguments": f.get("parameters") or {"type": "object"}},
            "required": ["name", "arguments"],
        }
        for f in functions
    ]
    grammar = schema_grammar({"anyOf": calls}).replace("root ::=", "call ::=", 1)
    return f'root ::= "{OPEN_CALL}" "\\n"? call "\\n"? "{CLOSE_CALL}"\n{grammar}'


def _named(choice: Any) -> str:
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise BadRequest(f"tool_choice is {choice!r}", hint="auto, none, required or a function", param="tool_choice")
    return name
