"""OpenAI's request bodies, checked and turned into a `Request`. What we cannot honour is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from foreshore.errors import BadRequest
from foreshore.router.api.answers import Answers, Vectors
from foreshore.router.api.door import Frame
from foreshore.router.fields import BaseBody, Count, Generation, Number, Part, Text
from foreshore.types import Request, Sampling, Task

__all__ = ["ChatBody", "CompletionBody", "EmbeddingBody", "check_format", "check_tools"]

MAX_STOPS = 16
MAX_CHOICES = 16
MAX_INPUTS = 2048
Role = Literal["system", "developer", "user", "assistant", "tool"]
EXTRA = frozenset({"ignore_eos"})
CHAT_EXTRA = EXTRA | {
    "reasoning_effort", "verbosity", "parallel_tool_calls", "modalities", "audio", "prediction", "web_search_options",
    "thinking", "chat_template_kwargs",
}  # fmt: skip


class StreamOptions(Part):
    include_usage: StrictBool = False
    include_obfuscation: StrictBool | None = None  # padding against traffic analysis; none is added


class _Generation(Generation):
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    stop: StrictStr | list[StrictStr] | None = None
    logit_bias: dict[str, Annotated[Number, Field(ge=-100, le=100)]] | None = None
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    def encoder(self, frame: Frame) -> Answers:
        usage = self.stream_options is not None and self.stream_options.include_usage
        return Answers(self.task, frame, wants_usage=usage, choices=self.choices)

    def sampling(self, *, max_tokens: int | None, logprobs: int | None) -> Sampling:
        return Sampling(
            max_tokens=max_tokens, stop=self._stops(), logit_bias=self._bias(), logprobs=logprobs, **self.drawing()
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
            found = {int(token): bias for token, bias in (self.logit_bias or {}).items()}
        except ValueError as error:
            raise BadRequest("the keys of logit_bias are token ids", param="logit_bias") from error
        if [str(token) for token in found] != [*(self.logit_bias or {})]:
            raise BadRequest("the keys of logit_bias are token ids in plain digits, each once", param="logit_bias")
        return found


_SAYING: list[Any] = [  # what `_check_messages` asks of them
    {"properties": {"role": {"const": "assistant"}}},
    {
        "properties": {"role": {"enum": ["system", "developer", "user"]}, "content": {"type": ["string", "array"]}},
        "required": ["content"],
    },
    {
        "properties": {
            "role": {"const": "tool"},
            "content": {"type": ["string", "array"]},
            "tool_call_id": {"type": "string", "minLength": 1},
        },
        "required": ["content", "tool_call_id"],
    },
]


class ChatMessage(BaseModel):
    """Fields beyond these are passed on as they are: chat templates and providers have their own."""

    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra={"anyOf": _SAYING})

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
        check_tools(self.tools or [], self.tool_choice)
        check_format(self.response_format)
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
            deterministic=bool(self.deterministic),
            adapter=self.adapter,
            extra=self.extra(),
        )


class CompletionBody(_Generation):
    task: ClassVar[Task] = "completion"
    extras: ClassVar[frozenset[str]] = EXTRA | {"suffix"}

    prompt: (
        StrictStr
        | Annotated[list[StrictInt], Field(min_length=1)]
        | Annotated[list[StrictStr], Field(min_length=1, max_length=1)]
    )  # one text, or the token ids of one
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
            deterministic=bool(self.deterministic),
            adapter=self.adapter,
            extra=self.extra(),
        )

    @model_validator(mode="before")
    @classmethod
    def _one(cls, raw: Any) -> Any:
        prompt = raw.get("prompt")
        if isinstance(prompt, list) and len(prompt) > 1 and not all(type(token) is int for token in prompt):
            raise BadRequest("prompt holds several; a request has one", hint="send one each", param="prompt")
        return raw

    def _prompt(self) -> str | tuple[int, ...]:
        if isinstance(self.prompt, str):
            return self.prompt
        texts = [p for p in self.prompt if isinstance(p, str)]
        return texts[0] if texts else tuple(p for p in self.prompt if isinstance(p, int))


class EmbeddingBody(BaseBody):
    task: ClassVar[Task] = "embedding"
    extras: ClassVar[frozenset[str]] = frozenset({"dimensions"})

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _texts(cls, raw: Any) -> Any:
        texts = raw.get("input")
        texts = texts if isinstance(texts, list) else [texts]
        if not 1 <= len(texts) <= MAX_INPUTS or not all(isinstance(text, str) and text for text in texts):
            raise BadRequest(
                f"input must be a text, or 1 to {MAX_INPUTS} of them, none empty",
                hint="token ids are another model's: send the texts",
                param="input",
            )
        return raw

    def encoder(self, frame: Frame) -> Vectors:
        return Vectors(frame, packed=self.encoding_format == "base64")

    def request(self, raw: Mapping[str, Any]) -> Request:
        inputs = (self.input,) if isinstance(self.input, str) else tuple(self.input)
        return Request(task="embedding", model=self.model, inputs=inputs, extra=self.extra())


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


def check_tools(tools: Sequence[Mapping[str, Any]], choice: Any) -> None:
    """Raises `BadRequest` unless each tool is a function with a name of its own, and `choice` fits to them."""
    names = set()
    for i, tool in enumerate(tools):
        function = tool.get("function")
        if (
            tool.get("type") != "function"
            or not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
            or not function["name"]
        ):
            raise BadRequest(f"tools.{i} must be a function with a name", param=f"tools.{i}")
        if function["name"] in names:
            raise BadRequest(f"two tools are named {function['name'][:100]!r}", param=f"tools.{i}")
        names.add(function["name"])
    if choice not in (None, "none") and not tools:
        raise BadRequest("tool_choice without tools", param="tool_choice")
    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        raise BadRequest(f"unknown tool_choice {choice[:40]!r}", param="tool_choice")


def check_format(found: Mapping[str, Any] | None) -> None:
    """Raises `BadRequest` unless `found` is a response format that someone honours."""
    kind = (found or {"type": "text"}).get("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise BadRequest(f"unknown response_format type {str(kind)[:40]!r}", param="response_format.type")
    schema = (found or {}).get("json_schema")
    if kind == "json_schema" and not (isinstance(schema, dict) and isinstance(schema.get("schema"), dict)):
        raise BadRequest("response_format.json_schema.schema is missing", param="response_format.json_schema")
