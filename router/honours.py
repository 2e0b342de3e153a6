"""Which fields of a request each kind of target honours. What it does not honour it must not be sent: no silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from foreshore.config import Kind
from foreshore.types import Request, Sampling

__all__ = ["UNCOMMON", "honours_too", "unhonoured"]

# By task, what a body may hold that OpenAI's targets alone honour, as `Request.extra`.
UNCOMMON: Mapping[str, Mapping[str, Any]] = {
    "chat": {"verbosity": "low"},
    "completion": {"suffix": "."},
    "embedding": {"dimensions": 8},
}

_PLAIN = Sampling()
_ANTHROPIC_SAMPLING = frozenset({"max_tokens", "temperature", "top_p", "top_k", "stop"})
# Of `Request.extra`, what the runtime here honours.
_LOCAL_EXTRA = frozenset(
    {"ignore_eos", "chat_template_kwargs", "thinking", "add_special", "parse_special", "parallel_tool_calls"}
)


def unhonoured(request: Request, kind: str) -> tuple[str, ...]:
    """Fields set in `request` that a target of `kind` would ignore.

    An OpenAI-compatible server gets every field that such a server may know and says itself what it refuses. A local
    engine knows all of `Request` and some of `extra`; Anthropic's Messages API lacks most of OpenAI's parameters.
    """
    if kind == "local":
        return tuple(name for name, value in request.extra.items() if not _local(name, value))
    beyond = tuple(_only_local(request))
    return (*beyond, *_beyond_anthropic(request)) if kind == "anthropic" else beyond


def honours_too(kind: Kind) -> frozenset[Kind]:
    """The kinds that honour every request that `kind` honours: of another some request has a field too many."""
    return frozenset(("local", "openai", "anthropic")) if kind == "anthropic" else frozenset((kind,))


def _local(name: str, value: object) -> bool:
    return name in _LOCAL_EXTRA or (name == "modalities" and value == ["text"])


def _only_local(request: Request) -> Iterator[str]:
    if request.deterministic:
        yield "deterministic"
    if request.adapter is not None:
        yield "adapter"


def _beyond_anthropic(request: Request) -> Iterator[str]:
    sampling = request.sampling
    for field in fields(Sampling):
        value = getattr(sampling, field.name)
        if field.name not in _ANTHROPIC_SAMPLING and value != getattr(_PLAIN, field.name):
            yield field.name
    if (sampling.temperature or 0) > 1:
        yield "temperature above 1"
    if (request.response_format or {}).get("type", "text") != "text":
        yield "response_format"
    for name in request.extra:
        if name != "thinking" or _answers_a_tool(request):
            yield name


def _answers_a_tool(request: Request) -> bool:
    """Thinking goes on after a tool's result only with the signed thinking before it, which our messages lack."""
    return any(message.get("role") == "tool" for message in request.messages)
