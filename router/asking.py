"""A request as someone describes it, outside of HTTP: read by the gateway's own door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from foreshore.config import Config
from foreshore.errors import BadRequest, NotFound
from foreshore.router.api.openai import ChatBody, CompletionBody, EmbeddingBody
from foreshore.router.fields import BaseBody, parse
from foreshore.router.label import Caller
from foreshore.types import Request, Sampling

__all__ = ["DOORS", "asked", "caller_of", "says"]

DOORS: Mapping[str, type[Any]] = {"messages": ChatBody, "prompt": CompletionBody, "input": EmbeddingBody}


def asked(
    body: Mapping[str, Any], config: Config, *, tenant: str = "default", headers: Mapping[str, str] | None = None
) -> tuple[Request, Caller]:
    """`body`: as an OpenAI client sends it to chat, completions or embeddings. Raises `BadRequest` as the door does."""
    kind = next((door for key, door in DOORS.items() if key in body), None)
    if kind is None:
        raise BadRequest(f"the body has none of {', '.join(DOORS)}", hint="write it as an OpenAI client sends it")
    raw = {"model": "auto", **body}
    read: BaseBody = parse(kind, raw)
    caller = caller_of(config, tenant, headers or {})
    request: Request = read.request(raw)  # type: ignore[attr-defined]
    return replace(request, tenant=tenant), replace(caller, stream=read.streams, tier=read.tier)


def says(text: str, *, model: str = "auto", max_tokens: int | None = None, tenant: str = "default") -> Request:
    """A chat of one message."""
    message = {"role": "user", "content": text}
    return Request(model=model, messages=(message,), sampling=Sampling(max_tokens=max_tokens), tenant=tenant)


def caller_of(config: Config, tenant: str, headers: Mapping[str, str]) -> Caller:
    """Raises `NotFound` for a tenant that the config does not have."""
    known = [t.name for t in config.tenants]
    if tenant not in (*known, "default"):
        raise NotFound(f"there is no tenant {tenant!r}", hint=f"known are {', '.join(known) or 'none'}")
    private = any(t.private for t in config.tenants if t.name == tenant)
    return Caller(tenant=tenant, private=private, headers={k.lower(): v for k, v in headers.items()})
