"""One line of a benchmark's result: a number, how far it scattered, and whether it meets its target."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["TARGETS", "Row", "Target", "failed", "of_pairs", "of_values", "percentile", "worst"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound on a row's value, and what the value is."""

    bound: float
    side: Literal[">=", "<="]
    what: str

    def met(self, value: float) -> bool:
        return value >= self.bound if self.side == ">=" else value <= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`low` and `high` are the smallest and the largest of the values whose median `value` is."""

    key: str
    value: float | None
    low: float | None = None
    high: float | None = None
    error: str | None = None  # why there is no value
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        return TARGETS[self.key]

    @property
    def ok(self) -> bool:
        return self.value is not None and self.target.met(self.value)

    def to_json(self) -> dict[str, Any]:
        numbers = {name: _rounded(getattr(self, name)) for name in ("value", "low", "high")}
        found = {**numbers, "target": self.target.bound, "side": self.target.side, "ok": self.ok}
        return {**found, **({"error": self.error} if self.error else {}), "details": self.details}


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


def worst(rows: dict[str, Row]) -> Row:
    """Of one row measured on several models, the one furthest from its target; an error is further than any."""
    sign = -1 if next(iter(rows.values())).target.side == "<=" else 1
    model, row = min(rows.items(), key=lambda pair: -float("inf") if pair[1].value is None else sign * pair[1].value)
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


_HTTP = "tokens/s of all streams over HTTP, ours / llama-server's, {} streams"
TARGETS = {
    "decode_vs_llama_bench": Target(bound=0.97, side=">=", what="single stream decode, ours / llama-bench's"),
    "aggregate_vs_llama_server_1": Target(bound=1.0, side=">=", what=_HTTP.format(1)),
    "aggregate_vs_llama_server_4": Target(bound=1.1, side=">=", what=_HTTP.format(4)),
    "aggregate_vs_llama_server_8": Target(bound=1.1, side=">=", what=_HTTP.format(8)),
    "aggregate_vs_llama_server_16": Target(bound=1.1, side=">=", what=_HTTP.format(16)),
    "aggregate_vs_llama_cpp_server_8": Target(bound=3.0, side=">=", what="the same, ours / llama_cpp.server's"),
    "gap_p99_vs_llama_server": Target(
        bound=1 / 40, side="<=", what="p99 gap of running streams while a long prompt is read, ours / llama-server's"
    ),
    "gap_p99_vs_undisturbed": Target(bound=6.0, side="<=", what="that gap / our own undisturbed median"),
    "long_ttft_vs_llama_server": Target(bound=1.3, side="<=", what="the long prompt's TTFT, ours / llama-server's"),
    "own_us_per_token_greedy": Target(bound=60.0, side="<=", what="µs a token outside llama_decode, greedy"),
    "own_us_per_token_sampled": Target(bound=200.0, side="<=", what="the same, top-k 40, top-p, temperature"),
    "overcommit_completed": Target(bound=1.0, side=">=", what="share completed when demand is 3x the KV cache"),
    "shared_prefix_prefill": Target(bound=1.15, side="<=", what="prompt tokens computed for all / for one"),
    "fair_ttft_vs_fifo": Target(bound=0.2, side="<=", what="chat's TTFT p95 beside long prompts, fair / FIFO"),
    "fair_throughput_vs_fifo": Target(bound=0.98, side=">=", what="tokens/s of that, fair / FIFO"),
    "rss_overhead_mb": Target(bound=200.0, side="<=", what="MB of a worker beyond weights and KV cache"),
    "leak_kib_per_request": Target(bound=1.0, side="<=", what="KiB that a short request leaves in memory"),
}
