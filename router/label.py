"""The first stage: what kind of request is this, and is it private? It reads the content; all others read facts."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

from foreshore.config import Config, Tenant
from foreshore.errors import BadRequest
from foreshore.router.content import has_images, last_user_text, text_of, unscannable
from foreshore.router.facts import RequestFacts
from foreshore.router.language import identify
from foreshore.router.privacy import detect
from foreshore.types import Request, ServiceTier

__all__ = ["SESSIONS", "Caller", "as_tenant", "estimate_tokens", "label"]

PRIVATE_WORDS = {"private": True, "1": True, "true": True, "public": False, "0": False, "false": False}
SESSION = "x-foreshore-session"
SESSIONS = re.compile("[!-~]{1,128}")
_TIERS = get_args(ServiceTier)  # the highest first
_SECRET_HEADERS = frozenset({"x-api-key", "x-auth-token", "x-access-token"})
_PER_MESSAGE = 4  # tokens a chat template adds to each message, roughly


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks and how: what the request itself does not say. Header names in lower case."""

    tenant: str = "default"
    private: bool = False  # the tenant is, by the config it was admitted under: a reload since must not open it
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: bool = False
    tier: ServiceTier | None = None  # None: the tenant's own
    body_bytes: int = 0  # of the HTTP body; 0: there was none


def label(request: Request, caller: Caller, config: Config, reads: Collection[str] = ()) -> RequestFacts:
    """Facts for rules. A detector can only make a request private, never public again. The language is looked for only
    if it is among what the rules read."""
    text = text_of(request)
    said = last_user_text(request)
    labels = _labels(request, caller, config, text)
    return RequestFacts(
        task=request.task,
        model=request.model,
        tenant=caller.tenant,
        session=_session(caller.headers.get(SESSION)),
        text=said,
        language=identify(said) if "request.language" in reads else "",
        prompt_tokens=_prompt_tokens(request, text),
        max_tokens=request.sampling.max_tokens or 0,
        messages=len(request.messages),
        has_tools=bool(request.tools),
        has_images=has_images(request),
        wants_json=(request.response_format or {}).get("type") in ("json_object", "json_schema"),
        stream=caller.stream,
        private=bool(labels),
        labels=labels,
        headers={k: v for k, v in caller.headers.items() if k.startswith("x-") and k not in _SECRET_HEADERS},
        deadline_s=max(0.0, request.deadline - time.monotonic()) if request.deadline else 0.0,
    )


def as_tenant(request: Request, caller: Caller, tenants: Iterable[Tenant]) -> Request:
    """`request` with its tenant's weight, and with the tier the caller names, else the tenant's own.

    Raises `BadRequest` for a tier above the tenant's highest.
    """
    tier = caller.tier or (None if request.service_tier == "default" else request.service_tier)
    tenant = next((t for t in tenants if t.name == caller.tenant), None)
    if tenant is None:
        return _weighed(request, request.weight, tier or "default")
    if tier is not None and _TIERS.index(tier) < _TIERS.index(tenant.highest_tier):
        raise BadRequest(
            f"service_tier is {tier!r}; tenant {tenant.name!r} may ask for {tenant.highest_tier!r} at most",
            param="service_tier",
        )
    return _weighed(request, tenant.weight, tier or tenant.service_tier)


def _weighed(request: Request, weight: float, tier: ServiceTier) -> Request:
    if (request.weight, request.service_tier) == (weight, tier):
        return request
    return replace(request, weight=weight, service_tier=tier)


def estimate_tokens(text: str) -> int:
    """About four characters of ASCII, or one of anything else, make a token."""
    ascii_count = sum(map(str.isascii, text)) if not text.isascii() else len(text)
    return (ascii_count + 3) // 4 + len(text) - ascii_count


def _labels(request: Request, caller: Caller, config: Config, text: str) -> tuple[str, ...]:
    privacy, found = config.privacy, list[str]()
    if _asks_for_privacy(caller.headers.get(privacy.header), privacy.header):
        found.append("header")
    if caller.private or any(tenant.private for tenant in config.tenants if tenant.name == caller.tenant):
        found.append("tenant")
    if privacy.unscannable == "private" and unscannable(request):
        found.append("unscannable")
    if len(text) > privacy.scan_characters:
        return (*found, "too_long")
    return (*found, *detect(text, privacy.detectors))


def _asks_for_privacy(value: str | None, header: str) -> bool:
    """A word we do not know must not be read as "public", and one "private" among several values decides."""
    if value is None:
        return False
    try:
        words = [PRIVATE_WORDS[word.strip().lower()] for word in value.split(",")]  # each must be known
    except KeyError:
        raise BadRequest(f"{header} is {value[:40]!r}", hint="it takes 'private' or 'public'") from None
    return any(words)


def _session(value: str | None) -> str:
    if value is None:
        return ""
    if SESSIONS.fullmatch(value) is None:
        raise BadRequest(f"{SESSION} is {value[:40]!r}", hint="it takes one word of at most 128 ASCII characters")
    return value


def _prompt_tokens(request: Request, text: str) -> int:
    if not isinstance(request.prompt, str):
        return len(request.prompt)
    return estimate_tokens(text) + _PER_MESSAGE * len(request.messages)
