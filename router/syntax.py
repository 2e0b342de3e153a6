"""The syntax tree of a CEL expression. The engine that evaluates expressions shows none, and a proof needs one.

It reads what the engine accepts, by CEL's published grammar; the engine stays the judge of what is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

__all__ = ["Beyond", "Node", "parse", "walk"]

Kind = Literal["literal", "name", "member", "index", "call", "method", "unary", "binary", "ternary", "list", "map"]

MAX_DEPTH = 100
_TOKEN = re.compile(
    r"(?P<space>\s+|//[^\n]*)"
    r"|(?P<raw>(?:[rR][bB]?|[bB][rR])(?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|\"[^\"\n]*\"|'[^'\n]*'))"
    r"|(?P<string>[bB]?(?:\"\"\"(?:\\[\s\S]|[\s\S])*?\"\"\"|'''(?:\\[\s\S]|[\s\S])*?'''"
    r"|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'))"
    r"|(?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:\d+\.\d+|\.\d+|\d+(?=[eE]))(?:[eE][+-]?\d+)?|\d+[uU]?)"
    r"|(?P<name>[A-Za-z_]\w*)"
    r"|(?P<mark>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]{}])"
)
_BINDING = {"||": 2, "&&": 3, **dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "in"), 4)}
_BINDING |= {**dict.fromkeys("+-", 5), **dict.fromkeys("*/%", 6)}
_TERNARY, _UNARY = 1, 7


class Beyond(Exception):
    """An expression that cannot be read here: nested too deeply, or syntax that only the engine knows."""


@dataclass(frozen=True, slots=True)
class Node:
    """One part of an expression. `source[start:end]` is its text, parentheses around it included.

    `text`: an operator, a name, a field, a function, or a literal as written. `parts`: what it applies to; of a method,
    the receiver first. Chains of `&&` and of `||` are one node with many parts.
    """

    kind: Kind
    text: str
    parts: tuple[Node, ...]
    start: int
    end: int
    depth: int = 1


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


@lru_cache(maxsize=4096)
def parse(source: str) -> Node:
    """Raises `Beyond`."""
    reader = _Reader(source)
    node = reader.expression(0)
    if reader.next.kind != "end":
        raise Beyond(f"cannot be read from {reader.next.text!r} on")
    return node


def walk(node: Node) -> Iterator[Node]:
    """It and every part of it, outermost first."""
    yield node
    for part in node.parts:
        yield from walk(part)


def _tokens(source: str) -> Iterator[_Token]:
    at = 0
    while at < len(source):
        found = _TOKEN.match(source, at)
        if found is None:
            raise Beyond(f"cannot be read from {source[at : at + 10]!r} on")
        at = found.end()
        if found.lastgroup != "space":
            yield _Token(str(found.lastgroup), found.group(), found.start(), at)
    yield _Token("end", "", at, at)


class _Reader:
    """Precedence climbing: each operator takes what binds tighter to its right."""

    def __init__(self, source: str) -> None:
        self._tokens = _tokens(source)
        self.next = next(self._tokens)
        self._open = 0

    def expression(self, binding: int) -> Node:
        self._open += 1
        if self._open > MAX_DEPTH:
            raise Beyond(f"is nested deeper than {MAX_DEPTH}")
        left = self._prefix()
        while (power := self._power()) > binding:
            left = self._choice(left) if power == _TERNARY else self._operation(left, power)
        self._open -= 1
        return left

    def _power(self) -> int:
        if self.next.kind not in ("mark", "name"):
            return 0
        return _TERNARY if self.next.text == "?" else _BINDING.get(self.next.text, 0)

    def _operation(self, left: Node, power: int) -> Node:
        sign = self._take().text
        right = self.expression(power)
        chained = sign in ("&&", "||") and left.kind == "binary" and left.text == sign
        parts = (*left.parts, right) if chained else (left, right)
        return _node("binary", sign, parts, left.start, right.end)

    def _choice(self, condition: Node) -> Node:
        self._expect("?")
        yes = self.expression(_TERNARY)
        self._expect(":")
        no = self.expression(0)
        return _node("ternary", "?", (condition, yes, no), condition.start, no.end)

    def _prefix(self) -> Node:
        if self.next.text in ("!", "-") and self.next.kind == "mark":
            sign = self._take()
            of = self.expression(_UNARY - 1)
            return _node("unary", sign.text, (of,), sign.start, of.end)
        return self._suffixes(self._primary())

    def _primary(self) -> Node:
        token = self._take()
        if token.kind in ("number", "string", "raw") or token.text in ("true", "false", "null"):
            return _node("literal", token.text, (), token.start, token.end)
        if token.kind == "name":
            if self.next.text == "(":
                parts, end = self._arguments("(", ")")
                return _node("call", token.text, parts, token.start, end)
            return _node("name", token.text, (), token.start, token.end)
        if token.text == "(":
            inner = self.expression(0)
            end = self._expect(")")
            return Node(inner.kind, inner.text, inner.parts, token.start, end, inner.depth)
        if token.text == "[":
            parts, end = self._items("]")
            return _node("list", "[", parts, token.start, end)
        if token.text == "{":
            parts, end = self._items("}")
            return _node("map", "{", parts, token.start, end)
        raise Beyond(f"cannot be read from {token.text!r} on")

    def _suffixes(self, node: Node) -> Node:
        while self.next.text in (".", "["):
            if self._take().text == "[":
                key = self.expression(0)
                node = _node("index", "[", (node, key), node.start, self._expect("]"))
                continue
            field = self._take()
            if field.kind != "name":
                raise Beyond(f"cannot be read from {field.text!r} on")
            if self.next.text == "(":
                parts, end = self._arguments("(", ")")
                node = _node("method", field.text, (node, *parts), node.start, end)
            else:
                node = _node("member", field.text, (node,), node.start, field.end)
        return node

    def _arguments(self, opening: str, closing: str) -> tuple[tuple[Node, ...], int]:
        self._expect(opening)
        return self._items(closing)

    def _items(self, closing: str) -> tuple[tuple[Node, ...], int]:
        """What stands up to `closing`, keys and values of a map alike, and where that ends."""
        parts: list[Node] = []
        while self.next.text != closing:
            parts.append(self.expression(0))
            if self.next.text in (",", ":"):
                self._take()
            elif self.next.text != closing:
                raise Beyond(f"cannot be read from {self.next.text!r} on")
        return tuple(parts), self._expect(closing)

    def _take(self) -> _Token:
        token = self.next
        if token.kind == "end":
            raise Beyond("ends too early")
        self.next = next(self._tokens)
        return token

    def _expect(self, text: str) -> int:
        token = self._take()
        if token.text != text:
            raise Beyond(f"cannot be read from {token.text!r} on")
        return token.end


def _node(kind: Kind, text: str, parts: tuple[Node, ...], start: int, end: int) -> Node:
    depth = 1 + max((part.depth for part in parts), default=0)
    if depth > MAX_DEPTH:
        raise Beyond(f"is nested deeper than {MAX_DEPTH}")
    return Node(kind, text, parts, start, end, depth)
