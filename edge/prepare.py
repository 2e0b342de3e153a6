"""From a request to tokens and rules for drawing more. Runs beside the scheduler, so that a long prompt's
tokenization stalls no running stream."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from foreshore.edge.grammar.json_schema import any_json_grammar, schema_grammar
from foreshore.edge.options import ModelInfo
from foreshore.edge.parse import OPEN_THINK
from foreshore.edge.ranking import Pairing
from foreshore.edge.sampling.sampling import resolve, validate, warm
from foreshore.edge.template import ChatTemplate, Segment
from foreshore.edge.tools.formats import HERMES, tool_format
from foreshore.edge.tools.tools import Toolbox
from foreshore.edge.vocab import Vocab
from foreshore.errors import BadRequest, ContextExceeded
from foreshore.types import Chunk, Message, Request, Sampling, Usage

__all__ = ["Prepared", "Preparer"]

# Body fields that change nothing about a local answer.
_HARMLESS = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "stream_options"})
_SWITCHES = frozenset({"ignore_eos", "add_special", "parse_special", "parallel_tool_calls"})
_MEANS_NOTHING = (("n", 1), ("modalities", ["text"]))
_OURS = ("messages", "tools", "add_generation_prompt")  # what a template is given by the request itself
_THINKING = ("enabled", "adaptive", "disabled")  # Anthropic's words; what templates know of it is on or off
_ANSWER = 'root ::= [^<]* "</think>" [ \\n]* answer\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request ready to run. `inputs` is set for embeddings and reranking, the other token fields otherwise."""

    request: Request
    arrived: float
    tokens: list[int]
    max_tokens: int
    sampling: Sampling
    tools: Toolbox | None = None  # what the model may call
    one_call: bool = False  # the answer ends with its first
    thinking: bool = False  # the prompt ends inside the model's reasoning
    ignore_end: bool = False  # go on to `max_tokens` whatever the model says, as benchmarks must
    inputs: tuple[list[int], ...] = ()


class Preparer:
    """Knows the model's vocabulary, template and limits. `prepare` may run in several threads."""

    def __init__(
        self,
        vocab: Vocab,
        info: ModelInfo,
        template: ChatTemplate | None,
        defaults: dict[str, float],
        pairing: Pairing | None = None,
    ) -> None:
        """`pairing` says that the model ranks, and how it reads a pair."""
        self._vocab, self._info, self._template, self._defaults = vocab, info, template, defaults
        self._pairing = pairing
        self._tool_format = HERMES if template is None else tool_format(template.source)

    def prepare(self, request: Request, arrived: float) -> Prepared | Chunk:
        """What the engine has to compute, or the whole answer where there is nothing to compute.

        Raises `BadRequest`, naming the field, for what this model cannot do or nobody can.
        """
        options = _check_extra(request.extra)
        if request.task == "tokenize":
            return self._tokenized(request, options)
        if request.task == "detokenize":
            return _answer(text=self._text(request))
        if request.task == "rerank":
            return self._ranking(request, arrived)
        if request.task == "embedding":
            return self._embedding(request, arrived)
        if not self._info.generates:
            raise BadRequest(f"model {self._info.name!r} only embeds; it writes no answers", param="model")
        if request.task == "completion":
            return self._finish(request, arrived, self._completion(request), self._sampling(request, False, None))
        return self._chat(request, arrived, options)

    def _chat(self, request: Request, arrived: float, options: dict[str, Any]) -> Prepared:
        segments = self._rendered(request, options)
        tokens = [t for s in segments for t in self._vocab.tokenize(s.text, special=s.trusted)]
        thinking = bool(segments) and segments[-1].trusted and segments[-1].text.rstrip().endswith(OPEN_THINK)
        tools = Toolbox.of(self._tool_format, request.tools)
        sampling = self._sampling(request, thinking, tools)
        offered = tools if tools.parameters and request.tool_choice != "none" else None
        return self._finish(request, arrived, tokens, sampling, tools=offered, thinking=thinking)

    def _rendered(self, request: Request, options: dict[str, Any]) -> tuple[Segment, ...]:
        if self._template is None:
            raise BadRequest(
                f"model {self._info.name!r} has no chat template", hint="send a completion instead", param="messages"
            )
        if not request.messages:
            raise BadRequest("messages is empty", hint="send at least one message", param="messages")
        if request.tool_choice not in (None, "auto", "none", "required") and not isinstance(
            request.tool_choice, Mapping
        ):
            raise BadRequest(f"tool_choice is {request.tool_choice!r}", param="tool_choice")
        tools = () if request.tool_choice == "none" else tuple(_tool(t) for t in request.tools)
        return self._template.render([_message(m) for m in request.messages], tools=tools, options=options)

    def _tokenized(self, request: Request, options: dict[str, Any]) -> Chunk:
        """The tokens of a text as it is, or of messages as the model would read them."""
        if request.messages:
            segments = self._rendered(request, options)
            tokens = [t for s in segments for t in self._vocab.tokenize(s.text, special=s.trusted)]
            return _answer(tokens=tuple(tokens))
        if not isinstance(request.prompt, str):
            raise BadRequest("content is no text", param="content")
        special, begin = request.extra.get("parse_special", True), request.extra.get("add_special", False)
        return _answer(tokens=tuple(self._vocab.tokenize(request.prompt, special=bool(special), begin=bool(begin))))

    def _text(self, request: Request) -> str:
        """What the tokens stand for, control tokens as they are written."""
        if isinstance(request.prompt, str):
            raise BadRequest("tokens is no list of token ids", param="tokens")
        self._check_tokens(request.prompt, "tokens")
        pieces = (self._vocab.piece(t) or self._vocab.text(t).encode() for t in request.prompt)
        return b"".join(pieces).decode("utf-8", "replace")

    def _check_tokens(self, tokens: Sequence[int], param: str) -> None:
        wrong = next((t for t in tokens if not isinstance(t, int) or not 0 <= t < self._vocab.size), None)
        if wrong is not None:
            raise BadRequest(f"{param} holds token {wrong!r}, but the vocabulary has {self._vocab.size}", param=param)

    def _completion(self, request: Request) -> list[int]:
        if isinstance(request.prompt, str):
            tokens = self._vocab.tokenize(request.prompt, special=True, begin=True)
        else:
            tokens = list(request.prompt)
            self._check_tokens(tokens, "prompt")
        if not tokens:
            raise BadRequest("prompt is empty", hint="send at least one character", param="prompt")
        return tokens

    def _embedding(self, request: Request, arrived: float) -> Prepared:
        if not request.inputs or any(not isinstance(text, str) or not text for text in request.inputs):
            raise BadRequest("input must hold at least one text, and none may be empty", param="input")
        if self._pairing is not None:
            raise BadRequest(f"model {self._info.name!r} only ranks; it makes no embeddings", param="model")
        inputs = tuple(self._vocab.tokenize(text, special=False, begin=True) for text in request.inputs)
        return self._pooled(request, arrived, inputs)

    def _ranking(self, request: Request, arrived: float) -> Prepared:
        if self._pairing is None:
            raise BadRequest(
                f"model {self._info.name!r} does not rank: its file has no ranking head",
                hint="load a cross-encoder, or list `tasks` in the config",
                param="model",
            )
        if not request.query:
            raise BadRequest("query is empty", param="query")
        if not request.inputs or any(not isinstance(text, str) or not text for text in request.inputs):
            raise BadRequest("documents must hold at least one text, and none may be empty", param="documents")
        pairs = tuple(self._pairing.tokens(request.query, document) for document in request.inputs)
        return self._pooled(request, arrived, pairs)

    def _pooled(self, request: Request, arrived: float, inputs: tuple[list[int], ...]) -> Prepared:
        longest = max(map(len, inputs))
        if longest > self._info.embedding_tokens:
            raise ContextExceeded(prompt_tokens=longest, context_tokens=self._info.embedding_tokens)
        return Prepared(
            request=request, arrived=arrived, tokens=[], max_tokens=0, sampling=request.sampling, inputs=inputs
        )

    def _finish(
        self,
        request: Request,
        arrived: float,
        tokens: list[int],
        sampling: Sampling,
        *,
        tools: Toolbox | None = None,
        thinking: bool = False,
    ) -> Prepared:
        room = self._info.context_tokens - len(tokens)
        if room < 1:
            raise ContextExceeded(prompt_tokens=len(tokens), context_tokens=self._info.context_tokens)
        return Prepared(
            request=request,
            arrived=arrived,
            tokens=tokens,
            max_tokens=min(room, sampling.max_tokens or room),
            sampling=sampling,
            tools=tools,
            thinking=thinking,
            one_call=request.extra.get("parallel_tool_calls") is False,
            ignore_end=bool(request.extra.get("ignore_eos")),
        )

    def _sampling(self, request: Request, thinking: bool, tools: Toolbox | None) -> Sampling:
        validate(request.sampling, self._vocab.size)
        sampling = resolve(request.sampling, self._defaults)
        ours = _format_grammar(request.response_format)
        if ours is None and tools is not None:
            ours = tools.grammar(request.tool_choice)
        if ours is not None and sampling.grammar is not None:
            raise BadRequest("grammar excludes a JSON format, a required and a strict tool", param="grammar")
        if ours is not None:
            # A model that thinks does so first; the format holds for the answer after it.
            ours = _ANSWER + ours.replace("root ::=", "answer ::=", 1) if thinking else ours
            sampling = replace(sampling, grammar=ours)
        warm(sampling, self._vocab)
        return sampling


def _answer(*, tokens: tuple[int, ...] = (), text: str = "") -> Chunk:
    """A whole answer that cost nothing."""
    return Chunk(tokens=tokens, text=text, finish_reason="stop", usage=Usage(prompt_tokens=0, completion_tokens=0))


def _format_grammar(form: Mapping[str, Any] | None) -> str | None:
    kind = form.get("type") if isinstance(form, Mapping) else None
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        return any_json_grammar()
    if kind == "json_schema":
        wrapper = form.get("json_schema")
        if not isinstance(wrapper, Mapping) or "schema" not in wrapper:
            raise BadRequest("response_format has no json_schema.schema", param="response_format")
        return schema_grammar(wrapper["schema"])
    raise BadRequest(
        f"response_format has type {kind!r}", hint="text, json_object or json_schema", param="response_format"
    )


def _message(message: Message) -> dict[str, Any]:
    """One message as templates read it: content a string, tool arguments an object."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise BadRequest(f"a message is {message!r:.200}; it needs a role and content", param="messages")
    plain = {**message, "content": _content(message.get("content"))}
    if plain["role"] == "developer":  # OpenAI's newer word for it, which templates do not know
        plain["role"] = "system"
    if message.get("tool_calls"):
        if not isinstance(message["tool_calls"], (list, tuple)):
            raise BadRequest(f"tool_calls is {message['tool_calls']!r:.80}; it must be a list", param="messages")
        plain["tool_calls"] = [_past_call(call) for call in message["tool_calls"]]
    return plain


def _content(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        raise BadRequest(f"a message's content is {content!r:.200}; text or a list of parts", param="messages")
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise BadRequest(f"content of type {kind!r:.80} cannot be read locally; only text can", param="messages")
    return "".join(part["text"] for part in content)


def _past_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRequest(f"a tool call is {call!r:.200}; it needs a function with a name", param="messages")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):  # a model may have written what is no JSON; it stays as it was
            arguments = json.loads(arguments)
    return {**call, "function": {**function, "arguments": arguments}}


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRequest(f"a tool is {tool!r:.200}; it must be a function with a name", param="tools")
    return tool


def _check_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Options for the chat template; raises `BadRequest` for every field that would have to be ignored."""
    options: dict[str, Any] = {}
    for name, value in extra.items():
        if name == "chat_template_kwargs" and isinstance(value, Mapping):
            if (ours := next((k for k in value if k in _OURS), None)) is not None:
                raise BadRequest(f"chat_template_kwargs sets {ours!r}, which the request itself does", param=name)
            options |= {str(k): v for k, v in value.items()}
        elif name in _SWITCHES and not isinstance(value, bool | None):
            raise BadRequest(f"{name} is {value!r:.80}; it must be true or false", param=name)
        elif name == "thinking" and isinstance(value, Mapping) and value.get("type") in _THINKING:
            options = {"enable_thinking": value["type"] != "disabled", **options}
        elif not (name in _HARMLESS | _SWITCHES or value is None or (name, value) in _MEANS_NOTHING):
            raise BadRequest(
                f"{name} is {value!r:.80}, which a local model does not honour", hint="leave it out", param=name
            )
    return options
