"""What expressions are asked of: evaluated per request, once each has been tried on typical ones.

A `when` sees everything but `target`; a `require` or `where` sees it too. A result that is no bool is a `ConfigError`
when the file is read. Only a field that an evaluation reaches is converted for CEL.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import cel

from foreshore.errors import ConfigError
from foreshore.router.expression import KNOWN, OF_TARGETS, SCENE, Expression
from foreshore.router.facts import PARTS, BudgetFacts, ClockFacts, DeviceFacts, RequestFacts, TargetFacts
from foreshore.router.plain import matcher
from foreshore.router.program import Scene

__all__ = ["KNOWN", "OF_TARGETS", "SCENE", "Evaluator", "Expression", "Undecided"]

Answer = tuple[bool | None, str]
Facts = RequestFacts | TargetFacts | DeviceFacts | BudgetFacts | ClockFacts
_PLACE = {part: i for i, part in enumerate(PARTS)}
_NOTHING = [None] * len(PARTS)
_YES: Answer = (True, "")
_NO: Answer = (False, "")


class Undecided(Exception):
    """The expression could not be evaluated on this request; `reason` holds no content."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Evaluator:
    """What the expressions of a policy are asked of. Use it as a context: it is one request's at a time, and forgets
    it afterwards. `load` the parts, then ask."""

    def __init__(self, expressions: Iterable[Expression]) -> None:
        expressions = list(expressions)
        self._lock = threading.Lock()
        self._loaded: list[Any] = [None] * len(PARTS)  # in their order
        self._flat: list[Any] = [None] * len(PARTS)  # those of which `_values` has the fields
        self._values: dict[str, Any] = {}  # by flat names, for CEL
        self._context = cel.Context({})
        self._context.set_variable_resolver(self._values.get)
        self._context.add_function("matched", _matched)
        reads = sorted(frozenset[str]().union(*(e.reads for e in expressions)))
        self._reads = {part: _flat_names(part, reads) for part in KNOWN}
        with self:
            for expression in expressions:
                self._rehearse(expression)

    def __enter__(self) -> Evaluator:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._loaded[:] = self._flat[:] = _NOTHING
        self._values.clear()
        self._lock.release()

    def load(self, part: str, facts: Facts) -> None:
        """Make `facts` what `part` means, as `request` or `target`."""
        self._loaded[_PLACE[part]] = facts

    def load_scene(self, scene: Scene) -> None:
        """All that a `when` sees."""
        for part in SCENE:
            self.load(part, getattr(scene, part))

    def ask(self, expression: Expression) -> Answer:
        """Whether it is true of what is loaded; or None and why nobody can say, never with content in it."""
        try:
            result = self._result(expression)
        except Exception as error:  # CEL's binding raises KeyError, TypeError, RuntimeError, ValueError
            return None, f"cannot be evaluated ({type(error).__name__})"
        if result is True:
            return _YES
        return _NO if result is False else (None, f"gives a {type(result).__name__}, not a bool")

    def sure(self, expression: Expression, scene: Scene) -> bool:
        """As `ask`, of a whole scene; raises `Undecided` where nobody can say."""
        with self:
            self.load_scene(scene)
            return self.holds(expression)

    def each(self, expression: Expression, targets: Sequence[TargetFacts], scene: Scene, otherwise: str) -> list[str]:
        """Of each target in turn: "" where it is true, `otherwise` where it is not, or why nobody can say."""
        try:
            if expression.plain is not None:
                return expression.plain.each(targets, otherwise, *scene)
        except Exception:  # of one target at least only CEL can tell
            pass
        found = []
        with self:
            self.load_scene(scene)
            for target in targets:
                self.load("target", target)
                holds, why = self.ask(expression)
                found.append("" if holds else why or otherwise)
        return found

    def holds(self, expression: Expression) -> bool:
        """As `ask`; raises `Undecided` where nobody can say."""
        answer, why = self.ask(expression)
        if answer is None:
            raise Undecided(why)
        return answer

    def _result(self, expression: Expression) -> Any:
        if expression.plain is not None:
            with suppress(Exception):
                return expression.plain.one(*self._loaded)
        return self._execute(expression)

    def _execute(self, expression: Expression) -> Any:
        """What CEL makes of it."""
        for part, i in _PLACE.items():
            facts = self._loaded[i]
            if facts is not self._flat[i]:
                self._flat[i] = facts
                self._values.update((flat, getattr(facts, name)) for flat, name in self._reads[part])
        return expression.program.execute(self._context)

    def _rehearse(self, expression: Expression) -> None:
        """Run it on two typical requests, so that a wrong type is found when the file is read."""
        for scene in TYPICAL:
            for part, facts in scene.items():
                self.load(part, facts)
            try:
                result = self._execute(expression)
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


def _flat_names(part: str, reads: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(name in a program, name in the facts) of each field of `part` that is read."""
    return tuple((r.replace(".", "_"), r.partition(".")[2]) for r in reads if r.partition(".")[0] == part)


def _matched(text: Any, pattern: Any) -> bool:
    """CEL's `matches`, with the pattern compiled once."""
    if not isinstance(text, str) or not isinstance(pattern, str):
        raise TypeError("matches() takes text and a regex")
    return matcher(pattern)(text)


def _first_sentence(error: Exception) -> str:
    return str(error).partition(". ")[0].partition("\n")[0].replace("matched", "matches")
