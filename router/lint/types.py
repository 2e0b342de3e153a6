"""The type of every part of an expression, found without running it: a mistake in a branch no sample takes shows too.

CEL's rules, as the engine keeps them: numbers of different kinds compare, but do not add up; nothing else mixes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cel

from foreshore.router.facts import PARTS
from foreshore.router.lint.fields import FIELDS, Type
from foreshore.router.lint.signatures import (
    BOOL,
    COLLECTIONS,
    DOUBLE,
    DYN,
    INT,
    LITERALS,
    MACROS,
    MOMENT,
    NUMBERS,
    SIGNATURES,
    SPAN,
    STRING,
    UINT,
    comparable,
    ordered,
)
from foreshore.router.syntax import Beyond, Node, parse

__all__ = ["Mistake", "check_types"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    where: str  # "foreshore.yaml: rule 'short', when"
    line: int  # in the expression, like `column` from 1
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.where}, line {self.line}, column {self.column}: {self.message}"


def check_types(source: str, *, where: str, sees: Iterable[str] = ("request",)) -> list[Mistake]:
    """Every mistake in `source`, which must give a bool. `sees`: the variables that mean something there."""
    try:
        node = parse(source)
    except Beyond as beyond:
        return [Mistake(where=where, line=1, column=1, message=f"the expression {beyond}")]
    reader = _Typing(source, where, frozenset(sees))
    made = reader.type_of(node)
    if made not in (BOOL, DYN):
        reader.mistake(node, f"gives {_a(made)}, and a condition must give true or false")
    return sorted(reader.found, key=lambda m: (m.line, m.column))


class _Typing:
    def __init__(self, source: str, where: str, sees: frozenset[str]) -> None:
        self.found: list[Mistake] = []
        self._source, self._where, self._sees = source, where, sees
        self._bound: dict[str, Type] = {}  # names that macros give to items

    def mistake(self, node: Node, message: str) -> Type:
        line = self._source.count("\n", 0, node.start) + 1
        column = node.start - self._source.rfind("\n", 0, node.start)
        text = self._source[node.start : node.end]
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        self.found.append(Mistake(where=self._where, line=line, column=column, message=f"{shown!r}: {message}"))
        return DYN

    def type_of(self, node: Node) -> Type:
        kinds: dict[str, Callable[[Node], Type]] = {
            "literal": self._literal,
            "name": self._name,
            "member": self._member,
            "index": self._index,
            "call": self._call,
            "method": self._method,
            "unary": self._unary,
            "binary": self._binary,
            "ternary": self._ternary,
            "list": self._list,
            "map": self._map,
        }
        return kinds[node.kind](node)

    def _literal(self, node: Node) -> Type:
        if node.text[-1:] in "uU" and node.text[:1].isdigit():
            return UINT
        try:
            return LITERALS.get(type(cel.evaluate(node.text, {})), DYN)
        except ValueError:  # the lowest integer, of which the sign stands before the literal
            return INT

    def _name(self, node: Node) -> Type:
        if node.text in self._bound:
            return self._bound[node.text]
        if node.text in PARTS:
            return self.mistake(node, f"needs a field, as in {node.text}.{next(iter(PARTS[node.text].__slots__))}")
        return self.mistake(node, f"means nothing here{_near(node.text, sorted(self._sees))}")

    def _member(self, node: Node) -> Type:
        (of,) = node.parts
        if of.kind == "name" and of.text in PARTS and of.text not in self._bound:
            return self._field(node, of.text)
        made = self.type_of(of)
        if made.name == "map":
            return made.item or DYN
        return DYN if made == DYN else self.mistake(node, f"{_a(made)} has no fields")

    def _field(self, node: Node, part: str) -> Type:
        if part not in self._sees:
            return self.mistake(node, f"{part!r} means nothing here; only {' and '.join(sorted(self._sees))} do")
        field = FIELDS.get(f"{part}.{node.text}")
        if field is not None:
            return field.type
        known = [name.partition(".")[2] for name in FIELDS if name.startswith(f"{part}.")]
        return self.mistake(node, f"{part} has no field {node.text!r}{_near(node.text, known)}")

    def _index(self, node: Node) -> Type:
        of, key = (self.type_of(part) for part in node.parts)
        if of.name == "list":
            return of.item or DYN if key in (INT, UINT, DYN) else self.mistake(node, f"a list has no {key} as index")
        if of.name == "map":
            return (
                of.item or DYN if key in (STRING, DYN) else self.mistake(node, f"the keys are strings, not {_a(key)}")
            )
        return DYN if of == DYN else self.mistake(node, f"{_a(of)} cannot be indexed")

    def _call(self, node: Node) -> Type:
        if node.text == "has":
            return self._has(node)
        if node.text == "size":
            return self._size(node)
        return self._applied(node)

    def _method(self, node: Node) -> Type:
        if node.text in MACROS:
            return self._macro(node)
        if node.text == "size":
            return self._size(node)
        return self._applied(node)

    def _has(self, node: Node) -> Type:
        if len(node.parts) != 1 or node.parts[0].kind != "member":
            return self.mistake(node, "has() takes one field, as in has(request.headers.name); see 'in' for others")
        self.type_of(node.parts[0])
        return BOOL

    def _size(self, node: Node) -> Type:
        made = [self.type_of(part) for part in node.parts]
        if len(made) != 1 or made[0].name not in ("string", "bytes", "list", "map", "dyn"):
            return self.mistake(node, f"size() is of a string, a list or a map, not {_of(made)}")
        return INT

    def _applied(self, node: Node) -> Type:
        made = [self.type_of(part) for part in node.parts]
        if node.text not in SIGNATURES:
            known = [*SIGNATURES, *MACROS, "has", "size"]
            return self.mistake(node, f"there is no function {node.text!r}{_near(node.text, known)}")
        takes, gives = SIGNATURES[node.text]
        if len(made) != len(takes) or not all(a in (b, DYN) or b == DYN for a, b in zip(made, takes, strict=True)):
            wanted = " and ".join(f"{_a(t)}" for t in takes if t != DYN) or "one value"
            self.mistake(node, f"{node.text}() takes {wanted}, not {_of(made)}{_contains_hint(node, made)}")
        elif node.text == "matches" and node.parts[1].kind == "literal":
            self._check_pattern(node)
        return gives

    def _check_pattern(self, node: Node) -> None:
        try:
            cel.evaluate(f"''.matches({node.parts[1].text})", {})
        except RuntimeError:
            self.mistake(node, "the pattern is no regular expression that the engine (RE2's syntax) can read")

    def _macro(self, node: Node) -> Type:
        of = self.type_of(node.parts[0])
        if of.name not in (*COLLECTIONS, "dyn"):
            return self.mistake(node, f"{node.text}() goes over a list or a map, not {_a(of)}")
        most = 4 if node.text == "map" else 3
        if not 3 <= len(node.parts) <= most or node.parts[1].kind != "name":
            return self.mistake(node, f"{node.text}() takes a name for the item and what it asks of it")
        name, outside = node.parts[1].text, dict(self._bound)
        self._bound[name] = STRING if of.name == "map" else of.item or DYN
        made = [self.type_of(part) for part in node.parts[2:]]
        self._bound = outside
        asked = made if node.text != "map" else made[:-1]
        for part, given in zip(node.parts[2:], asked, strict=False):
            self._must_be_bool(part, given, f"{node.text}() asks")
        if node.text == "map":
            return Type("list", made[-1])
        return Type("list", STRING if of.name == "map" else of.item) if node.text == "filter" else BOOL

    def _unary(self, node: Node) -> Type:
        made = self.type_of(node.parts[0])
        if node.text == "!":
            self._must_be_bool(node.parts[0], made, "'!' negates")
            return BOOL
        return made if made in (INT, DOUBLE, DYN) else self.mistake(node, f"{_a(made)} has no negative")

    def _binary(self, node: Node) -> Type:
        made = [self.type_of(part) for part in node.parts]
        if node.text in ("&&", "||"):
            for part, given in zip(node.parts, made, strict=True):
                self._must_be_bool(part, given, f"{node.text!r} joins")
            return BOOL
        left, right = made
        if node.text in ("==", "!="):
            if not comparable(left, right):
                self.mistake(node, f"compares {_a(left)} with {_a(right)}: never equal")
            return BOOL
        if node.text == "in":
            return self._in(node, left, right)
        if node.text in ("<", "<=", ">", ">="):
            if not ordered(left, right):
                self.mistake(node, f"{_a(left)} and {_a(right)} have no order")
            return BOOL
        return self._arithmetic(node, left, right)

    def _in(self, node: Node, left: Type, right: Type) -> Type:
        if right.name not in (*COLLECTIONS, "dyn"):
            hint = "; write .contains()" if right == STRING else ""
            self.mistake(node, f"'in' looks into a list or a map, not {_a(right)}{hint}")
            return BOOL
        item = STRING if right.name == "map" else right.item or DYN
        if not comparable(left, item):
            self.mistake(node, f"looks for {_a(left)} among {item}s: never there")
        return BOOL

    def _arithmetic(self, node: Node, left: Type, right: Type) -> Type:
        if DYN in (left, right):
            return left if right == DYN else right
        if node.text == "%":
            ok = left == right and left in (INT, UINT)
        elif left == right:
            ok = left in NUMBERS or (node.text == "+" and left.name in ("string", "bytes", "list", "duration"))
            ok = ok or (node.text == "-" and left.name in ("duration", "timestamp"))
        else:
            ok = {left, right} == {SPAN, MOMENT} and node.text in "+-"
        if ok:
            return SPAN if left == right == MOMENT else MOMENT if MOMENT in (left, right) else left
        hint = "; write 1.0 for 1, or double(x)" if left in NUMBERS and right in NUMBERS else ""
        return self.mistake(node, f"{node.text!r} does not take {_a(left)} and {_a(right)}{hint}")

    def _ternary(self, node: Node) -> Type:
        condition, yes, no = (self.type_of(part) for part in node.parts)
        self._must_be_bool(node.parts[0], condition, "'?' asks")
        return yes if yes == no else DYN if DYN in (yes, no) else self.mistake(node, f"gives {_a(yes)} or {_a(no)}")

    def _list(self, node: Node) -> Type:
        made = [self.type_of(part) for part in node.parts]
        return Type("list", made[0] if made and all(t == made[0] for t in made) else DYN)

    def _map(self, node: Node) -> Type:
        made = [self.type_of(part) for part in node.parts][1::2]
        return Type("map", made[0] if made and all(t == made[0] for t in made) else DYN)

    def _must_be_bool(self, node: Node, made: Type, what: str) -> None:
        if made not in (BOOL, DYN):
            self.mistake(node, f"{what} a bool, and this is {_a(made)}{_bool_hint(made)}")


def _a(made: Type) -> str:
    return f"{'an' if made.name == 'int' else 'a'} {made}"


def _of(made: Sequence[Type]) -> str:
    return " and ".join(f"{_a(t)}" for t in made) or "nothing"


def _bool_hint(made: Type) -> str:
    return "; compare it, as in > 0" if made in NUMBERS else "; compare it, as in != ''" if made == STRING else ""


def _contains_hint(node: Node, made: Sequence[Type]) -> str:
    return "; write 'x' in ..." if node.text == "contains" and made and made[0].name in COLLECTIONS else ""


def _near(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
