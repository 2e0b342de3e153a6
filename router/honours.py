"""Which fields of a request each kind of target honours. What it does not honour it must not be sent: no silence."""

from __future__ import annotations

from collections.abc import Callable

from foreshore.types import Request

__all__ = ["unhonoured"]

_ANTHROPIC: dict[str, Callable[[Request], bool]] = {
    "seed": lambda r: r.sampling.seed is not None,
    "logprobs": lambda r: r.sampling.logprobs is not None,
    "logit_bias": lambda r: bool(r.sampling.logit_bias),
    "min_p": lambda r: bool(r.sampling.min_p),
    "presence_penalty": lambda r: r.sampling.presence_penalty != 0,
    "frequency_penalty": lambda r: r.sampling.frequency_penalty != 0,
    "repeat_penalty": lambda r: r.sampling.repeat_penalty != 1,
    "temperature above 1": lambda r: (r.sampling.temperature or 0) > 1,
    "response_format": lambda r: (r.response_format or {}).get("type", "text") != "text",
    "grammar": lambda r: r.sampling.grammar is not None,
}


def unhonoured(request: Request, kind: str) -> tuple[str, ...]:
    """Fields set in `request` that a target of `kind` would ignore.

    An OpenAI-compatible server gets every field and says itself what it refuses. A local engine knows all of `Request`
    but `extra`; Anthropic's Messages API lacks some of OpenAI's parameters.
    """
    if kind == "openai":
        return ()
    beyond = tuple(request.extra)
    if kind == "anthropic":
        return (*(name for name, used in _ANTHROPIC.items() if used(request)), *beyond)
    return beyond
