"""Conditions as Python functions: of one alone, of one over all targets, of a list up to the first that holds.

They are given as Python's own syntax trees, which `plain` writes; what is not plain, an `Ask` answers.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from foreshore.router.facts import PARTS, BudgetFacts, ClockFacts, DeviceFacts, RequestFacts, TargetFacts

__all__ = ["Ask", "Each", "First", "One", "Scene", "all_of", "each_of", "first_of", "one_of"]


class Scene(NamedTuple):
    """All that a `when` sees. A tuple, for functions take it apart."""

    request: RequestFacts
    device: DeviceFacts
    budget: BudgetFacts
    now: ClockFacts


Ask = Callable[[int, Scene], bool]  # of the condition with this number; raises where nobody can say
One = Callable[..., bool]  # of the parts, in the order of `PARTS`
Each = Callable[[Sequence[TargetFacts], str, RequestFacts, DeviceFacts, BudgetFacts, ClockFacts], list[str]]
First = Callable[[Scene], int]
All = Callable[[Scene], tuple[bool, ...]]


def one_of(condition: ast.expr, helpers: Mapping[str, Any]) -> One:
    made: One = _function([*PARTS], [ast.Return(condition)], helpers)
    return made


def each_of(condition: ast.expr, helpers: Mapping[str, Any]) -> Each:
    """Of each target in turn: "" where it holds, else what is given."""
    loop = ast.comprehension(ast.Name("target", ast.Store()), _name("targets"), [], 0)
    told = ast.IfExp(condition, ast.Constant(""), _name("otherwise"))
    body: list[ast.stmt] = [ast.Return(ast.ListComp(told, [loop]))]
    made: Each = _function(["targets", "otherwise", *Scene._fields], body, helpers)
    return made


def first_of(conditions: Sequence[ast.expr | None], helpers: Mapping[str, Any], ask: Ask) -> First:
    """The number of the first that holds; how many there are where none does."""
    tests = [_asked(i) if made is None else made for i, made in enumerate(conditions)]
    body: list[ast.stmt] = [ast.If(test, [ast.Return(ast.Constant(i))], []) for i, test in enumerate(tests)]
    made: First = _of_a_scene([*body, ast.Return(ast.Constant(len(tests)))], {**helpers, "ask": ask})
    return made


def all_of(conditions: Sequence[ast.expr | None], helpers: Mapping[str, Any], ask: Ask) -> All:
    """Of each whether it holds."""
    tests = [_asked(i) if made is None else made for i, made in enumerate(conditions)]
    made: All = _of_a_scene([ast.Return(ast.Tuple(tests, ast.Load()))], {**helpers, "ask": ask})
    return made


def _of_a_scene(body: list[ast.stmt], known: Mapping[str, Any]) -> Any:
    """A function of a scene, which it takes apart first."""
    parts = ast.Tuple([ast.Name(part, ast.Store()) for part in Scene._fields], ast.Store())
    return _function(["scene"], [ast.Assign([parts], _name("scene")), *body], known)


def _function(names: Sequence[str], body: list[ast.stmt], known: Mapping[str, Any]) -> Any:
    whole = ast.parse(f"def condition({', '.join(names)}): ...")  # names of ours alone
    (made,) = whole.body
    assert isinstance(made, ast.FunctionDef)
    made.body = body
    space: dict[str, Any] = {"__builtins__": {}, **known}
    exec(compile(ast.fix_missing_locations(whole), "<rules>", "exec"), space)
    return space["condition"]


def _asked(number: int) -> ast.expr:
    return ast.Call(_name("ask"), [ast.Constant(number), _name("scene")], [])


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())
