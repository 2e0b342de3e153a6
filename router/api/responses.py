"""OpenAI's Responses API, without state: nothing is stored, so the whole input comes with each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from foreshore.errors import BadRequest
from foreshore.router.api.door import Frame
from foreshore.router.api.openai import EXTRA, check_format, check_tools
from foreshore.router.api.responses_events import ResponseEvents
from foreshore.router.fields import HARMLESS, Count, Generation, Part
from foreshore.router.fields import Text as AnyText
from foreshore.types import Message, Request, Sampling, Task

__all__ = ["ResponsesBody"]

_LOGPROBS = "message.output_text.logprobs"
_STATEFUL = ("previous_response_id", "conversation", "background", "store")


class Format(BaseModel):
    """As in chat, but flat: `name`, `schema` and `strict` stand beside `type`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text", "json_object", "json_schema"]
    name: StrictStr | None = None
    description: StrictStr | None = None
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: StrictBool | None = None


class Text(Part):
    format: Format | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Part):
    effort: StrictStr | None = None


class ResponseStreamOptions(Part):
    include_obfuscation: StrictBool | None = None  # padding against traffic analysis; none is added


class ResponsesBody(Generation):
    task: ClassVar[Task] = "chat"
    extras: ClassVar[frozenset[str]] = EXTRA | {"parallel_tool_calls", "thinking", "chat_template_kwargs"}
    harmless: ClassVar[frozenset[str]] = HARMLESS - {"store"}

    input: AnyText | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    instructions: StrictStr | None = None
    max_output_tokens: Count | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=128)
    tool_choice: StrictStr | dict[str, Any] | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    truncation: Literal["disabled"] | None = None
    stream_options: ResponseStreamOptions | None = None
    store: Literal[False] | None = None
    background: Literal[False] | None = None
    previous_response_id: None = None
    conversation: None = None

    @model_validator(mode="before")
    @classmethod
    def _stateless(cls, raw: Any) -> Any:
        found = next((name for name in _STATEFUL if raw.get(name)), None)
        if found is not None:
            raise BadRequest(f"{found}: nothing is stored here", hint="send the whole input each time", param=found)
        return raw

    def encoder(self, frame: Frame) -> ResponseEvents:
        return ResponseEvents(frame, self._echo())

    def request(self, raw: Mapping[str, Any]) -> Request:
        tools, choice = [_tool(t, i) for i, t in enumerate(self.tools or ())], _choice(self.tool_choice)
        check_tools(tools, choice)
        form = self.text.format if self.text is not None else None
        response_format = None if form is None else _format(form)
        check_format(response_format)
        return Request(
            task="chat",
            model=self.model,
            messages=self._messages(),
            tools=tuple(tools),
            tool_choice=choice,
            response_format=response_format,
            sampling=Sampling(max_tokens=self.max_output_tokens, logprobs=self._logprobs(), **self.drawing()),
            deterministic=bool(self.deterministic),
            adapter=self.adapter,
            extra=self.extra(),
        )

    def extra(self) -> dict[str, Any]:
        effort = self.reasoning.effort if self.reasoning is not None else None
        verbosity = self.text.verbosity if self.text is not None else None
        named = {"reasoning_effort": effort, "verbosity": verbosity}
        return {**super().extra(), **{k: v for k, v in named.items() if v is not None}}

    def _messages(self) -> tuple[Message, ...]:
        head: list[dict[str, Any]] = []
        if self.instructions:
            head.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return (*head, {"role": "user", "content": self.input})
        return (*head, *_messages(self.input))

    def _logprobs(self) -> int | None:
        asked = self.top_logprobs is not None or _LOGPROBS in (self.include or ())
        return (self.top_logprobs or 0) if asked else None

    def _echo(self) -> dict[str, Any]:
        """What an answer repeats of its request."""
        form = self.text.format if self.text is not None else None
        shown = {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True)
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": (self.model_extra or {}).get("metadata") or {},
            "parallel_tool_calls": (self.model_extra or {}).get("parallel_tool_calls") is not False,
            "reasoning": {"effort": self.reasoning.effort if self.reasoning is not None else None, "summary": None},
            "temperature": self.temperature,
            "text": {"format": shown},
            "tool_choice": self.tool_choice or "auto",
            "tools": [{"strict": None, "parameters": None, **tool} for tool in self.tools or ()],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": self.top_p,
            "truncation": "disabled",
        }


def _tool(tool: Mapping[str, Any], index: int) -> dict[str, Any]:
    """A function in chat's shape; tools that OpenAI runs itself are refused."""
    if tool.get("type") != "function":
        kind = f"{tool.get('type')!r:.40}"
        raise BadRequest(f"tools.{index} is of type {kind}; only functions are honoured", param=f"tools.{index}.type")
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type" and v is not None}}


def _choice(choice: str | Mapping[str, Any] | None) -> str | Mapping[str, Any] | None:
    if not isinstance(choice, Mapping):
        return choice
    if choice.get("type") != "function" or not isinstance(choice.get("name"), str):
        raise BadRequest(f"tool_choice of type {choice.get('type')!r:.40} is not honoured", param="tool_choice")
    return {"type": "function", "function": {"name": choice["name"]}}


def _format(form: Format) -> dict[str, Any]:
    if form.type != "json_schema":
        return {"type": form.type}
    if form.json_schema is None or not form.name:
        raise BadRequest("text.format needs a name and a schema", param="text.format")
    schema = {"name": form.name, "description": form.description, "strict": form.strict, "schema": form.json_schema}
    return {"type": "json_schema", "json_schema": {k: v for k, v in schema.items() if v is not None}}


def _messages(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Chat's messages. What one turn of the model is here several items becomes one message."""
    messages: list[dict[str, Any]] = []
    for i, item in enumerate(items):
        kind = item.get("type", "message")
        if not isinstance(kind, str) or kind not in _ITEMS:
            raise _wrong(f"input.{i}.type", f"is {kind!r:.40}, which is not honoured")
        message = _ITEMS[kind](item, f"input.{i}")
        messages.append(_joined(messages.pop(), message) if messages and _goes_on(messages[-1], message) else message)
    return messages


def _joined(last: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    calls = [*last.get("tool_calls", []), *new.get("tool_calls", [])]
    return {**last, **new, **({"tool_calls": calls} if calls else {})}


def _goes_on(last: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether `new` belongs to the same turn: reasoning, then text, then calls."""
    if last["role"] != "assistant" or new["role"] != "assistant" or "reasoning_content" in new:
        return False
    return "tool_calls" in new or ("content" not in last and "tool_calls" not in last)


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant", "system", "developer"):
        raise _wrong(f"{where}.role", f"is {role!r:.40}")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list):
        raise _wrong(f"{where}.content", "must be text or a list of parts")
    parts = [_part(part, f"{where}.content.{j}") for j, part in enumerate(content)]
    return {"role": role, "content": parts}


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("input_text", "output_text", "text", "refusal"):
        text = part.get("refusal" if kind == "refusal" else "text")
        if isinstance(text, str):
            return {"type": "text", "text": text}
    elif kind == "input_image":
        if isinstance(part.get("image_url"), str):
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    else:
        raise _wrong(f"{where}.type", f"is {kind!r:.40}, which is not honoured")
    raise _wrong(where, "has no text" if kind != "input_image" else "has no image_url")


def _call(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    call_id, name, arguments = (item.get(key) for key in ("call_id", "name", "arguments"))
    if not (isinstance(call_id, str) and isinstance(name, str) and isinstance(arguments, str)):
        raise _wrong(where, "needs call_id, name and arguments, all text")
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call]}


def _output(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(item.get("call_id"), str):
        raise _wrong(f"{where}.call_id", "is missing")
    output = item.get("output")
    if isinstance(output, list):
        content: Any = [_part(part, f"{where}.output.{j}") for j, part in enumerate(output)]
    elif isinstance(output, str):
        content = output
    else:
        raise _wrong(f"{where}.output", "must be text or a list of parts")
    return {"role": "tool", "tool_call_id": item["call_id"], "content": content}


def _reasoning(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Reasoning of an earlier answer of ours, as templates read it. Encrypted reasoning is another server's."""
    parts = item.get("content") or []
    if not isinstance(parts, list) or not all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in parts):
        raise _wrong(f"{where}.content", "must be a list of parts with text")
    if item.get("encrypted_content"):
        raise _wrong(f"{where}.encrypted_content", "cannot be read here")
    return {"role": "assistant", "reasoning_content": "\n".join(p["text"] for p in parts)}


_ITEMS = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "reasoning": _reasoning,
}


def _wrong(where: str, what: str) -> BadRequest:
    return BadRequest(f"{where} {what}", param=where)
