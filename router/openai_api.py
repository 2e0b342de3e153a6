"""OpenAI's request bodies, checked and turned into a `Request`. What we cannot honour is refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from foreshore.errors import BadRequest
from foreshore.types import Request, Sampling, Task

__all__ = ["ChatBody", "CompletionBody", "EmbeddingBody", "parse"]

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
Role = Literal["system", "developer", "user", "assistant", "tool"]
MAX_STOPS = 16
# They change nothing about the answer, so they are taken and dropped, never sent on: they may say who the user is.
HARMLESS = frozenset(
    {"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier"}
)
CHAT_EXTRA = frozenset(
    {"reasoning_effort", "verbosity", "parallel_tool_calls", "modalities", "audio", "prediction", "web_search_options",
     "thinking", "chat_template_kwargs"}
)  # fmt: skip


class _Body(BaseModel):
    """`extras` are fields that only some targets understand: they travel in `Request.extra`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    extras: ClassVar[frozenset[str]] = frozenset()
    task: ClassVar[Task]

    model: StrictStr = Field(max_length=200)

    def extra(self) -> dict[str, Any]:
        """Fields to pass on. Raises `BadRequest` for one that nobody knows."""
        found = {k: v for k, v in (self.model_extra or {}).items() if v is not None and k not in HARMLESS}
        for name in found:
            if name not in self.extras:
                raise _unknown(name, [*type(self).model_fields, *self.extras])
        return found


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    include_usage: StrictBool = False
    include_obfuscation: StrictBool | None = None  # padding against traffic analysis; none is added


class _Generation(_Body):
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[StrictInt, Field(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    repeat_penalty: Annotated[Number, Field(gt=0, le=10)] | None = None
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StrictStr | list[StrictStr] | None = None
    logit_bias: dict[str, Annotated[Number, Field(ge=-100, le=100)]] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=1)] | None = None
    grammar: StrictStr | None = None

    @property
    def streams(self) -> bool:
        return bool(self.stream)

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, *, max_tokens: int | None, logprobs: int | None) -> Sampling:
        return Sampling(
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repeat_penalty=self.repeat_penalty or 1.0,
            seed=self.seed,
            stop=self._stops(),
            logit_bias=self._bias(),
            logprobs=logprobs,
            grammar=self.grammar,
        )

    def check(self) -> None:
        """What one field's type cannot say."""
        if self.stream_options is not None and not self.stream:
            raise BadRequest("stream_options without stream", param="stream_options")

    def _stops(self) -> tuple[str, ...]:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > MAX_STOPS or not all(stops):
            raise BadRequest(f"stop takes up to {MAX_STOPS} strings, none empty", param="stop")
        return stops

    def _bias(self) -> dict[int, float]:
        try:
            return {int(token): bias for token, bias in (self.logit_bias or {}).items()}
        except ValueError as error:
            raise BadRequest("the keys of logit_bias are token ids", param="logit_bias") from error


class ChatMessage(BaseModel):
    """Fields beyond these are passed on as they are: chat templates and providers have their own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: Role
    content: StrictStr | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: StrictStr | None = None


class ChatBody(_Generation):
    task: ClassVar[Task] = "chat"
    extras: ClassVar[frozenset[str]] = CHAT_EXTRA

    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: Count | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = Field(default=None, max_length=128)
    tool_choice: StrictStr | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None

    def request(self, raw: Mapping[str, Any]) -> Request:
        self.check()
        if self.top_logprobs is not None and not self.logprobs:
            raise BadRequest("top_logprobs without logprobs", param="top_logprobs")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise BadRequest("max_tokens and max_completion_tokens differ", param="max_tokens")
        _check_messages(self.messages)
        _check_tools(self.tools or [], self.tool_choice)
        _check_format(self.response_format)
        return Request(
            task="chat",
            model=self.model,
            messages=tuple(raw["messages"]),
            tools=tuple(self.tools or ()),
            tool_choice=self.tool_choice,
            response_format=self.response_format,
            sampling=self.sampling(
                max_tokens=self.max_completion_tokens or self.max_tokens,
                logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            ),
            extra=self.extra(),
        )


class CompletionBody(_Generation):
    task: ClassVar[Task] = "completion"
    extras: ClassVar[frozenset[str]] = frozenset({"suffix"})

    prompt: StrictStr | list[StrictInt] | list[StrictStr]
    logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    echo: Literal[False] | None = None
    best_of: Annotated[StrictInt, Field(ge=1, le=1)] | None = None

    def request(self, raw: Mapping[str, Any]) -> Request:
        self.check()
        return Request(
            task="completion",
            model=self.model,
            prompt=self._prompt(),
            sampling=self.sampling(max_tokens=self.max_tokens, logprobs=self.logprobs),
            extra=self.extra(),
        )

    def _prompt(self) -> str | tuple[int, ...]:
        if isinstance(self.prompt, str):
            return self.prompt
        texts = [p for p in self.prompt if isinstance(p, str)]
        if not self.prompt or (texts and len(texts) > 1):
            raise BadRequest("prompt takes one text, or the token ids of one text", param="prompt")
        return texts[0] if texts else tuple(p for p in self.prompt if isinstance(p, int))


class EmbeddingBody(_Body):
    task: ClassVar[Task] = "embedding"
    extras: ClassVar[frozenset[str]] = frozenset({"dimensions"})

    input: StrictStr | list[StrictStr] = Field(min_length=1, max_length=10_000_000)
    encoding_format: Literal["float", "base64"] | None = None

    streams: ClassVar[bool] = False

    def request(self, raw: Mapping[str, Any]) -> Request:
        inputs = (self.input,) if isinstance(self.input, str) else tuple(self.input)
        if len(inputs) > 2048 or not all(inputs):
            raise BadRequest("input takes one to 2048 texts, none empty", param="input")
        return Request(task="embedding", model=self.model, inputs=inputs, extra=self.extra())


Body = ChatBody | CompletionBody | EmbeddingBody


def parse(kind: type[Body], raw: Mapping[str, Any]) -> Body:
    """Raises `BadRequest` naming the first field that is wrong, as `param`."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise _bad(error.errors(include_url=False, include_context=False), raw) from error


def _bad(errors: Sequence[Any], raw: Mapping[str, Any]) -> BadRequest:
    first = errors[0]
    param = ".".join(str(p) for p in first["loc"] if not _is_type_name(p)) or None
    if first["type"] == "missing":
        return BadRequest(f"{param} is missing", param=param)
    value = raw.get(str(first["loc"][0])) if len(first["loc"]) == 1 else None
    shown = f" (got {value!r})" if isinstance(value, (int, float, bool)) else ""
    return BadRequest(f"{param}: {first['msg']}{shown}", param=param)


def _is_type_name(part: Any) -> bool:
    """Pydantic puts the tried alternatives of a union into the location."""
    return isinstance(part, str) and (part in ("str", "int") or "[" in part)


def _unknown(name: str, known: Sequence[str]) -> BadRequest:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "leave it out; docs/gateway.md lists what is honoured"
    return BadRequest(f"unknown parameter {name[:100]!r}", hint=hint, param=name[:100])


def _check_messages(messages: Sequence[ChatMessage]) -> None:
    for i, message in enumerate(messages):
        if message.content is None and message.role != "assistant":
            raise BadRequest(f"messages.{i}.content is missing", param=f"messages.{i}.content")
        if message.role == "tool" and not message.tool_call_id:
            raise BadRequest(f"messages.{i}.tool_call_id is missing", param=f"messages.{i}.tool_call_id")
        for j, part in enumerate(message.content if isinstance(message.content, list) else ()):
            _check_part(part, f"messages.{i}.content.{j}")


def _check_part(part: Mapping[str, Any], where: str) -> None:
    kind = part.get("type")
    if not isinstance(kind, str):
        raise BadRequest(f"{where}.type is missing", param=f"{where}.type")
    if kind == "text" and not isinstance(part.get("text"), str):
        raise BadRequest(f"{where}.text is missing", param=f"{where}.text")
    image = part.get("image_url")
    if kind == "image_url" and not (isinstance(image, dict) and isinstance(image.get("url"), str)):
        raise BadRequest(f"{where}.image_url.url is missing", param=f"{where}.image_url")


def _check_tools(tools: Sequence[Mapping[str, Any]], choice: Any) -> None:
    for i, tool in enumerate(tools):
        function = tool.get("function")
        if (
            tool.get("type") != "function"
            or not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
        ):
            raise BadRequest(f"tools.{i} must be a function with a name", param=f"tools.{i}")
    if choice not in (None, "none") and not tools:
        raise BadRequest("tool_choice without tools", param="tool_choice")
    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        raise BadRequest(f"unknown tool_choice {choice[:40]!r}", param="tool_choice")


def _check_format(found: Mapping[str, Any] | None) -> None:
    kind = (found or {"type": "text"}).get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise BadRequest(f"unknown response_format type {str(kind)[:40]!r}", param="response_format.type")
    schema = (found or {}).get("json_schema")
    if kind == "json_schema" and not (isinstance(schema, dict) and isinstance(schema.get("schema"), dict)):
        raise BadRequest("response_format.json_schema.schema is missing", param="response_format.json_schema")
