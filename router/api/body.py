"""Reading a request body that anyone may have written: bounded, strict JSON, nothing that means two things."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from foreshore.errors import BadRequest, BodyTooLarge

__all__ = ["parse_json", "read_body"]

MAX_DEPTH = 64
MAX_VALUES = 250_000  # in one body, keys included: each costs time wherever the request is read


async def read_body(pieces: AsyncIterator[bytes], *, limit: int, declared: str | None) -> bytes:
    """The whole body; refuses at the first byte too many."""
    if declared is not None and declared.isdigit() and int(declared[:19]) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def parse_json(raw: bytes, content_type: str | None) -> dict[str, Any]:
    """The JSON object in `raw`. Refuses duplicate keys, NaN and infinities, deep nesting and lone surrogates."""
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise BadRequest(f"the content type is {(content_type or '')[:60]!r}", hint="send 'application/json'")
    try:
        value = json.loads(raw, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise _too_deep() from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:  # an integer of thousands of digits
        raise BadRequest("the body holds a number that is too long") from error
    if not isinstance(value, dict):
        raise BadRequest(f"the body must be a JSON object, not {type(value).__name__}")
    _check(value)
    return value


def _check(value: Any) -> None:
    """Number, depth and text of everything in `value`, without recursion."""
    stack, seen = [(value, 1)], 0
    while stack:
        seen += 1
        if seen + len(stack) > MAX_VALUES:
            raise BadRequest(f"the body holds more than {MAX_VALUES} values")
        item, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise _too_deep()
        if isinstance(item, dict):
            stack.extend((child, depth + 1) for pair in item.items() for child in pair)
        elif isinstance(item, list):
            stack.extend((child, depth + 1) for child in item)
        elif isinstance(item, str) and not item.isascii():
            _check_text(item)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest("the body holds half of a surrogate pair, which is no character") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise BadRequest(f"the key {twice[:100]!r} stands twice in one object", param=twice[:100])
    return found


def _no_constant(name: str) -> Any:
    raise BadRequest(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadRequest(f"the number {text[:40]} is too large")
    return value


def _too_deep() -> BadRequest:
    return BadRequest(f"the body is nested deeper than {MAX_DEPTH} levels")


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {limit} bytes", hint="limits.body_bytes in the config sets this")
