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
from foreshore.edge.grammar.json_merge import NOTES, Unmergeable, merged
from foreshore.edge.grammar.json_pattern import BadPattern, pattern_rule
from foreshore.edge.grammar.json_ranges import DIGITS, integers
from foreshore.errors import BadRequest

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
_FORMATS = {
    "date": r'"\"" [0-9]{4} "-" [0-9]{2} "-" [0-9]{2} "\""',
    "time": r'"\"" [0-9]{2} ":" [0-9]{2} ":" [0-9]{2} ("." [0-9]{1,6})? ("Z" | [-+] [0-9]{2} ":" [0-9]{2}) "\""',
    "date-time": r'"\"" [0-9]{4} "-" [0-9]{2} "-" [0-9]{2} "T" [0-9]{2} ":" [0-9]{2} ":" [0-9]{2} '
    r'("." [0-9]{1,6})? ("Z" | [-+] [0-9]{2} ":" [0-9]{2}) "\""',
    "uuid": r'"\"" [0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12} "\""',
}
_KNOWN = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "format", "pattern"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "number": frozenset(),
    "boolean": frozenset(),
    "null": frozenset(),
}
MAX_DEPTH = 64
MAX_REPEAT = 2000  # llama.cpp unrolls bounded repeats
MAX_BOUND = 10**DIGITS - 1


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
            raise _refuse(f"the schema is {schema!r:.200}; it must be an object")
        roots.append(f"({_Builder(schema, rules).visit(schema, '#', 0)})")
    return roots, "\n".join(f"{name} ::= {body}" for name, body in rules.items())


class _Builder:
    def __init__(self, root: Mapping[str, Any], rules: dict[str, str]) -> None:
        """Adds to `rules`, which may hold those of other schemas."""
        self._root = root
        self._rules = rules
        self._references: dict[str, str] = {}

    def named(self, name: str) -> str:
        """The name of a built-in rule, together with those it needs."""
        if name not in self._rules:
            self._rules[name] = _RULES[name]
            for other in _NEEDS.get(name, ()):
                self.named(other)
        return name

    def rule(self, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def visit(self, schema: Any, where: str, depth: int) -> str:
        """An expression for `schema`; `where` is its place, for messages."""
        if depth > MAX_DEPTH:
            raise _refuse(f"the schema at {where} nests deeper than {MAX_DEPTH} levels")
        if schema is True or schema == {}:
            return self.named("value")
        if not isinstance(schema, Mapping):
            raise _refuse(f"the schema at {where} is {schema!r}; it must be an object")
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
            raise _refuse(f"the schema at {where} has type {kind!r}")
        _only(schema, {"type", *_KNOWN[kind]}, where)
        if kind in ("object", "array", "string", "integer"):
            return str(getattr(self, f"_{kind}")(schema, where, depth))
        return self.named(kind)

    def _object(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping) or not _all_texts(required):
            raise _refuse(f"the schema at {where} has properties {properties!r:.80}, required {required!r:.80}")
        extra = schema.get("additionalProperties", not properties)
        unknown = [name for name in required if name not in properties]
        if unknown and not extra:
            raise _refuse(f"the schema at {where} requires {unknown!r}, which it does not describe")
        if not properties and not required and extra is True:
            return self.named("object")
        self.named("ws")

        def member(name: str) -> str:
            value = self.visit(properties.get(name, True), f"{where}/properties/{name}", depth + 1)
            return self.rule(f'{literal(json.dumps(name, ensure_ascii=False))} ":" ws {value}')

        first = [member(name) for name in properties if name in required] + [member(name) for name in unknown]
        later = [member(name) for name in properties if name not in required]
        if extra and extra is not True:
            value = self.visit(extra, f"{where}/additionalProperties", depth + 1)
            free = self.rule(f'{self.named("string")} ":" ws {value}')
        elif "additionalProperties" in schema and extra:
            free = self.rule(f'{self.named("string")} ":" ws {self.named("value")}')
        else:
            free = ""
        return self.rule(f'"{{" ws {self._members(first, later, free)} ws "}}"')

    def _members(self, first: list[str], later: list[str], free: str) -> str:
        """All of `first`, then any of `later` in order, then any number of `free`, with commas between them."""
        rest = self._rest(later, free)
        if first:
            return ' "," ws '.join(first) + (f" {rest}" if rest else "")
        starts = []
        for i, name in enumerate(later):
            tail = self._rest(later[i + 1 :], free)
            starts.append(f"{name} {tail}".strip())
        if free:
            starts.append(f'{free} ("," ws {free})*')
        return f"({' | '.join(starts)})?" if starts else '""'

    def _rest(self, later: list[str], free: str) -> str:
        parts = [f'("," ws {name})?' for name in later]
        if free:
            parts.append(f'("," ws {free})*')
        return " ".join(parts)

    def _array(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        low, high = _bounds(schema, "minItems", "maxItems", where)
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
            if form not in _FORMATS or "minLength" in schema or "maxLength" in schema:
                raise _refuse(f"the schema at {where} has format {form!r} (known, alone: {', '.join(_FORMATS)})")
            return self.rule(_FORMATS[form])
        if "minLength" not in schema and "maxLength" not in schema:
            return self.named("string")
        low, high = _bounds(schema, "minLength", "maxLength", where)
        return self.rule(rf'"\"" {self.named("char")}{_times(low, high)} "\""')

    def _pattern(self, schema: Mapping[str, Any], where: str) -> str:
        pattern = schema["pattern"]
        if not isinstance(pattern, str) or {"format", "minLength", "maxLength"} & set(schema):
            raise _refuse(f"the schema at {where} has pattern {pattern!r:.80}; it must be text, and alone")
        try:
            return self.rule(pattern_rule(pattern))
        except BadPattern as error:
            raise _refuse(f"the schema at {where} has pattern {pattern!r:.80}, which {error}") from error

    def _integer(self, schema: Mapping[str, Any], where: str, depth: int) -> str:
        if not _KNOWN["integer"] & set(schema):
            return self.named("integer")
        low, high = _limits(schema, where)
        return self.rule(integers(low, high))

    def _enum(self, values: Any, where: str, depth: int) -> str:
        if not isinstance(values, list) or not values:
            raise _refuse(f"the enum at {where} is {values!r}; it must be a list with at least one value")
        return self.rule(" | ".join(literal(json.dumps(v, ensure_ascii=False)) for v in values))

    def _any_of(self, variants: Any, where: str, depth: int) -> str:
        if not isinstance(variants, list) or not variants:
            raise _refuse(f"anyOf at {where} is {variants!r}; it must be a list with at least one schema")
        return self.rule(" | ".join(self.visit(v, f"{where}/{i}", depth + 1) for i, v in enumerate(variants)))

    def _merged(self, schema: Mapping[str, Any], where: str, depth: int) -> dict[str, Any]:
        """What `allOf` and its neighbours say together. References are followed: a part that refers to itself nests."""
        if depth > MAX_DEPTH:
            raise _refuse(f"the schema at {where} nests deeper than {MAX_DEPTH} levels")
        parts = schema["allOf"]
        if not isinstance(parts, list) or not parts:
            raise _refuse(f"allOf at {where} is {parts!r:.80}; it must be a list with at least one schema")
        parts = [self._plain(part, f"{where}/allOf/{i}", depth + 1) for i, part in enumerate(parts)]
        try:
            return merged([*parts, {k: v for k, v in schema.items() if k != "allOf"}])
        except Unmergeable as error:
            raise _refuse(f"the schema at {where} has allOf whose parts do not fit together: {error}") from error

    def _plain(self, part: Any, where: str, depth: int) -> Mapping[str, Any]:
        if not isinstance(part, Mapping):
            raise _refuse(f"the schema at {where} is {part!r:.80}; it must be an object")
        if depth > MAX_DEPTH:
            raise _refuse(f"the schema at {where} nests deeper than {MAX_DEPTH} levels")
        if isinstance(part.get("$ref"), str):
            _only(part, {"$ref"}, where)
            return self._plain(self._resolve(part["$ref"], where), where, depth + 1)
        return self._merged(part, where, depth + 1) if "allOf" in part else part

    def _reference(self, target: Any, where: str, depth: int) -> str:
        if not isinstance(target, str) or not target.startswith("#"):
            raise _refuse(f"the schema at {where} refers to {target!r}; only places within it (#/...) are known")
        if target in self._references:  # known, or being built: recursion is a rule that names itself
            return self._references[target]
        name = self._references[target] = f"ref{len(self._rules)}"
        self._rules[name] = ""
        self._rules[name] = self.visit(self._resolve(target, where), str(target), depth + 1)
        return name

    def _resolve(self, target: str, where: str) -> Any:
        if not target.startswith("#"):
            raise _refuse(f"the schema at {where} refers to {target!r}; only places within it (#/...) are known")
        place: Any = self._root
        for key in target[1:].strip("/").split("/") if target != "#" else ():
            key = key.replace("~1", "/").replace("~0", "~")
            if not isinstance(place, Mapping) or key not in place:
                raise _refuse(f"the schema at {where} refers to {target!r}, which does not exist")
            place = place[key]
        return place


def _only(schema: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(map(str, schema)) - known - NOTES - _DEFINITIONS)
    if unknown:
        raise _refuse(f"the schema at {where} uses {', '.join(map(repr, unknown))}, which cannot be enforced here")


def _all_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _guess(schema: Mapping[str, Any]) -> str | None:
    return next((kind for kind in ("object", "array", "string") if _KNOWN[kind] & set(schema)), None)


def _bounds(schema: Mapping[str, Any], least: str, most: str, where: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    for value in (low, high if high is not None else 0):
        if not isinstance(value, int) or not 0 <= value <= MAX_REPEAT:
            raise _refuse(f"the schema at {where} has {least} {low!r}, {most} {high!r}; whole numbers to {MAX_REPEAT}")
    if high is not None and high < low:
        raise _refuse(f"the schema at {where} has {least} {low!r} above {most} {high!r}")
    return low, high


def _limits(schema: Mapping[str, Any], where: str) -> tuple[int | None, int | None]:
    """The least and the largest integer."""
    bounds = {k: schema[k] for k in _KNOWN["integer"] if k in schema}
    for keyword, value in bounds.items():
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MAX_BOUND:
            raise _refuse(f"the schema at {where} has {keyword} {value!r}; whole numbers of at most {DIGITS} digits")
    lows = [bounds.get("minimum"), bounds.get("exclusiveMinimum", -MAX_BOUND - 1) + 1]
    highs = [bounds.get("maximum"), bounds.get("exclusiveMaximum", MAX_BOUND + 1) - 1]
    low, high = max(n for n in lows if n is not None), min(n for n in highs if n is not None)
    if low > high:
        raise _refuse(f"the schema at {where} has {bounds!r}, which no number satisfies")
    return low, high


def _times(low: int, high: int | None) -> str:
    if high is None:
        return "*" if low == 0 else f"{{{low},}}"
    return f"{{{low},{high}}}"


def _refuse(message: str) -> BadRequest:
    return BadRequest(message, hint="simplify the schema, or validate that part yourself", param="response_format")
