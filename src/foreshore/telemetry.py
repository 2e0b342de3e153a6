"""What the gateway tells of itself while it runs: Prometheus metrics and one logger. Neither ever holds content."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from foreshore.types import Timings, Usage

__all__ = ["Metrics", "logger"]

logger = logging.getLogger("foreshore")

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
_DECISION_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1)


class Metrics:
    """One registry per gateway, so that two in one process do not mix. Labels come from the config alone."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "foreshore_requests", "Requests ended.", ("target", "rule", "terminal_state"), registry=registry
        )
        self.running = Gauge("foreshore_requests_running", "Requests being answered.", registry=registry)
        self.attempts = Counter("foreshore_attempts", "Attempts at a target.", ("target", "error"), registry=registry)
        self.tokens = Counter("foreshore_tokens", "Tokens, by direction.", ("target", "kind"), registry=registry)
        self.cost = Counter("foreshore_cost_dollars", "Cost by the config's prices.", ("target",), registry=registry)
        self.ttft = Histogram(
            "foreshore_ttft_seconds", "From arrival to first content.", ("target",), buckets=_SECONDS, registry=registry
        )
        self.tpot = Histogram(
            "foreshore_tpot_seconds", "Mean gap between tokens.", ("target",), buckets=_TOKEN_SECONDS, registry=registry
        )
        self.queue = Histogram(
            "foreshore_queue_seconds", "Wait in a local queue.", ("target",), buckets=_SECONDS, registry=registry
        )
        self.decision = Histogram(
            "foreshore_decision_seconds", "Label, constrain, decide.", buckets=_DECISION_SECONDS, registry=registry
        )
        self.ledger_dropped = Gauge("foreshore_ledger_dropped", "Events the ledger could not keep.", registry=registry)
        self.config_errors = Counter("foreshore_config_reload_errors", "Configs refused.", registry=registry)

    def answered(self, target: str, *, ttft_s: float, timings: Timings | None, usage: Usage | None) -> None:
        """An answer of `target` ended whole."""
        self.ttft.labels(target).observe(ttft_s)
        if timings is not None:
            self.queue.labels(target).observe(timings.queue_s)
            if timings.tpot_s > 0:
                self.tpot.labels(target).observe(timings.tpot_s)
        if usage is not None:
            self.tokens.labels(target, "prompt").inc(usage.prompt_tokens)
            self.tokens.labels(target, "completion").inc(usage.completion_tokens)

    def render(self) -> bytes:
        """The text Prometheus scrapes."""
        return generate_latest(self.registry)
