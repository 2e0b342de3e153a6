"""The sums that an answer writes down: which are there, and whether they are right."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite

__all__ = ["Sum", "numbers", "sums"]

MOST = 64  # sums that are looked at

_NUMBER = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
_SUM = re.compile(  # every repetition is bounded, so that no text takes long
    r"([\d$(.][\d\s.,$%()]{0,40}(?:[-+*/x×÷−·^][\s\d.,$%()]{1,40}){1,12})=\s{0,3}\$?(-?\d[\d,]{0,20}(?:\.\d{1,20})?)"
    r"(?!\d|\.\d|\s?[-+*/x×÷^]\s?[\d$(])"  # what goes on is no result: 1 + 2 = 2 + 1
)
_PYTHON = str.maketrans(
    {"x": "*", "×": "*", "·": "*", "÷": "/", "−": "-", "^": "**", "%": "/100", "$": "", ",": "", "\n": ""}
)
_LEADING_ZERO = re.compile(r"(?<![\d.])0+(?=\d)")
_OPERATORS: Mapping[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What is written as `said`, and what its terms come to; None where they cannot be computed. `unit` is that of the
    last digit written: a result that is rounded or cut off there is right."""

    said: float
    unit: float
    worth: float | None

    @property
    def right(self) -> bool:
        return self.worth is not None and abs(self.worth - self.said) < 0.999 * self.unit

    @property
    def wrong(self) -> bool:
        return self.worth is not None and not self.right


def numbers(text: str) -> list[float]:
    """The numbers in `text`, in order; `1,200` is one."""
    found = (float(match.replace(",", "")) for match in _NUMBER.findall(text))
    return [number for number in found if isfinite(number)]


def sums(text: str) -> Iterator[Sum]:
    """The first `MOST` such as `3 x 60 = 180` or `<<3*60=180>>`."""
    for _, match in zip(range(MOST), _SUM.finditer(text), strict=False):
        terms, said = match.groups()
        unit = 10.0 ** -len(said.partition(".")[2])
        yield Sum(said=float(said.replace(",", "")), unit=unit, worth=_worth(terms))


def _worth(terms: str) -> float | None:
    try:
        tree = ast.parse(_LEADING_ZERO.sub("", terms.translate(_PYTHON)).strip(), mode="eval")
        found = _value(tree.body)
    except (ArithmeticError, SyntaxError, TypeError, ValueError):
        return None
    return found if isfinite(found) else None


def _value(node: ast.expr) -> float:
    """In floats: a power too large overflows at once."""
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
    raise ValueError("not arithmetic")
