"""One CEL expression over the parts of `facts.PARTS`, checked and compiled.

An unknown field and a syntax error are a `ConfigError` that names rule, line and column. Converting a part as a whole
for CEL costs more than all rules together, so a program asks for single fields by flat names, `request_text` for
`request.text`. And `matches` compiles its pattern at each call, so a program calls `matched`, which the evaluator has.
Most expressions are so plain that they are Python code too: see `plain`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import cel

from foreshore.errors import ConfigError
from foreshore.router.facts import PARTS
from foreshore.router.lint.types import check_types
from foreshore.router.plain import Plain, plain

__all__ = ["FUNCTIONS", "KNOWN", "OF_TARGETS", "SCENE", "Expression"]

KNOWN = {part: frozenset(f.name for f in fields(facts)) for part, facts in PARTS.items()}
SCENE = ("request", "device", "budget", "now")  # what a `when` sees
OF_TARGETS = (*SCENE, "target")  # what a `require` and a `where` see
FUNCTIONS = frozenset(
    (
        *(
            "size",
            "contains",
            "startsWith",
            "endsWith",
            "matches",
            "has",
            "all",
            "exists",
            "exists_one",
            "filter",
            "map",
        ),
        *("int", "uint", "double", "string", "bool", "bytes", "type", "duration", "timestamp"),
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    )
)
_TOKEN = re.compile(
    r"(?P<string>(?:[rR][bB]?|[bB][rR])(?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|\"[^\"\n]*\"|'[^'\n]*')"
    r"|[bB]?(?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'))"
    r"|(?P<comment>//[^\n]*)"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<number>\d[\w.]*)|(?P<mark>[^\s\w])"
)
_PLACE = re.compile(r"ERROR: <input>:(\d+):(\d+): ([^\n]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One compiled expression. `reads` are the fields it looks at, as `request.tenant`; `program` knows them by flat
    names, as `request_tenant`."""

    source: str
    where: str  # "foreshore.yaml: rule 'short', when"
    program: Any
    reads: frozenset[str]
    plain: Plain | None = None  # the same as Python code, where that can be

    @classmethod
    def compile(cls, source: str, *, where: str, sees: Iterable[str]) -> Expression:
        """Raises `ConfigError` naming `where`, line and column."""
        try:
            cel.compile(source)
            found = list(_fields_read(source, where, frozenset(sees)))
            if mistakes := check_types(source, where=where, sees=sees):
                raise ConfigError("\n".join(map(str, mistakes)), hint=f"the expression is {source!r}")
            program = cel.compile(_flattened(source, found))
        except ValueError as error:
            raise _syntax_error(str(error), source, where) from error
        reads = frozenset(f"{field.part}.{field.name}" for field in found)
        return cls(source=source, where=where, program=program, reads=reads, plain=plain(source))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """`request.tenant` in an expression, from `start` to `end`."""

    part: str
    name: str
    start: int
    end: int


def _flattened(source: str, found: Iterable[_Field]) -> str:
    """`source` as the evaluator understands it. What is replaced keeps its length, so that columns stay."""
    text = source
    for field in found:
        flat = f"{field.part}_{field.name}".ljust(field.end - field.start)
        text = text[: field.start] + flat + text[field.end :]
    for token in _TOKEN.finditer(source):
        if token.lastgroup == "name" and token.group() == "matches":
            text = text[: token.start()] + "matched" + text[token.end() :]
    return text


def _fields_read(source: str, where: str, sees: frozenset[str]) -> Iterator[_Field]:
    """The fields `source` reads. Refuses unknown fields and functions; the parser leaves those to run time."""
    tokens = [m for m in _TOKEN.finditer(source) if m.lastgroup != "comment"]
    texts = [m.group() for m in tokens] + ["", "", "", ""]
    for i, token in enumerate(tokens):
        name, start = token.group(), token.start()
        if token.lastgroup != "name":
            continue
        if texts[i + 1] == "(" and name not in FUNCTIONS and name != "in":
            raise _unknown("function", name, FUNCTIONS, source, start, where)
        if i and texts[i - 1] == ".":
            continue
        if name.partition("_")[0] in KNOWN and "_" in name:
            raise _at(f"no name may begin as {name!r} does; a field is written with a dot", source, start, where)
        if name not in KNOWN:
            continue
        if name not in sees:
            raise _at(f"{name!r} means nothing here; {', '.join(sorted(sees))} do", source, start, where)
        if texts[i + 1] != ".":
            raise _at(f"{name!r} needs a field, as in '{name}.{min(KNOWN[name])}'", source, start, where)
        if texts[i + 2] not in KNOWN[name]:
            raise _unknown(f"field of {name}", texts[i + 2], KNOWN[name], source, tokens[i + 2].start(), where)
        if texts[i - 2 : i] == ["has", "("] and texts[i + 3] == ")":
            raise _at(f"has() is for headers: '{name}.{texts[i + 2]}' is always there", source, start, where)
        yield _Field(part=name, name=texts[i + 2], start=start, end=tokens[i + 2].end())


def _unknown(what: str, word: str, known: Iterable[str], source: str, offset: int, where: str) -> ConfigError:
    near = difflib.get_close_matches(word, list(known), n=1)
    guess = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
    return _at(f"unknown {what} {word!r}{guess}", source, offset, where)


def _at(message: str, source: str, offset: int, where: str) -> ConfigError:
    line = source.count("\n", 0, offset) + 1
    column = offset - (source.rfind("\n", 0, offset) + 1) + 1
    return ConfigError(f"{where}, line {line}, column {column}: {message}", hint=f"the expression is {source!r}")


def _syntax_error(message: str, source: str, where: str) -> ConfigError:
    place = _PLACE.search(message)
    line, column, what = place.groups() if place else ("1", "1", "cannot be parsed")
    what = what.partition(" expecting {")[0]
    return ConfigError(f"{where}, line {line}, column {column}: {what}", hint=f"the expression is {source!r}")
