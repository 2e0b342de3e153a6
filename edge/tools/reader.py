"""Reads one block of tool calls while it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from foreshore.edge.tools.formats import ToolFormat
from foreshore.edge.tools.steps import BLANK, NAME, TEXT, JsonSpan, match_any

__all__ = ["CallPiece", "Reader", "Reading", "reader"]

# The first keys that an object may have and be a call; any other says at once that it is an answer in JSON.
_CALL_KEYS = ('"name"', '"arguments"', '"parameters"', '"type"', '"function"', '"id"')
_NAMED = ("{", BLANK, '"name"', BLANK, ":", BLANK, TEXT)
_KIMI_NAME = re.compile(r"(?:functions\.)?(.+?)(?::\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPiece:
    """`name` begins a call; `arguments` is the next part of its JSON text."""

    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the first `used` letters were. "not" is said only before any piece: the block is none, and `used` is 0."""

    state: Literal["more", "done", "not"]
    used: int = 0
    pieces: tuple[CallPiece, ...] = ()


class Reader(Protocol):
    def read(self, text: str, final: bool) -> Reading:
        """Go on with `text`: what the last reading did not use, and all that came since. `final`: no more will come."""


def reader(form: ToolFormat, tools: Mapping[str, Mapping[str, Any]], *, opened_by: str) -> Reader:
    """A reader of one block, whose tag `opened_by` ("" for none) was read. `tools`: each one's parameters by name."""
    if form.tags is not None:
        return _Tagged(form.tags, tools, inside=opened_by == "<function=")
    return _Written(form, frozenset(tools) if form.bare else None)


class _Written:
    """Calls whose arguments are JSON. From a call's first argument on it is a call, whatever follows."""

    def __init__(self, form: ToolFormat, known: frozenset[str] | None) -> None:
        self._form, self._known = form, known
        self._phase: Literal["enter", "arguments", "tail", "after"] = "enter"
        self._span = JsonSpan()
        self._called = False

    def read(self, text: str, final: bool) -> Reading:
        at = 0
        pieces: list[CallPiece] = []
        while True:
            step = getattr(self, f"_{self._phase}")(text, at, final)
            if isinstance(step, Reading):
                state = ("done" if self._called else "not") if final and step.state == "more" else step.state
                return Reading(state=state, used=at + step.used, pieces=_joined([*pieces, *step.pieces]))
            used, piece = step
            at += used
            pieces += [piece] if piece is not None else []

    def _enter(self, text: str, at: int, final: bool) -> Any:
        match = match_any(self._form.enter, text, at)
        if match is None or (final and match.end is None):
            return Reading(state="not")
        if match.end is None:
            return Reading(state="more")
        # Nothing is used up before it is sure that this is a call: what is none is given out as it was.
        return self._head(text, match.end, final, begun=at)

    def _head(self, text: str, at: int, final: bool, begun: int) -> Any:
        if self._known is not None:
            named = match_any([_NAMED], text, at)
            if named is not None and named.end is not None and _name(named.found[0], self._form) not in self._known:
                return self._no_call()
        match = match_any(self._form.heads, text, at)
        if match is not None and match.end is not None:
            name = _name(match.found[0], self._form)
            if match.end == len(text) and not final:
                return Reading(state="more")
            if text[match.end : match.end + 1] == "{":
                return self._begin(name, match.end - begun)
            match = None
        if match is not None and not final:
            return Reading(state="more")
        if match is None and self._form.objects and text.startswith("{", at):
            return self._whole(text, at, begun)
        return self._no_call()

    def _begin(self, name: str, used: int) -> tuple[int, CallPiece]:
        self._phase, self._called, self._span = "arguments", True, JsonSpan()
        return used, CallPiece(name=name)

    def _whole(self, text: str, at: int, begun: int) -> Any:
        """A call with its keys in another order, or arguments that are no object: known when it is complete."""
        keys = match_any([("{", BLANK, _CALL_KEYS)], text, at)
        if self._known is not None and keys is None:
            return self._no_call()
        span = JsonSpan()
        end = span.feed(text, at)
        if not span.done:
            return self._no_call() if span.broken else Reading(state="more")
        call = _read_object(text[at:end], strict=self._known is not None)
        if call is None or (self._known is not None and call[0] not in self._known):
            return self._no_call()
        self._phase, self._called = "after", True
        return end - begun, CallPiece(name=call[0], arguments=call[1])

    def _no_call(self) -> Reading:
        return Reading(state="done" if self._called else "not")

    def _arguments(self, text: str, at: int, final: bool) -> Any:
        end = self._span.feed(text, at)
        piece = CallPiece(arguments=text[at:end]) if end > at else None
        if self._span.done:
            self._phase = "tail"
            return end - at, piece
        state: Literal["more", "done"] = "done" if final or self._span.broken else "more"
        return Reading(state=state, used=end - at, pieces=(piece,) if piece else ())

    def _tail(self, text: str, at: int, final: bool) -> Any:
        return self._pass(self._form.tail, text, at, final, then="after")

    def _after(self, text: str, at: int, final: bool) -> Any:
        match = match_any(self._form.again, text, at)
        if match is not None and match.end is not None:
            return self._head(text, match.end, final, begun=at)
        if match is not None and not final:
            return Reading(state="more")
        return self._pass(self._form.leave, text, at, final, then=None)

    def _pass(self, patterns: Any, text: str, at: int, final: bool, then: Any) -> Any:
        """Skip what must stand here; where it does not, the call is over all the same."""
        match = match_any(patterns, text, at)
        if match is None:
            return Reading(state="done")
        if match.end is None:
            return Reading(state="done", used=len(text) - at) if final else Reading(state="more")
        if then is None:
            return Reading(state="done", used=match.end - at)
        self._phase = then
        return match.end - at, None


class _Tagged:
    """Calls whose parameters stand between tags, each as plain text; read when the call is complete."""

    def __init__(self, kind: str, tools: Mapping[str, Mapping[str, Any]], *, inside: bool) -> None:
        self._kind, self._tools, self._inside = kind, tools, inside

    def read(self, text: str, final: bool) -> Reading:
        body, close = (_GLM_BODY, _GLM_CLOSE) if self._kind == "glm" else (_QWEN_BODY, _QWEN_CLOSE)
        start = "" if self._kind == "glm" or self._inside else "<function="
        head = match_any([(BLANK, start, NAME)], text)
        if head is None:
            return Reading(state="not")
        end = text.find(close)
        if end < 0:
            return Reading(state="not" if final else "more")
        return self._call(head.found[0], body, text, end + len(close), final)

    def _call(self, name: str, body: re.Pattern[str], text: str, end: int, final: bool) -> Reading:
        if self._kind == "qwen" and not self._inside:
            closed = match_any([(BLANK, "</tool_call>")], text, end)
            if closed is not None and closed.end is None and not final:
                return Reading(state="more")
            end = end if closed is None else len(text) if closed.end is None else closed.end
        types = _types(self._tools.get(name, {}))
        arguments = {key.strip(): _typed(value, types.get(key.strip())) for key, value in body.findall(text[:end])}
        written = json.dumps(arguments, ensure_ascii=False)
        return Reading(state="done", used=end, pieces=(CallPiece(name=name, arguments=written),))


_QWEN_CLOSE, _GLM_CLOSE = "</function>", "</tool_call>"
_QWEN_BODY = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?(?:</parameter>|(?=<parameter=)|(?=</function>))", re.S)
_GLM_BODY = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.S)


def _types(parameters: Mapping[str, Any]) -> dict[str, Any]:
    properties = parameters.get("properties")
    found = properties.items() if isinstance(properties, Mapping) else ()
    return {name: schema.get("type") for name, schema in found if isinstance(schema, Mapping)}


def _typed(value: str, kind: Any) -> Any:
    """`value` as its parameter's schema has it: text stays text, all else is JSON if it can be."""
    if kind == "string":
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _name(found: str, form: ToolFormat) -> str:
    if found.startswith('"'):
        return str(json.loads(found, strict=False)) if _is_json(found) else found.strip('"')
    if form.name == "kimi":
        whole = _KIMI_NAME.fullmatch(found)
        return whole.group(1) if whole else found
    return found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _joined(pieces: list[CallPiece]) -> tuple[CallPiece, ...]:
    """Arguments put to the name, or to other arguments, before them."""
    joined: list[CallPiece] = []
    for piece in pieces:
        if piece.name is None and joined:
            joined[-1] = CallPiece(name=joined[-1].name, arguments=joined[-1].arguments + piece.arguments)
        else:
            joined.append(piece)
    return tuple(joined)


def _read_object(body: str, *, strict: bool) -> tuple[str, str] | None:
    """Name and arguments (JSON text) of a call, or `None` where `body` is not one. `strict`: only with arguments."""
    try:
        call = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        call = call["function"]
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    if strict and not {"arguments", "parameters"} & set(call):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
