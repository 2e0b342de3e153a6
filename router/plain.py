"""A CEL expression of plain parts as Python code, which runs in a tenth of the time that CEL needs to convert a field.

Plain is what cannot fail and means the same in both: fields, literals, comparisons of like with like, logic, `in`, text
functions, `exists` and `all`, arithmetic on doubles. Whatever else an expression holds, CEL evaluates it as a whole.
The code is built as a tree, never from text, and a test holds both to the same answers.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache

import cel
from pydantic_core import SchemaError, SchemaValidator, core_schema

from foreshore.router.facts import PARTS
from foreshore.router.program import each_of, one_of
from foreshore.router.syntax import Beyond, Node, parse

__all__ = ["HELPERS", "Plain", "matcher", "plain"]

Typed = tuple[ast.expr, str]

_KINDS = {"bool": "bool", "int": "int", "float": "double", "str": "string", "Task": "string",
          "tuple[str, ...]": "strings", "Mapping[str, str]": "map"}  # fmt: skip
_FIELDS = {f"{part}.{f.name}": _KINDS[str(f.type)] for part, facts in PARTS.items() for f in fields(facts)}
_NUMBERS = ("int", "double")
_COMPARE: dict[str, Callable[[], ast.cmpop]] = {
    "==": ast.Eq, "!=": ast.NotEq, "<": ast.Lt, "<=": ast.LtE, ">": ast.Gt, ">=": ast.GtE,
}  # fmt: skip
_ADD: dict[str, Callable[[], ast.operator]] = {"+": ast.Add, "-": ast.Sub, "*": ast.Mult}
_LITERALS = {bool: "bool", int: "int", float: "double", str: "string"}


class Plain:
    """One condition, written as `tree`. What `one` and `each` give, CEL gives; where they raise, only CEL can tell."""

    __slots__ = ("each", "one", "tree")

    def __init__(self, tree: ast.expr) -> None:
        self.tree = tree
        self.one, self.each = one_of(tree, HELPERS), each_of(tree, HELPERS)


def plain(source: str) -> Plain | None:
    """None where `source` is not plain."""
    try:
        made, kind = _Writer().write(parse(source))
    except (Beyond, RecursionError):
        return None
    return Plain(made) if kind == "bool" else None


@lru_cache(256)
def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a text holds what `pattern` means. pydantic has the same Rust engine as CEL's `matches`, which compiles
    its pattern at each call. Raises `ValueError`, without the pattern, which may be a caller's words."""
    try:
        schema = core_schema.str_schema(pattern=pattern, strict=True, regex_engine="rust-regex")
        search = SchemaValidator(schema).isinstance_python
    except SchemaError:
        raise ValueError("not a valid regex") from None

    def matches(text: str) -> bool:
        if search(text):
            return True
        text.encode()  # what is no Unicode matches nothing there, and must not pass for harmless
        return False

    return matches


class _Writer:
    """Writes each node as Python, with its kind; raises `Beyond` for what is not plain."""

    def __init__(self) -> None:
        self._bound: dict[str, str] = {}  # names that macros give to items, and what they are called here

    def write(self, node: Node) -> Typed:
        writers: dict[str, Callable[[Node], Typed]] = {
            "literal": self._literal, "name": self._name, "member": self._member, "call": self._call,
            "method": self._method, "unary": self._unary, "binary": self._binary, "ternary": self._ternary,
            "list": self._list,
        }  # fmt: skip
        writer = writers.get(node.kind)
        if writer is None:
            raise Beyond("is not plain")
        return writer(node)

    def _literal(self, node: Node) -> Typed:
        try:
            value = cel.evaluate(node.text, {})
        except ValueError:
            raise Beyond("is not plain") from None
        if (
            type(value) not in _LITERALS
            or node.text[-1:] in "uU"
            or (type(value) is float and not math.isfinite(value))
        ):
            raise Beyond("is not plain")
        return ast.Constant(value), _LITERALS[type(value)]

    def _name(self, node: Node) -> Typed:
        if node.text not in self._bound:
            raise Beyond("is not plain")
        return _load(self._bound[node.text]), "string"

    def _member(self, node: Node) -> Typed:
        (of,) = node.parts
        kind = _FIELDS.get(f"{of.text}.{node.text}")
        if of.kind != "name" or of.text in self._bound or kind is None:
            raise Beyond("is not plain")
        return ast.Attribute(_load(of.text), node.text, ast.Load()), kind

    def _unary(self, node: Node) -> Typed:
        made, kind = self.write(node.parts[0])
        if node.text == "!":
            return ast.UnaryOp(ast.Not(), _of(made, kind, "bool")), "bool"
        return ast.UnaryOp(ast.USub(), _of(made, kind, "double")), "double"

    def _binary(self, node: Node) -> Typed:
        parts = list(map(self.write, node.parts))
        if node.text in ("&&", "||"):
            operator = ast.And() if node.text == "&&" else ast.Or()
            return ast.BoolOp(operator, [_of(made, kind, "bool") for made, kind in parts]), "bool"
        (left, of), (right, to) = parts
        if node.text in _ADD:
            return ast.BinOp(_of(left, of, "double"), _ADD[node.text](), _of(right, to, "double")), "double"
        if node.text == "in":
            _of(left, of, "string")
            return ast.Compare(left, [ast.In()], [_of(right, to, "strings", "map")]), "bool"
        if node.text not in _COMPARE or not _alike(of, to, ordered=node.text not in ("==", "!=")):
            raise Beyond("is not plain")
        return ast.Compare(left, [_COMPARE[node.text]()], [right]), "bool"

    def _list(self, node: Node) -> Typed:
        return ast.Tuple([_of(*self.write(part), "string") for part in node.parts], ast.Load()), "strings"

    def _ternary(self, node: Node) -> Typed:
        (condition, is_bool), (yes, of), (no, to) = map(self.write, node.parts)
        return ast.IfExp(_of(condition, is_bool, "bool"), yes, _of(no, to, of)), of

    def _call(self, node: Node) -> Typed:
        if node.text != "size" or len(node.parts) != 1:
            raise Beyond("is not plain")
        return self._size(*self.write(node.parts[0]))

    def _size(self, made: ast.expr, kind: str) -> Typed:
        helper = "bytes_of" if kind == "string" else "len"
        return ast.Call(_load(helper), [_of(made, kind, "string", "strings", "map")], []), "int"

    def _method(self, node: Node) -> Typed:
        receiver, kind = self.write(node.parts[0])
        if node.text == "size" and len(node.parts) == 1:
            return self._size(receiver, kind)
        if node.text in ("exists", "all") and len(node.parts) == 3:
            return self._each(node, _of(receiver, kind, "strings"))
        if len(node.parts) != 2:
            raise Beyond("is not plain")
        text, (given, of) = _of(receiver, kind, "string"), self.write(node.parts[1])
        if node.text == "contains":
            return ast.Compare(_of(given, of, "string"), [ast.In()], [text]), "bool"
        python = {"startsWith": "startswith", "endsWith": "endswith"}.get(node.text)
        if python is not None:
            return ast.Call(ast.Attribute(text, python, ast.Load()), [_of(given, of, "string")], []), "bool"
        if node.text != "matches":
            raise Beyond("is not plain")
        return ast.Call(ast.Call(_load("matcher"), [_of(given, of, "string")], []), [text], []), "bool"

    def _each(self, node: Node, items: ast.expr) -> Typed:
        """`exists` is any, `all` is all, over a generator."""
        variable, name = node.parts[1], f"item{len(self._bound)}"
        if variable.kind != "name" or variable.text in (*self._bound, *PARTS):
            raise Beyond("is not plain")
        self._bound[variable.text] = name
        made, kind = self.write(node.parts[2])
        del self._bound[variable.text]
        loop = ast.comprehension(ast.Name(name, ast.Store()), items, [], 0)
        each = ast.GeneratorExp(_of(made, kind, "bool"), [loop])
        return ast.Call(_load("any" if node.text == "exists" else "all"), [each], []), "bool"


def _bytes_of(text: str) -> int:
    """The engine counts UTF-8's bytes, not characters as CEL's definition has it; a rule must mean one thing."""
    return len(text) if text.isascii() else len(text.encode())


HELPERS = {"len": len, "bytes_of": _bytes_of, "any": any, "all": all, "matcher": matcher}


def _load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _of(made: ast.expr, kind: str, *kinds: str) -> ast.expr:
    if kind not in kinds:
        raise Beyond("is not plain")
    return made


def _alike(left: str, right: str, *, ordered: bool) -> bool:
    """Whether both languages compare the two, and alike. Numbers of both kinds do; text has an order, by code point."""
    numbers = left in _NUMBERS and right in _NUMBERS
    return numbers or (left == right == "string") or (left == right == "bool" and not ordered)
