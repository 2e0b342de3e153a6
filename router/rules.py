"""CEL expressions over the parts of `facts.PARTS`: compiled and checked at load, evaluated per request.

A `when` sees everything but `target`; a `require` or `where` sees it too. An unknown field, a syntax error or a result
that is no bool is a `ConfigError` that names rule, line and column. Converting a part as a whole for CEL costs more
than all rules together, so a program asks for single fields by flat names (`request_text` for `request.text`), and
only a field that an evaluation reaches is converted.
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
from foreshore.router.facts import PARTS, BudgetFacts, ClockFacts, DeviceFacts, RequestFacts, TargetFacts

__all__ = ["KNOWN", "OF_TARGETS", "SCENE", "Evaluator", "Expression", "Undecided"]

Facts = RequestFacts | TargetFacts | DeviceFacts | BudgetFacts | ClockFacts

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
    """One compiled expression. `reads` are the fields it looks at, as `request.tenant`; `program` knows them by flat
    names, as `request_tenant`."""

    source: str
    where: str  # "foreshore.yaml: rule 'short', when"
    program: Any
    reads: frozenset[str]

    @classmethod
    def compile(cls, source: str, *, where: str, sees: Iterable[str]) -> Expression:
        """Raises `ConfigError` naming `where`, line and column."""
        try:
            cel.compile(source)
            found = list(_fields_read(source, where, frozenset(sees)))
            program = cel.compile(_flattened(source, found))
        except ValueError as error:
            raise _syntax_error(str(error), source, where) from error
        reads = frozenset(f"{field.part}.{field.name}" for field in found)
        return cls(source=source, where=where, program=program, reads=reads)


class Evaluator:
    """What the expressions of a policy are asked of. Use it as a context: it is one request's at a time, and forgets
    it afterwards. `load` the parts, then ask."""

    def __init__(self, expressions: Iterable[Expression]) -> None:
        expressions = list(expressions)
        self._lock = threading.Lock()
        self._values: dict[str, Any] = {}
        self._context = cel.Context({})
        self._context.set_variable_resolver(self._values.get)
        reads = sorted(frozenset[str]().union(*(e.reads for e in expressions)))
        self._reads = {part: _flat_names(part, reads) for part in KNOWN}
        with self:
            for expression in expressions:
                self._rehearse(expression)

    def __enter__(self) -> Evaluator:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._values.clear()
        self._lock.release()

    def load(self, part: str, facts: Facts) -> None:
        """Make `facts` what `part` means, as `request` or `target`."""
        values = self._values
        for flat, name in self._reads[part]:
            values[flat] = getattr(facts, name)

    def holds(self, expression: Expression) -> bool:
        """Whether it is true of what is loaded. Raises `Undecided`, never with content in it."""
        try:
            result = expression.program.execute(self._context)
        except Exception as error:  # the binding raises KeyError, TypeError, RuntimeError, ValueError
            raise Undecided(f"cannot be evaluated ({type(error).__name__})") from None
        if not isinstance(result, bool):
            raise Undecided(f"gives a {type(result).__name__}, not a bool")
        return result

    def ask(self, expression: Expression) -> tuple[bool | None, str]:
        """Whether it holds, or None and why nobody can say."""
        try:
            return self.holds(expression), ""
        except Undecided as undecided:
            return None, undecided.reason

    def _rehearse(self, expression: Expression) -> None:
        """Run it on two typical requests, so that a wrong type is found when the file is read."""
        for scene in TYPICAL:
            for part, facts in scene.items():
                self.load(part, facts)
            try:
                result = expression.program.execute(self._context)
            except KeyError:  # a header this request does not have
                continue
            except Exception as error:
                raise ConfigError(f"{expression.where}: {_first_sentence(error)}: {expression.source!r}") from error
            if not isinstance(result, bool):
                what = f"must give true or false, not {type(result).__name__} {result!r}"
                raise ConfigError(f"{expression.where}: {what}: {expression.source!r}")


TYPICAL: tuple[dict[str, Facts], ...] = (
    {
        "request": RequestFacts(
            model="auto", text="Hello, what is 2 + 2?", language="en", prompt_tokens=12, messages=1, deadline_s=300.0
        ),
        "target": TargetFacts(name="edge", context_tokens=4096, ttft_s=0.25, total_s=1.5, p90_s=2.5),
        "device": DeviceFacts(memory_free_bytes=1 << 30),
        "budget": BudgetFacts(),
        "now": ClockFacts(hour=9),
    },
    {
        "request": RequestFacts(
            model="cloud", session="s", prompt_tokens=9000, max_tokens=512, messages=7, has_tools=True,
            has_images=True, wants_json=True, stream=True, private=True, labels=("email",), headers={"x-team": "a"},
            deadline_s=1.5,
        ),
        "target": TargetFacts(
            name="cloud", kind="openai", local=False, tags=("eu",), healthy=False, waiting=3, quality=0.75, cost=0.5
        ),
        "device": DeviceFacts(battery_percent=12.5, on_battery=True, celsius=91.0, online=False),
        "budget": BudgetFacts(dollars=5.0, spent=4.5, left=0.5, share_left=0.125),
        "now": ClockFacts(hour=23, minute=59, weekday=6),
    },
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """`request.tenant` in an expression, from `start` to `end`."""

    part: str
    name: str
    start: int
    end: int


def _flat_names(part: str, reads: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(name in a program, name in the facts) of each field of `part` that is read."""
    return tuple((r.replace(".", "_"), r.partition(".")[2]) for r in reads if r.partition(".")[0] == part)


def _flattened(source: str, found: Iterable[_Field]) -> str:
    """`source` with flat names, each as long as what it replaces, so that columns stay."""
    text = source
    for field in found:
        flat = f"{field.part}_{field.name}".ljust(field.end - field.start)
        text = text[: field.start] + flat + text[field.end :]
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


def _first_sentence(error: Exception) -> str:
    return str(error).partition(". ")[0].partition("\n")[0]
