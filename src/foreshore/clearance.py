"""Proof that a request passed the constraints, and for which targets.

A cloud backend sends nothing without it. A clearance binds the *content that was scanned* to the
*targets that may see it*: changing either afterwards makes `check` fail, so privacy fails closed.
Only `foreshore.router.constrain` calls `grant` (a test holds that).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from foreshore.errors import BadRequest, RoutingError
from foreshore.types import Request

__all__ = ["Clearance", "check", "digest", "grant"]

_KEY = secrets.token_bytes(32)  # of this process: a clearance neither travels nor outlives it


@dataclass(frozen=True, slots=True, kw_only=True)
class Clearance:
    targets: frozenset[str]
    seal: str  # HMAC-SHA256 over content digest and targets


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else dict(value)


_JSON = json.JSONEncoder(sort_keys=True, default=_plain)


def digest(request: Request) -> str:
    """SHA-256 (hex) over everything in `request` that a provider would be sent. `BadRequest` if that is not JSON."""
    content = {
        "task": request.task,
        "messages": request.messages,
        "prompt": request.prompt,
        "inputs": request.inputs,
        "query": request.query,
        "tools": request.tools,
        "tool_choice": request.tool_choice,
        "response_format": request.response_format,
        "stop": request.sampling.stop,
        "grammar": request.sampling.grammar,
        "dry_sequence_breakers": request.sampling.dry_sequence_breakers,
        "samplers": request.sampling.samplers,
        "extra": request.extra,
    }
    try:
        text = _JSON.encode(content)
    except (TypeError, ValueError) as error:  # bytes, say, or a list that holds itself
        raise BadRequest(f"the request is not JSON: {error}", hint="see OpenAI's chat format") from error
    return hashlib.sha256(text.encode()).hexdigest()


def grant(request: Request, targets: Iterable[str]) -> Request:
    """`request` with a clearance for `targets`."""
    allowed = frozenset(targets)
    return replace(request, clearance=Clearance(targets=allowed, seal=_seal(digest(request), allowed)))


def check(request: Request, target: str) -> None:
    """Raise `RoutingError` unless `request`, exactly as it is now, was cleared for `target`."""
    clearance = request.clearance
    if clearance is None:
        raise _refusal(target, "the request never passed the constraints")
    if target not in clearance.targets:
        raise _refusal(target, "the constraints do not allow this target")
    if not hmac.compare_digest(clearance.seal, _seal(digest(request), clearance.targets)):
        raise _refusal(target, "the content changed after the constraints were checked")


def _seal(content_digest: str, targets: frozenset[str]) -> str:
    # JSON keeps target names with separators in them apart.
    return hmac.new(_KEY, json.dumps([content_digest, sorted(targets)]).encode(), "sha256").hexdigest()


def _refusal(target: str, reason: str) -> RoutingError:
    return RoutingError(f"not sent to target {target!r}: {reason}", reasons={target: reason})
