"""The tools of one request, in the format that its model writes calls in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foreshore.edge.tools.formats import ToolFormat
from foreshore.edge.tools.grammar import call_grammar, free_grammar
from foreshore.errors import BadRequest

__all__ = ["Toolbox"]

_ANYTHING: Mapping[str, Any] = {"type": "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """`parameters` has each function's JSON schema by its name; of those in `strict` it holds whenever they are
    called."""

    form: ToolFormat
    parameters: Mapping[str, Mapping[str, Any]]
    strict: frozenset[str] = frozenset()

    @classmethod
    def of(cls, form: ToolFormat, tools: Sequence[Mapping[str, Any]]) -> Toolbox:
        """From `tools` in OpenAI's shape. Raises `BadRequest` for parameters that are no object."""
        parameters = {}
        for tool in tools:
            function = tool["function"]
            schema = function.get("parameters") or _ANYTHING
            if not isinstance(schema, Mapping):
                raise BadRequest(
                    f"the parameters of {function['name']!r} are {schema!r:.80}; they must be an object", param="tools"
                )
            parameters[function["name"]] = schema
        strict = frozenset(tool["function"]["name"] for tool in tools if tool["function"].get("strict"))
        return cls(form=form, parameters=parameters, strict=strict)

    def grammar(self, choice: str | Mapping[str, Any] | None) -> str | None:
        """A grammar that makes the model call a tool, or holds its calls to strict schemas; `None` where neither is
        asked for.

        `choice` is OpenAI's `tool_choice`. Raises `BadRequest` for a function that is not there.
        """
        if choice == "none" or (choice in (None, "auto") and not self.strict):
            return None
        if choice in (None, "auto"):
            held = {name: schema if name in self.strict else _ANYTHING for name, schema in self.parameters.items()}
            return free_grammar(self.form, held)
        name = None if choice == "required" else _named(choice)
        wanted = {n: schema for n, schema in self.parameters.items() if name in (None, n)}
        if not wanted:
            raise BadRequest(f"tool_choice is {choice!r}, but no such tool is given", param="tool_choice")
        return call_grammar(self.form, wanted)


def _named(choice: Any) -> str:
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise BadRequest(f"tool_choice is {choice!r}", hint="auto, none, required or a function", param="tool_choice")
    return name
