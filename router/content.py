"""Every piece of text in a request that a provider would be sent, read the way a detector should read it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from foreshore.types import Request

__all__ = ["has_images", "last_user_text", "readable", "text_of", "unscannable"]

_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "tool_result"})
_IMAGES = frozenset({"image_url", "input_image", "image"})
_DASHES = re.compile("[\u2010-\u2015\u2212\u00ad]")
_MAX_JSON_DEPTH = 4  # JSON text inside JSON text; deeper is read as plain text only
_LONG_NUMBER = 10**9
_PROTOCOL = frozenset(  # words of the API itself: they hold nothing of the caller's
    (
        *("role", "content", "type", "text", "name", "function", "tool_calls", "tool_call_id", "arguments", "id"),
        *("user", "system", "assistant", "tool", "developer"),
        *("parameters", "properties", "description", "object", "string"),
    )
)


def text_of(request: Request) -> str:
    """All text that would be sent, one piece a line: messages of every role, tools, arguments, prompt, extras.

    Covers what `clearance.digest` covers. JSON inside strings is read too, so that an escape hides nothing.
    """
    content = (
        request.messages,
        request.prompt,
        request.inputs,
        request.query,
        request.tools,
        request.tool_choice,
        request.response_format,
        request.sampling.stop,
        request.sampling.grammar,
        request.sampling.dry_sequence_breakers,
        request.sampling.samplers,
        request.extra,
    )
    words: list[str] = []  # keys, roles, types: apart, so that they do not stand between two parts of one text
    text = "\n".join(_strings(content, words))
    return readable("\n".join((text, *words)))


def readable(text: str) -> str:
    """`text` with compatibility forms folded (NFKC), dashes made one, every script's digits made 0 to 9, and
    invisible characters removed."""
    if text.isascii():
        return text
    folded = _DASHES.sub("-", unicodedata.normalize("NFKC", text))
    return "".join(c if c.isascii() else _plain(c) for c in folded)


def _plain(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    return "" if kind in ("Cf", "Mn") else character


def unscannable(request: Request) -> bool:
    """Whether a part of the content is no text: an image, audio, a file, token ids."""
    if not isinstance(request.prompt, str):
        return True
    for message in request.messages:
        parts = message.get("content")
        if isinstance(parts, (list, tuple)) and any(_kind(part) not in _TEXT_PARTS for part in parts):
            return True
    return False


def has_images(request: Request) -> bool:
    """Whether any message shows one, in OpenAI's words or Anthropic's."""
    contents = (message.get("content") for message in request.messages)
    return any(_kind(part) in _IMAGES for parts in contents if isinstance(parts, (list, tuple)) for part in parts)


def last_user_text(request: Request) -> str:
    """What the user said last: the text a rule wants to look at."""
    for message in reversed(request.messages):
        if message.get("role") == "user":
            return plain_text(message.get("content"))
    prompt = request.prompt if isinstance(request.prompt, str) else ""
    return request.query or prompt or "\n".join(request.inputs)


def plain_text(content: Any) -> str:
    """A message's content, string or parts, as text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else ()
    return "\n".join(str(p.get("text") or "") for p in parts if isinstance(p, Mapping))


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else None


def _strings(value: Any, words: list[str]) -> Iterator[str]:
    """Strings and long numbers in `value`, in order, without recursion; keys, roles and types go into `words`."""
    stack = [(value, 0)]
    while stack:
        item, level = stack.pop()
        if isinstance(item, str):
            yield item
            if level < _MAX_JSON_DEPTH and (inner := _json_in(item)) is not None:
                stack.append((inner, level + 1))
        elif isinstance(item, Mapping):
            words.extend(str(key) for key in item if key not in _PROTOCOL)
            words.extend(w for k in ("role", "type") if isinstance(w := item.get(k), str) and w not in _PROTOCOL)
            kept = [v for k, v in item.items() if k not in ("role", "type") or not isinstance(v, str)]
            stack.extend((v, level) for v in reversed(kept))
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack.extend((v, level) for v in reversed(tuple(item)))
        elif isinstance(item, (int, float)) and _LONG_NUMBER <= abs(item) < float("inf"):
            yield str(int(item))


def _json_in(text: str) -> Any:
    """The value of JSON text that can hide something a plain reading misses (an escape), else None."""
    start = text.lstrip()[:1]
    if start not in ("{", "[", '"') or "\\" not in text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
