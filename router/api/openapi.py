"""The OpenAPI document of the gateway, from the same models that check the bodies."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from foreshore.router.api.answer_schemas import ANSWERS
from foreshore.router.api.doors import ANTHROPIC, DOORS
from foreshore.router.api.feedback import FeedbackBody
from foreshore.router.label import SESSIONS

__all__ = ["document"]

_JSON = "application/json"
_REFERENCE = "#/components/schemas/{model}"
_ANSWERED = {  # by path: what a door says when it is not streamed
    "/v1/chat/completions": "ChatAnswer",
    "/v1/completions": "CompletionAnswer",
    "/v1/responses": "Response",
    "/v1/messages": "AnthropicMessage",
    "/v1/messages/count_tokens": "TokenCount",
    "/v1/embeddings": "EmbeddingAnswer",
    "/v1/rerank": "RerankAnswer",
    "/rerank": "RerankAnswer",
    "/tokenize": "Tokens",
    "/detokenize": "Content",
}
_ERRORS = {
    "400": "the request is wrong, or no target honours a field of it",
    "401": "the API key is missing or unknown",
    "403": "the policy leaves no target that may answer",
    "404": "no such model",
    "413": "the body is too large",
    "429": "the queue is full; `retry-after` says when to come back",
    "500": "a defect of the gateway",
    "502": "the target answered wrongly",
    "503": "no target can answer now",
    "504": "the deadline passed",
}
_DECISION = {"description": "the id of the request's event in the ledger", "schema": {"type": "string"}}
_PARAMETERS = [
    {
        "name": "x-foreshore-privacy",
        "in": "header",
        "description": "`private` keeps the request on this machine",
        "schema": {"enum": ["private", "public"]},
    },
    {
        "name": "x-foreshore-timeout",
        "in": "header",
        "description": "the request's deadline, seconds",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 86400},
    },
    {
        "name": "x-foreshore-session",
        "in": "header",
        "description": "a word of the caller's, for rules to look at",
        "schema": {"type": "string", "pattern": f"^{SESSIONS.pattern}$"},
    },
]


@cache
def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    kinds = [(kind, "validation") for kind in (*dict.fromkeys(DOORS.values()), FeedbackBody)]
    _, bodies = models_json_schema(kinds, ref_template=_REFERENCE)  # type: ignore[arg-type]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Foreshore", "version": version("foreshore"), "description": __doc__},
        "paths": {
            **{path: {"post": _door(path, kind)} for path, kind in DOORS.items()},
            "/v1/feedback": {"post": _feedback()},
            **_reading(),
        },
        "components": {
            "schemas": {**bodies["$defs"], **ANSWERS},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"key": []}],  # a key is needed once the config names tenants
    }


def _door(path: str, kind: type[Any]) -> dict[str, Any]:
    content = {_JSON: _refer(_ANSWERED[path])}
    if "stream" in kind.model_fields:
        content["text/event-stream"] = {"schema": {"type": "string", "description": "with `stream`: one event a piece"}}
    answered = {"description": "the answer", "content": content, "headers": {"x-foreshore-decision": _DECISION}}
    error = "AnthropicError" if path.startswith(ANTHROPIC) else "Error"
    return {
        "operationId": path.strip("/").replace("/", "_"),
        "parameters": _PARAMETERS,
        "requestBody": {"required": True, "content": {_JSON: _refer(kind.__name__)}},
        "responses": {"200": answered, **{code: _failure(error, why) for code, why in _ERRORS.items()}},
    }


def _feedback() -> dict[str, Any]:
    noted = {"description": "kept", "content": {_JSON: _refer("Noted")}}
    errors = {**_ERRORS, "404": "the caller has no such decision"}
    return {
        "operationId": "v1_feedback",
        "requestBody": {"required": True, "content": {_JSON: _refer(FeedbackBody.__name__)}},
        "responses": {
            "200": noted,
            **{code: _failure("Error", errors[code]) for code in ("400", "401", "404", "413", "500")},
        },
    }


def _reading() -> dict[str, Any]:
    """What is asked with GET."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {
        "/v1/models": {"get": _get("models", "Models")},
        "/v1/models/{name}": {"get": {**_get("model", "Model", "404"), "parameters": [name]}},
        "/health": {"get": _get("health_of_models", "Health", ready=True)},
        "/healthz": {"get": _get("health", "Health")},
        "/readyz": {"get": _get("readiness", "Readiness", ready=True)},
        "/metrics": {"get": _get("metrics", None)},
        "/openapi.json": {"get": _get("openapi", "")},
    }


def _get(name: str, answer: str | None, *codes: str, ready: bool = False) -> dict[str, Any]:
    plain: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    content = plain if answer is None else {_JSON: _refer(answer) if answer else {"schema": {"type": "object"}}}
    responses: dict[str, Any] = {"200": {"description": "as it is now", "content": content}}
    responses |= {code: _failure("Error", _ERRORS[code]) for code in ("401", *codes)}
    if ready:
        responses["503"] = {"description": "no target can answer now", "content": content}
    return {"operationId": name, "responses": responses}


def _failure(name: str, why: str) -> dict[str, Any]:
    return {"description": why, "content": {_JSON: _refer(name)}}


def _refer(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": _REFERENCE.format(model=name)}}
