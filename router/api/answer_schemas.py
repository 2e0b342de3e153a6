"""What answers look like, as JSON Schema: the other half of the OpenAPI document beside the bodies' own models."""

from __future__ import annotations

from typing import Any

__all__ = ["ANSWERS"]

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
ANYTHING: Schema = {}


def _object(*, optional: dict[str, Schema] | None = None, **required: Schema) -> Schema:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _list(item: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": item, **more}


def _one(*words: str) -> Schema:
    return {"enum": list(words)}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


TIMINGS = {"type": "object", "additionalProperties": NUMBER, "description": "milliseconds, tokens, tokens per second"}
USAGE = _object(
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    prompt_tokens_details=_object(cached_tokens=COUNT),
    completion_tokens_details=_object(reasoning_tokens=COUNT),
)
INPUT_USAGE = _object(prompt_tokens=COUNT, total_tokens=COUNT)
FINISH = _one("stop", "length", "tool_calls", "content_filter")
CALL = _object(id=TEXT, type=_one("function"), function=_object(name=TEXT, arguments=TEXT))
MESSAGE = _object(
    role=_one("assistant"),
    content=_or_null(TEXT),
    refusal={"type": "null"},
    optional={"reasoning_content": TEXT, "tool_calls": _list(CALL)},
)


def _answer(kind: str, choice: Schema, **more: Schema) -> Schema:
    return _object(
        id=TEXT,
        object=_one(kind),
        created=COUNT,
        model=TEXT,
        system_fingerprint=TEXT,
        choices=_list(choice, minItems=1),
        usage=_or_null(USAGE),
        **more,
        optional={"timings": TIMINGS},
    )


def _choice(**more: Schema) -> Schema:
    return _object(index=COUNT, finish_reason=FINISH, logprobs=_or_null({"type": "object"}), **more)


ITEM = _object(id=TEXT, type=_one("message", "reasoning", "function_call"), status=_one("completed", "incomplete"))
RESPONSE = _object(
    id=TEXT,
    object=_one("response"),
    created_at=COUNT,
    status=_one("completed", "incomplete", "failed"),
    model=TEXT,
    output=_list(ITEM),
    error=_or_null(_object(code=TEXT, message=TEXT)),
    incomplete_details=_or_null(_object(reason=TEXT)),
    service_tier=TEXT,
    store={"const": False},
    usage=_or_null(
        _object(
            input_tokens=COUNT,
            input_tokens_details=_object(cached_tokens=COUNT),
            output_tokens=COUNT,
            output_tokens_details=_object(reasoning_tokens=COUNT),
            total_tokens=COUNT,
        )
    ),
    optional={"timings": TIMINGS},
)
BLOCK: Schema = {
    "oneOf": [
        _object(type=_one("text"), text=TEXT),
        _object(type=_one("thinking"), thinking=TEXT, signature=TEXT),
        _object(type=_one("tool_use"), id=TEXT, name=TEXT, input={"type": "object"}),
    ]
}
ANTHROPIC_USAGE = _object(
    input_tokens=COUNT, cache_read_input_tokens=COUNT, cache_creation_input_tokens=COUNT, output_tokens=COUNT
)
MODEL = _object(id=TEXT, object=_one("model"), created=COUNT, owned_by=TEXT)

# By name, as the document's components have them.
ANSWERS: dict[str, Schema] = {
    "ChatAnswer": _answer("chat.completion", _choice(message=MESSAGE), service_tier=TEXT),
    "CompletionAnswer": _answer("text_completion", _choice(text=TEXT)),
    "Response": RESPONSE,
    "AnthropicMessage": _object(
        id=TEXT,
        type=_one("message"),
        role=_one("assistant"),
        model=TEXT,
        content=_list(BLOCK),
        stop_reason=_one("end_turn", "max_tokens", "tool_use", "refusal"),
        stop_sequence={"type": "null"},
        usage=ANTHROPIC_USAGE,
        optional={"timings": TIMINGS},
    ),
    "TokenCount": _object(input_tokens=COUNT),
    "EmbeddingAnswer": _object(
        object=_one("list"),
        model=TEXT,
        data=_list(
            _object(
                object=_one("embedding"),
                index=COUNT,
                embedding={"oneOf": [_list(NUMBER), {**TEXT, "description": "base64 of little-endian float32"}]},
            )
        ),
        usage=INPUT_USAGE,
    ),
    "RerankAnswer": _object(
        object=_one("list"),
        model=TEXT,
        results=_list(_object(index=COUNT, relevance_score=NUMBER, optional={"document": _object(text=TEXT)})),
        usage=INPUT_USAGE,
    ),
    "Tokens": _object(tokens=_list(COUNT)),
    "Content": _object(content=TEXT),
    "Noted": _object(decision=TEXT, score=NUMBER, source=_one("user")),
    "Model": MODEL,
    "Models": _object(object=_one("list"), data=_list(MODEL)),
    "Health": _object(status=_one("ok", "not ready")),
    "Readiness": _object(
        status=_one("ready", "not ready"),
        optional={"targets": {"type": "object", "additionalProperties": TEXT}, "config": TEXT, "config_error": TEXT},
    ),
    "Error": _object(error=_object(message=TEXT, type=TEXT, param=_or_null(TEXT), code=_or_null(TEXT))),
    "AnthropicError": _object(type=_one("error"), error=_object(type=TEXT, message=TEXT)),
}
