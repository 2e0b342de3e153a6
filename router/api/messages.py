"""Anthropic's Messages API: text, images, tools and thinking, turned into chat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from foreshore.errors import BadRequest
from foreshore.router.api.door import Frame
from foreshore.router.api.messages_events import MessageEvents
from foreshore.router.api.openai import check_tools
from foreshore.router.api.tokens import Counted
from foreshore.router.fields import BaseBody, Count, Generation, Number, Part
from foreshore.types import Message, Request, Sampling, Task

__all__ = ["CountBody", "MessagesBody"]

MAX_STOPS = 16
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class TextBlock(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["text"]
    text: StrictStr
    cache_control: dict[str, Any] | None = None  # what can be kept is kept without being told
    citations: list[dict[str, Any]] | None = Field(default=None, max_length=0)


class Turn(Part):
    role: Literal["user", "assistant"]
    content: StrictStr | list[dict[str, Any]]


class Tool(Part):
    name: Annotated[StrictStr, Field(min_length=1, max_length=128)]
    type: Literal["custom"] | None = None
    description: StrictStr | None = None
    input_schema: dict[str, Any]
    strict: StrictBool | None = None
    cache_control: dict[str, Any] | None = None


class ToolChoice(Part):
    type: Literal["auto", "any", "tool", "none"]
    name: StrictStr | None = None
    disable_parallel_tool_use: StrictBool | None = None


class Thinking(Part):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[StrictInt, Field(ge=1024)] | None = None
    display: Literal["summarized"] | None = None


class JSONFormat(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(Part):
    format: JSONFormat | None = None


class _Conversation(BaseModel):
    """What asking and counting share."""

    messages: list[Turn] = Field(min_length=1, max_length=10_000)
    system: StrictStr | list[TextBlock] | None = None
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None

    def chat(self) -> dict[str, Any]:
        """These as fields of a `Request`."""
        tools = [_tool(t) for t in self.tools or ()]
        choice = None if self.tool_choice is None else _choice(self.tool_choice)
        check_tools(tools, choice)
        if self.messages[-1].role == "assistant":
            raise BadRequest(
                "messages must not end with the assistant's: beginnings are not honoured", param="messages"
            )
        return {
            "messages": (*_system(self.system), *_messages(self.messages)),
            "tools": tuple(tools),
            "tool_choice": choice,
            "response_format": _format(self.output_config),
        }

    def options(self) -> dict[str, Any]:
        """What travels in `Request.extra`."""
        found: dict[str, Any] = {}
        if self.thinking is not None:
            found["thinking"] = self.thinking.model_dump(exclude_none=True)
        if self.tool_choice is not None and self.tool_choice.disable_parallel_tool_use:
            found["parallel_tool_calls"] = False
        return found


class MessagesBody(_Conversation, Generation):
    task: ClassVar[Task] = "chat"
    extras: ClassVar[frozenset[str]] = frozenset({"chat_template_kwargs", "ignore_eos"})
    harmless: ClassVar[frozenset[str]] = frozenset({"metadata", "cache_control"})

    max_tokens: Count
    temperature: Annotated[Number, Field(ge=0, le=1)] | None = None
    stop_sequences: list[Annotated[StrictStr, Field(min_length=1)]] | None = Field(default=None, max_length=MAX_STOPS)
    service_tier: Literal["auto", "standard_only", "default", "flex", "priority"] | None = None  # type: ignore[assignment]

    def request(self, raw: Mapping[str, Any]) -> Request:
        stops = tuple(self.stop_sequences or ())
        return Request(
            task="chat",
            model=self.model,
            sampling=Sampling(max_tokens=self.max_tokens, stop=stops, **self.drawing()),
            deterministic=bool(self.deterministic),
            adapter=self.adapter,
            extra={**self.extra(), **self.options()},
            **self.chat(),
        )

    def encoder(self, frame: Frame) -> MessageEvents:
        return MessageEvents(frame)


class CountBody(_Conversation, BaseBody):
    """Counts what a local model would read; nothing is generated."""

    task: ClassVar[Task] = "tokenize"
    extras: ClassVar[frozenset[str]] = frozenset({"chat_template_kwargs"})
    harmless: ClassVar[frozenset[str]] = frozenset({"metadata", "cache_control"})

    def request(self, raw: Mapping[str, Any]) -> Request:
        return Request(task="tokenize", model=self.model, extra={**self.extra(), **self.options()}, **self.chat())

    def encoder(self, frame: Frame) -> Counted:
        return Counted("input_tokens")


def _system(system: str | Sequence[TextBlock] | None) -> tuple[Message, ...]:
    if not system:
        return ()
    text = system if isinstance(system, str) else "\n\n".join(block.text for block in system)
    return ({"role": "system", "content": text},)


def _messages(turns: Sequence[Turn]) -> Iterator[Message]:
    for i, turn in enumerate(turns):
        where = f"messages.{i}.content"
        if isinstance(turn.content, str):
            yield {"role": turn.role, "content": turn.content}
        elif turn.role == "user":
            yield from _asked(turn.content, where)
        else:
            yield _answered(turn.content, where)


def _asked(blocks: Sequence[Mapping[str, Any]], where: str) -> Iterator[Message]:
    """A user's turn: results of tools are messages of their own, before what the user says."""
    results = [b for b in blocks if b.get("type") == "tool_result"]
    yield from (_result(b, where) for b in results)
    parts = [_part(b, f"{where}.{i}") for i, b in enumerate(blocks) if b.get("type") != "tool_result"]
    if parts or not results:
        yield {"role": "user", "content": parts}


def _result(block: Mapping[str, Any], where: str) -> Message:
    """OpenAI's shape has no mark for a failed call, so its text says so."""
    if not isinstance(block.get("tool_use_id"), str):
        raise _wrong(f"{where}.tool_use_id", "is missing")
    content = block.get("content", "")
    if isinstance(content, list):
        parts = [_part(part, f"{where}.content.{i}") for i, part in enumerate(content)]
        content = "\n".join(p["text"] for p in parts) if all(p["type"] == "text" for p in parts) else parts
    if not isinstance(content, (str, list)):
        raise _wrong(f"{where}.content", "must be text or a list of blocks")
    if block.get("is_error"):
        content = f"Error: {content}" if isinstance(content, str) else [{"type": "text", "text": "Error:"}, *content]
    return {"role": "tool", "tool_call_id": block["tool_use_id"], "content": content}


def _answered(blocks: Sequence[Mapping[str, Any]], where: str) -> Message:
    """An assistant's turn. Redacted thinking is for the server that wrote it; here it says nothing."""
    text, thinking, calls = list[str](), list[str](), list[dict[str, Any]]()
    for i, block in enumerate(blocks):
        kind = block.get("type")
        if kind == "tool_use":
            calls.append(_call(block, f"{where}.{i}"))
        elif kind == "thinking" and isinstance(block.get("thinking"), str):
            thinking.append(block["thinking"])
        elif kind != "redacted_thinking":
            text.append(_part(block, f"{where}.{i}", ("text",))["text"])
    message: dict[str, Any] = {"role": "assistant", "content": "".join(text) or None}
    if thinking:
        message["reasoning_content"] = "\n".join(thinking)
    return {**message, "tool_calls": calls} if calls else message


def _call(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    found, name, arguments = block.get("id"), block.get("name"), block.get("input")
    if not (isinstance(found, str) and isinstance(name, str) and isinstance(arguments, dict)):
        raise _wrong(where, "needs id, name and input")
    return {"id": found, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def _part(block: Any, where: str, kinds: Sequence[str] = ("text", "image")) -> dict[str, Any]:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if kind not in kinds:
        raise _wrong(f"{where}.type", f"is {kind!r:.40}, which is not honoured")
    if kind == "text":
        if not isinstance(block.get("text"), str):
            raise _wrong(f"{where}.text", "is missing")
        return {"type": "text", "text": block["text"]}
    return {"type": "image_url", "image_url": {"url": _image(block.get("source"), f"{where}.source")}}


def _image(source: Any, where: str) -> str:
    kind = source.get("type") if isinstance(source, Mapping) else None
    if kind == "url" and isinstance(source.get("url"), str):
        return str(source["url"])
    if kind == "base64" and isinstance(source.get("data"), str) and isinstance(source.get("media_type"), str):
        return f"data:{source['media_type']};base64,{source['data']}"
    raise _wrong(where, "must be base64 data with its media_type, or a url")


def _tool(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


def _choice(choice: ToolChoice) -> str | dict[str, Any]:
    if choice.type != "tool":
        return _TOOL_CHOICES[choice.type]
    if not choice.name:
        raise BadRequest("tool_choice names no tool", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}


def _format(config: OutputConfig | None) -> dict[str, Any] | None:
    if config is None or config.format is None:
        return None
    schema = {"name": "output", "strict": True, "schema": config.format.json_schema}
    return {"type": "json_schema", "json_schema": schema}


def _wrong(where: str, what: str) -> BadRequest:
    return BadRequest(f"{where} {what}", param=where)
