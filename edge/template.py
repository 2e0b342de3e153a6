"""Renders a model's chat template, which is code from a file one may not trust, and keeps user text apart from it.

Follows the conventions of Hugging Face's `apply_chat_template`: Jinja2 with trimmed blocks, loop controls,
`raise_exception`, `strftime_now`, `tojson` without HTML escapes, and the `generation` block.

What is guaranteed: no string of a message or a tool can produce a control token. Where such a string spells
one, it is replaced by a random mark before rendering; afterwards the marks become the user's text again, in
segments that are tokenized without control tokens. Tokens the file marks as user-defined (often `<think>` and
`<tool_call>`) are ordinary text to llama.cpp and stay so.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from foreshore.errors import BadRequest, ModelError

__all__ = ["ChatTemplate", "Segment"]

RENDER_SECONDS = 2.0
MAX_OUTPUT = 16 * 1024 * 1024  # characters
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of the rendered prompt. `trusted`: control tokens in it count."""

    text: str
    trusted: bool


class ChatTemplate:
    """Raises `ModelError` where `source` is not a template."""

    def __init__(self, source: str, *, tokens: Mapping[str, str], control: re.Pattern[str] | None) -> None:
        self.source = source
        self._tokens = dict(tokens)  # bos_token, eos_token
        self._control = control
        try:
            self._template = _ENVIRONMENT.from_string(source)
        except (TemplateError, RecursionError, SyntaxError) as error:
            raise ModelError(f"the model's chat template is damaged: {error}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Segment, ...]:
        """The prompt that ends where the assistant's answer begins. `options` go to the template as they are."""
        marks = _Marks(self._control)
        variables = {
            **self._tokens,
            **marks.hide(options or {}),
            "messages": marks.hide(list(messages)),
            "tools": marks.hide(list(tools)) or None,
            "add_generation_prompt": True,
        }
        return marks.reveal(self._render(variables))

    def _render(self, variables: dict[str, Any]) -> str:
        parts: list[str] = []
        size = 0
        with _TimeLimit(RENDER_SECONDS):
            try:
                for part in self._template.generate(variables):
                    size += len(part)
                    if size > MAX_OUTPUT:
                        raise BadRequest(f"the chat template wrote more than {MAX_OUTPUT} characters", param="messages")
                    parts.append(part)
            except BadRequest:
                raise
            except Exception as error:  # a template may raise anything that Python can
                raise BadRequest(
                    f"the model's chat template refuses these messages: {error}", param="messages"
                ) from error
        return "".join(parts)


class _Marks:
    """Hides control tokens in user text behind random marks, and cuts the prompt along these afterwards."""

    def __init__(self, control: re.Pattern[str] | None) -> None:
        self._control = control
        self._nonce = secrets.token_hex(8)
        self._hidden: list[str] = []

    def hide(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._control.sub(self._mark, value) if self._control else value
        if isinstance(value, Mapping):
            return {self.hide(k): self.hide(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(v) for v in value]
        return value

    def reveal(self, text: str) -> tuple[Segment, ...]:
        parts = re.split(f"q{self._nonce}x(\\d+)z", text)
        segments = [
            Segment(self._hidden[int(part)], trusted=False) if i % 2 else Segment(part, trusted=True)
            for i, part in enumerate(parts)
        ]
        return tuple(s for s in segments if s.text)

    def _mark(self, found: re.Match[str]) -> str:
        self._hidden.append(found.group())
        return f"q{self._nonce}x{len(self._hidden) - 1}z"


class _TimeLimit:
    """Stops Python code of this thread after `seconds`: compiled templates are Python, and a tracer sees each line."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def __enter__(self) -> None:
        self._outer = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._outer)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if time.monotonic() > self._end:
            raise TemplateError(f"it ran longer than {RENDER_SECONDS:g} s")
        return self._trace


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, and besides no operation that makes a huge string or number in one step."""

    intercepted_binops = frozenset({"*", "**", "%", "<<"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        small = all(isinstance(v, (int, float)) and abs(v) < 1e9 for v in (left, right))
        wide = isinstance(left, str) and _pads(left) if operator == "%" else not small
        if wide:
            raise TemplateError(f"the operation {operator!r} is not allowed on these values")
        if operator == "**" and abs(right) > 64:
            raise TemplateError(f"the exponent {right!r} is too large")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _PADDING and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _pads(value.__self__):
            raise TemplateError("wide padding is not allowed")
        return wrapped


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; when a prompt is rendered it means nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it as a plain set

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _pads(text: str) -> bool:
    return re.search(r"\d{4}|\*", text) is not None


def _raise(message: str) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    allowed = {k: v for k, v in options.items() if k in ("indent", "separators", "sort_keys")}
    if isinstance(allowed.get("indent"), int):
        allowed["indent"] = min(allowed["indent"], 8)
    return json.dumps(value, ensure_ascii=ensure_ascii, **allowed)


def _environment() -> _Environment:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    for name in ("center", "indent", "format", "pprint", "xmlattr", "urlize", "wordwrap"):
        environment.filters.pop(name)
    environment.filters["indent"] = lambda text, width=4, first=False, blank=False: _indent(text, width, first, blank)
    environment.filters["tojson"] = _tojson
    environment.globals = {  # Jinja's own, without `lipsum`, which writes as much as one asks for
        **{k: v for k, v in environment.globals.items() if k != "lipsum"},
        "raise_exception": _raise,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    return environment


def _indent(text: str, width: int | str, first: bool, blank: bool) -> str:
    pad = width[:32] if isinstance(width, str) else " " * min(width, 32)
    head, *rest = str(text).split("\n")
    lines = [pad + head if first else head, *(pad + line if line or blank else line for line in rest)]
    return "\n".join(lines)


_ENVIRONMENT = _environment()
