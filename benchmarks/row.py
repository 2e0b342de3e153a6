"""One line of a benchmark's result: a number, how far it scattered, and the target that it is held against."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Row", "Side", "Target", "failed", "of_pairs", "of_values", "percentile", "worst"]

Side = Literal[">=", "<="]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`low` and `high` are the smallest and the largest of the values whose median `value` is, or, where the row is
    measured so, the ends of its 95 % confidence interval."""

    key: str
    value: float | None
    low: float | None = None
    high: float | None = None
    error: str | None = None  # why there is no value
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound on a row's value, and what the value is. `high` bounds the row's own `high` from above as well; `most`
    bounds the value from above where `bound` does so from below."""

    bound: float
    side: Side
    what: str
    high: float | None = None
    most: float | None = None

    def met(self, row: Row) -> bool:
        if row.value is None:
            return False
        within = row.value >= self.bound if self.side == ">=" else row.value <= self.bound
        below = self.most is None or row.value <= self.most
        sure = self.high is None or (row.high is not None and row.high <= self.high)
        return within and below and sure

    def __str__(self) -> str:
        most = "" if self.most is None else f", <= {self.most:g}"
        return f"{self.side} {self.bound:g}{most}"

    def to_json(self, row: Row) -> dict[str, Any]:
        """The row as a benchmark prints it."""
        numbers = {name: _rounded(getattr(row, name)) for name in ("value", "low", "high")}
        also = {f"target_{name}": bound for name in ("high", "most") if (bound := getattr(self, name)) is not None}
        found = {**numbers, "target": self.bound, **also, "side": self.side, "ok": self.met(row)}
        return {**found, **({"error": row.error} if row.error else {}), "details": row.details}


def of_values(key: str, values: Sequence[float], **details: Any) -> Row:
    return Row(key=key, value=statistics.median(values), low=min(values), high=max(values), details=details)


def of_pairs(key: str, ours: Sequence[float], theirs: Sequence[float], **details: Any) -> Row:
    """The median, smallest and largest of the ratios of runs that followed each other."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return of_values(key, ratios, ours=_list(ours), theirs=_list(theirs), **details)


def failed(key: str, error: BaseException) -> Row:
    while isinstance(error, BaseExceptionGroup):  # of requests that run side by side the first failure tells enough
        error = error.exceptions[0]
    hint = getattr(error, "hint", None)
    said = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
    return Row(key=key, value=None, error=f"{said} ({hint})" if hint else said)


def worst(rows: dict[str, Row], target: Target) -> Row:
    """Of one row measured on several models: one that misses `target` before any that meets it, then the one furthest
    on the wrong side; an error is further than any."""
    sign = -1 if target.side == "<=" else 1

    def place(row: Row) -> tuple[bool, float]:
        return target.met(row), -float("inf") if row.value is None else sign * row.value

    model, row = min(rows.items(), key=lambda pair: place(pair[1]))
    if len(rows) == 1:
        return Row(key=row.key, value=row.value, low=row.low, high=row.high, error=row.error,
                   details={"model": model, **row.details})  # fmt: skip
    return Row(key=row.key, value=row.value, low=row.low, high=row.high, error=row.error,
               details={"model": model, "models": {name: _brief(r) for name, r in rows.items()}})  # fmt: skip


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest rank: the smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def _brief(row: Row) -> dict[str, Any]:
    found = {name: _rounded(getattr(row, name)) for name in ("value", "low", "high")}
    return {**found, "error": row.error} if row.error else {**found, **row.details}


def _list(values: Sequence[float]) -> list[float]:
    return [float(f"{v:.4g}") for v in values]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
