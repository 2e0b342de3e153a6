"""CEL expressions over `request` and `target`: compiled and checked at load, evaluated per request.

A rule sees `request`; a constraint's `require` sees `target` too. An unknown field, a syntax error or a result that is
no bool is a `ConfigError` that names rule, line and column. The context is updated, not rebuilt, and only with fields
that some expression reads.
"""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import cel

from foreshore.errors import ConfigError
from foreshore.router.facts import RequestFacts, TargetFacts

__all__ = ["Evaluator", "Expression", "Undecided"]

KNOWN = {
    "request": frozenset(f.name for f in fields(RequestFacts)),
    "target": frozenset(f.name for f in fields(TargetFacts)),
}
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
        *("int", "uint", "double", "string", "bool", "bytes", "type", "duration", "timestamp", "min", "max"),
        *("getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"),
        *("getHours", "getMinutes", "getSeconds", "getMilliseconds"),
    )
)
_TOKEN = re.compile(
    r"(?P<string>[bBrR]{0,2}(?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'))"
    r"|(?P<comment>//[^\n]*)"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<number>\d[\w.]*)|(?P<mark>[^\s\w])"
)
_PLACE = re.compile(r"ERROR: <input>:(\d+):(\d+): ([^\n]*)")


class Undecided(Exception):
    """The expression could not be evaluated on this request; `reason` holds no content."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One compiled expression. `reads` are the fields it looks at, as `request.tenant`."""

    source: str
    where: str  # "foreshore.yaml: rule 'short', when"
    program: Any
    reads: frozenset[str]

    @classmethod
    def compile(cls, source: str, *, where: str, sees: Iterable[str]) -> Expression:
        """Raises `ConfigError` naming `where`, line and column."""
        try:
            program = cel.compile(source)
        except ValueError as error:
            raise _syntax_error(str(error), source, where) from error
        reads = frozenset(_check_names(source, where, frozenset(sees)))
        return cls(source=source, where=where, program=program, reads=reads)


class Evaluator:
    """Holds one CEL context. `load` the request, then the target, then ask."""

    def __init__(self, expressions: Iterable[Expression]) -> None:
        expressions = list(expressions)
        self.lock = threading.Lock()  # held from `load` to the last `holds`: the context is shared
        self._context = cel.Context({})
        self._reads = {part: _fields_of(part, expressions) for part in KNOWN}
        for expression in expressions:
            self._rehearse(expression)

    def load(self, part: str, facts: RequestFacts | TargetFacts) -> None:
        """Make `facts` what `request` or `target` means."""
        values = {name: _plain(getattr(facts, name)) for name in self._reads[part]}
        self._context.add_variable(part, values)

    def holds(self, expression: Expression) -> bool:
        """Whether it is true of what is loaded. Raises `Undecided`, never with content in it."""
        try:
            result = expression.program.execute(self._context)
        except Exception as error:  # the binding raises KeyError, TypeError, RuntimeError, ValueError
            raise Undecided(f"cannot be evaluated ({type(error).__name__})") from None
        if not isinstance(result, bool):
            raise Undecided(f"gives a {type(result).__name__}, not a bool")
        return result

    def _rehearse(self, expression: Expression) -> None:
        """Run it on two typical requests, so that a wrong type is found when the file is read."""
        for request, target in TYPICAL:
            self.load("request", request)
            self.load("target", target)
            try:
                result = expression.program.execute(self._context)
            except KeyError:  # a header this request does not have
                continue
            except Exception as error:
                raise ConfigError(f"{expression.where}: {_first_sentence(error)}: {expression.source!r}") from error
            if not isinstance(result, bool):
                what = f"must give true or false, not {type(result).__name__} {result!r}"
                raise ConfigError(f"{expression.where}: {what}: {expression.source!r}")


TYPICAL = (
    (
        RequestFacts(model="auto", text="Hello, what is 2 + 2?", prompt_tokens=12, messages=1, deadline_s=300.0),
        TargetFacts(name="edge", context_tokens=4096),
    ),
    (
        RequestFacts(
            model="cloud", text="", prompt_tokens=9000, max_tokens=512, messages=7, has_tools=True, wants_json=True,
            stream=True, private=True, labels=("email",), headers={"x-team": "a"}, deadline_s=1.5,
        ),
        TargetFacts(name="cloud", kind="openai", local=False, healthy=False, waiting=3, ttft_s=0.5, total_s=2.0),
    ),
)  # fmt: skip


def _fields_of(part: str, expressions: list[Expression]) -> tuple[str, ...]:
    return tuple(sorted({r.partition(".")[2] for e in expressions for r in e.reads if r.startswith(part + ".")}))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_names(source: str, where: str, sees: frozenset[str]) -> Iterator[str]:
    """The fields `source` reads. Refuses unknown roots' fields and functions; the parser leaves those to run time."""
    tokens = [m for m in _TOKEN.finditer(source) if m.lastgroup != "comment"]
    texts = [m.group() for m in tokens] + ["", "", ""]
    for i, token in enumerate(tokens):
        if token.lastgroup != "name" or (i and texts[i - 1] == "."):
            if token.lastgroup == "name" and texts[i + 1] == "(" and token.group() not in FUNCTIONS:
                raise _unknown("function", token.group(), FUNCTIONS, source, token.start(), where)
            continue
        name = token.group()
        if texts[i + 1] == "(" and name not in FUNCTIONS and name != "in":
            raise _unknown("function", name, FUNCTIONS, source, token.start(), where)
        if name in KNOWN:
            if name not in sees:
                raise _at(f"{name!r} means nothing here; only 'request' does", source, token.start(), where)
            if texts[i + 1] != ".":
                raise _at(f"{name!r} needs a field, as in '{name}.{min(KNOWN[name])}'", source, token.start(), where)
            if texts[i + 2] not in KNOWN[name]:
                raise _unknown(f"field of {name}", texts[i + 2], KNOWN[name], source, tokens[i + 2].start(), where)
            yield f"{name}.{texts[i + 2]}"


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


def _first_sentence(error: Exception) -> str:
    return str(error).partition(". ")[0].partition("\n")[0]
