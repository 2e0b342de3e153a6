"""JSON Schema to GBNF, the grammar notation of llama.cpp.

Every keyword is either honoured or refused by name: a schema that is quietly weakened would let
answers through that the caller's own validation rejects. Objects come with their required properties
first and then the optional ones, in the order of the schema. Whitespace is at most one blank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from foreshore.edge.grammar.gbnf import literal
from foreshore.edge.grammar.json_bounds import BOUNDS, decimal_limits, integer_limits, refuse, repeats
from foreshore.edge.grammar.json_decimals import PLACES, decimals
from foreshore.edge.grammar.json_formats import FORMATS
from foreshore.edge.grammar.json_keys import other_keys
from foreshore.edge.grammar.json_merge import NOTES, Unmergeable, merged
from foreshore.edge.grammar.json_pattern import BadPattern, pattern_rule
from foreshore.edge.grammar.json_ranges import integers

__all__ = ["any_json_grammar", "schema_grammar", "schema_rules"]

_RULES = {
    "ws": '" "?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "char": r'[^"\\\x00-\x1f\x7f] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "string": r'"\"" char* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": 'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?',
    "value": "object | array | string | number | boolean | null",
    "object": '"{" ws (string ":" ws value ("," ws string ":" ws value)*)? ws "}"',
    "array": '"[" ws (value ("," ws value)*)? ws "]"',
}
_NEEDS = {
    "string": ("char",),
    "number": ("integer",),
    "value": ("object", "array", "string", "number", "boolean", "null"),
    "object": ("string", "value", "ws"),
    "array": ("value", "ws"),
}
_DEFINITIONS = frozenset({"$defs", "definitions"})
_KNOWN = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "format", "pattern"}),
    "integer": BOUNDS,
    "number": BOUNDS,
    "boolean": frozenset(),
    "null": frozenset(),
}
MAX_DEPTH = 64
MAX_PARTS = 10_000  # a small schema can unfold to any number: each reference in an allOf, say, to two of another
MAX_KEY = 200


def any_json_grammar() -> str:
    """Any JSON object: OpenAI's `json_object` format."""
    (root,), rules = schema_rules([{"type": "object"}])
    return f"root ::= {root}\n{rules}"


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of all documents that `schema` describes. Raises `BadRequest` naming what it cannot express."""
    (root,), rules = schema_rules([schema])
    return f"root ::= {root}\n{rules}"


def schema_rules(schemas: Sequence[Mapping[str, Any]]) -> tuple[list[str], str]:
    """An expression for each of `schemas`, and the rules that these name, for a grammar that holds them all.

    A reference (`#/...`) is to a place in the schema that it stands in. Raises `BadRequest` as `schema_grammar` does.
    """
    rules: dict[str, str] = {}
    roots = []
    for schema in schemas:
        if not isinstance(schema, Mapping):
            raise refuse(f"the schema is {schema!r:.200}; it must be an object")
        roots.append(f"({_Builder(schema, rules).visit(schema, '#', 0)})")
    return roots, "\n".join(f"{name} ::= {body}" for name, body in rules.items())


class _Builder:
    def __init__(self, root: Mapping[str, Any], rules: dict[str, str]) -> None:
        """Adds to `rules`, which may hold those of other schemas."""
        self._root = root
        self._rules = rules
        self._references: dict[str, str] = {}
        self._parts = 0

    def named(self, name: str) -> str:
        """The name of a built-in rule, together with those it needs."""
        if name not in self._rules:
            self._rules[name] = _RULES[name]
            for other in _NEEDS.get(name, ()):
                self.named(other)
        return name

    def rule(self, body: str) -> str:
        self._count()
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def _count(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise refuse(f"the schema unfolds to more than {MAX_PARTS} parts")

    def visit(self, schema: Any, where: str, depth: int) -> str:
        """An expression for `schema`; `where` is its place, for messages."""
        self._count()
        if depth > MAX_DEPTH:
            raise refuse(f"the schema at {where} nests deeper than {MAX_DEPTH} levels")
        if schema is True or schema == {}:
            return self.named("value")
        if not isinstance(schema, Mapping):
            raise refuse(f"the schema at {where} is {schema!r}; it must be an object")
        if "allOf" in schema:
            return self.visit(self._merged(schema, where, depth), where, depth + 1)
        for keyword, handler in self._special().items():
            if keyword in schema:
                _only(schema, {keyword, *(("type",) if keyword in ("enum", "const") else ())}, where)
                return str(handler(schema[keyword], where, depth))
        return self._typed(schema, where, depth)

    def _special(self) -> dict[str, Any]:
        return {
            "$ref": self._reference,
            "const": lambda value, where, depth: literal(json.dumps(value, ensure_ascii=False)),
            "enum": self._enum,
            "anyOf": self._any_of,
            "oneOf": self._any_of,
        }

    def _typed(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        kind = schema.get("type", _guess(schema))
        if isinstance(kind, list) and _all_texts(kind):
            variants = [{**{k: v for k, v in schema.items() if k in _KNOWN.get(t, ())}, "type": t} for t in kind]
            known = frozenset().union(*(_KNOWN.get(t, frozenset()) for t in kind))
            _only(schema, {"type", *known}, where)
            return self._any_of(variants, where, depth)
        if kind is None:
            _only(schema, set(), where)
            return self.named("value")
        if not isinstance(kind, str) or kind not in _KNOWN:
            raise refuse(f"the schema at {where} has type {kind!r}")
        _only(schema, {"type", *_KNOWN[kind]}, where)
        if kind in ("object", "array", "string", "integer", "number"):
            return str(getattr(self, f"_{kind}")(schema, where, depth))
        return self.named(kind)

    def _object(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not _all_texts(required):
            raise refuse(f"the schema at {where} has properties {properties!r:.80}, required {required!r:.80}")
        extra = schema.get("additionalProperties", not properties)
        unknown = [name for name in required if name not in properties]
        if unknown and not extra:
            raise refuse(f"the schema at {where} requires {unknown!r}, which it does not describe")
        if not properties and not required and extra is True:
            return self.named("object")
        self.named("ws")

        def member(name: str) -> str:
            value = self.visit(properties.get(name, True), f"{where}/properties/{name}", depth + 1)
            return self.rule(f'{literal(json.dumps(name, ensure_ascii=False))} ":" ws {value}')

        first = [member(name) for name in properties if name in required] + [member(name) for name in unknown]
        later = [member(name) for name in properties if name not in required]
        free = ""
        if extra and "additionalProperties" in schema:
            value = self.visit(extra, f"{where}/additionalProperties", depth + 1)
            free = self.rule(f'{self._other_key([*properties, *unknown], where)} ":" ws {value}')
        return self.rule(f'"{{" ws {self._members(first, later, free)} ws "}}"')

    def _other_key(self, names: list[str], where: str) -> str:
        if not names:
            return self.named("string")
        if any(len(name) > MAX_KEY for name in names):
            raise refuse(f"the schema at {where} has a property whose name is longer than {MAX_KEY} letters")
        return other_keys(names, self.rule)

    def _members(self, first: list[str], later: list[str], free: str) -> str:
        """All of `first`, then any of `later` in order, then any number of `free`, with commas between them."""
        rest = f'("," ws {free})*' if free else ""
        starts = [f"{free} {rest}"] if free else []
        for name in reversed(later):
            starts.append(f"{name} {rest}")
            rest = self.rule(f'("," ws {name})? {rest}')
        if first:
            return ' "," ws '.join(first) + f" {rest}"
        return f"({' | '.join(reversed(starts))})?" if starts else '""'

    def _array(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        low, high = repeats(schema, "minItems", "maxItems", where)
        item = self.rule(self.visit(schema.get("items", True), f"{where}/items", depth + 1))
        self.named("ws")
        if high == 0:
            return '"[" ws "]"'
        more = f'("," ws {item}){_times(max(0, low - 1), None if high is None else high - 1)}'
        body = f"{item} {more}" if low else f"({item} {more})?"
        return self.rule(f'"[" ws {body} ws "]"')

    def _string(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        form = schema.get("format")
        if "pattern" in schema:
            return self._pattern(schema, where)
        if form is not None:
            if not isinstance(form, str) or form not in FORMATS or "minLength" in schema or "maxLength" in schema:
                raise refuse(f"the schema at {where} has format {form!r} (known, alone: {', '.join(FORMATS)})")
            return self.rule(FORMATS[form])
        if "minLength" not in schema and "maxLength" not in schema:
            return self.named("string")
        low, high = repeats(schema, "minLength", "maxLength", where)
        return self.rule(rf'"\"" {self.named("char")}{_times(low, high)} "\""')

    def _pattern(self, schema: Mapping[str, Any], where: str) -> str:
        pattern = schema["pattern"]
        if not isinstance(pattern, str) or {"format", "minLength", "maxLength"} & set(schema):
            raise refuse(f"the schema at {where} has pattern {pattern!r:.80}; it must be text, and alone")
        try:
            return self.rule(pattern_rule(pattern))
        except BadPattern as error:
            raise refuse(f"the schema at {where} has pattern {pattern!r:.80}, which {error}") from error

    def _integer(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        if not BOUNDS & set(schema):
            return self.named("integer")
        low, high = integer_limits(schema, where)
        return self.rule(integers(low, high))

    def _number(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        if not BOUNDS & set(schema):
            return self.named("number")
        low, high = decimal_limits(schema, where)
        written = decimals(low, high)
        if not written:
            raise refuse(f"the schema at {where} has bounds between which no number of {PLACES} digits lies")
        return self.rule(written)

    def _enum(self, values: Any, where: str, depth: int) -> str:
        if not isinstance(values, list) or not values:
            raise refuse(f"the enum at {where} is {values!r}; it must be a list with at least one value")
        return self.rule(" | ".join(literal(json.dumps(v, ensure_ascii=False)) for v in values))

    def _any_of(self, variants: Any, where: str, depth: int) -> str:
        if not isinstance(variants, list) or not variants:
            raise refuse(f"anyOf at {where} is {variants!r}; it must be a list with at least one schema")
        return self.rule(" | ".join(self.visit(v, f"{where}/{i}", depth + 1) for i, v in enumerate(variants)))

    def _merged(self, schema: Mapping[str, Any], where: str, depth: int) -> dict[str, Any]:
        """What `allOf` and its neighbours say together. References are followed: a part that refers to itself nests."""
        if depth > MAX_DEPTH:
            raise refuse(f"the schema at {where} nests deeper than {MAX_DEPTH} levels")
        parts = schema["allOf"]
        if not isinstance(parts, list) or not parts:
            raise refuse(f"allOf at {where} is {parts!r:.80}; it must be a list with at least one schema")
        parts = [self._plain(part, f"{where}/allOf/{i}", depth + 1) for i, part in enumerate(parts)]
        try:
            return merged([*parts, {k: v for k, v in schema.items() if k != "allOf"}])
        except Unmergeable as error:
            raise refuse(f"the schema at {where} has allOf whose parts do not fit together: {error}") from error

    def _plain(self, part: Any, where: str, depth: int) -> Mapping[str, Any]:
        self._count()
        if not isinstance(part, Mapping):
            raise refuse(f"the schema at {where} is {part!r:.80}; it must be an object")
        if depth > MAX_DEPTH:
            raise refuse(f"the schema at {where} nests deeper than {MAX_DEPTH} levels")
        if isinstance(part.get("$ref"), str):
            _only(part, {"$ref"}, where)
            return self._plain(self._resolve(part["$ref"], where), where, depth + 1)
        return self._merged(part, where, depth + 1) if "allOf" in part else part

    def _reference(self, target: Any, where: str, depth: int) -> str:
        if not isinstance(target, str) or not target.startswith("#"):
            raise refuse(f"the schema at {where} refers to {target!r}; only places within it (#/...) are known")
        if target in self._references:  # known, or being built: recursion is a rule that names itself
            return self._references[target]
        name = self._references[target] = f"ref{len(self._rules)}"
        self._rules[name] = ""
        self._rules[name] = self.visit(self._resolve(target, where), str(target), depth + 1)
        return name

    def _resolve(self, target: str, where: str) -> Any:
        if not target.startswith("#"):
            raise refuse(f"the schema at {where} refers to {target!r}; only places within it (#/...) are known")
        place: Any = self._root
        for key in target[1:].strip("/").split("/") if target != "#" else ():
            key = key.replace("~1", "/").replace("~0", "~")
            if not isinstance(place, Mapping) or key not in place:
                raise refuse(f"the schema at {where} refers to {target!r}, which does not exist")
            place = place[key]
        return place


def _only(schema: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(map(str, schema)) - known - NOTES - _DEFINITIONS)
    if unknown:
        raise refuse(f"the schema at {where} uses {', '.join(map(repr, unknown))}, which cannot be enforced here")


def _all_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _guess(schema: Mapping[str, Any]) -> str | None:
    return next((kind for kind in ("object", "array", "string") if _KNOWN[kind] & set(schema)), None)


def _times(low: int, high: int | None) -> str:
    if high is None:
        return "*" if low == 0 else f"{{{low},}}"
    return f"{{{low},{high}}}"
