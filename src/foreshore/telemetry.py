"""What the gateway tells of itself while it runs: Prometheus metrics and one logger. Neither ever holds content."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from foreshore.types import GAP_BOUNDS, Timings, Usage

__all__ = ["OTHER_TENANT", "GapHistogram", "Metrics", "logger"]

logger = logging.getLogger("foreshore")

OTHER_TENANT = "other"  # the label of all tenants that the config does not name
_ANSWER = ("model", "target", "tenant")
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_DECISION_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1)
_PREFILL_LEAST = (
    16  # tokens; fewer, where a cache had the rest, show how long a step takes, not how fast a prompt is read
)
_PREFILL_RATES = (10, 25, 50, 100, 200, 400, 800, 1600, 3200, 6400, 12_800)
_DECODE_RATES = (1, 2, 5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 640)


class Metrics:
    """One registry per gateway, so that two in one process do not mix. Labels come from the config alone."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "foreshore_requests", "Requests ended.", ("target", "rule", "terminal_state"), registry=registry
        )
        self.running = Gauge("foreshore_requests_running", "Requests being answered.", registry=registry)
        self.attempts = Counter("foreshore_attempts", "Attempts at a target.", ("target", "error"), registry=registry)
        self.cost = Counter("foreshore_cost_dollars", "Cost by the config's prices.", ("target",), registry=registry)
        self.decision = Histogram(
            "foreshore_decision_seconds", "Label, constrain, decide.", buckets=_DECISION_SECONDS, registry=registry
        )
        self.ledger_dropped = Gauge("foreshore_ledger_dropped", "Events the ledger could not keep.", registry=registry)
        self.encoder = Counter(
            "foreshore_encoder", "Requests judged with quality.encoder, or without.", ("outcome",), registry=registry
        )
        self.config_errors = Counter("foreshore_config_reload_errors", "Configs refused.", registry=registry)
        self._of_answers()

    def _of_answers(self) -> None:
        """What is kept by model, target and tenant."""

        def histogram(name: str, help: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"foreshore_{name}", help, _ANSWER, buckets=buckets, registry=self.registry)

        def counter(name: str, help: str, *more: str) -> Counter:
            return Counter(f"foreshore_{name}", help, (*_ANSWER, *more), registry=self.registry)

        self.ttft = histogram("ttft_seconds", "From arrival to the first content.", _SECONDS)
        self.tpot = histogram("tpot_seconds", "Mean gap between the tokens of one answer.", GAP_BOUNDS)
        self.queue = histogram("queue_seconds", "Wait in a local target's queue.", _SECONDS)
        self.gap = GapHistogram("foreshore_gap_seconds", "Gaps between a local target's tokens.", self.registry)
        self.prefill = histogram(
            "prefill_tokens_per_second", "Speed at which one prompt was read, by a local target.", _PREFILL_RATES
        )
        self.decode = histogram("decode_tokens_per_second", "Speed at which one answer was written.", _DECODE_RATES)
        self.tokens = counter("tokens", "Tokens, by direction.", "kind")
        self.cached = counter("cached_prompt_tokens", "Prompt tokens that were not computed again.")
        self.parked = counter("parked_answers", "Times an answer gave its memory up to others and went on later.")

    def began(self, model: str, target: str, tenant: str, *, ttft_s: float) -> None:
        """The first content of a generated answer came, however the answer ended."""
        self.ttft.labels(model, target, tenant).observe(ttft_s)

    def answered(self, model: str, target: str, tenant: str, *, timings: Timings | None, usage: Usage | None) -> None:
        """An answer of `target` ended whole. What was not measured (0) is not counted."""
        labels = (model, target, tenant)
        if usage is not None:
            self.tokens.labels(*labels, "prompt").inc(usage.prompt_tokens)
            self.tokens.labels(*labels, "completion").inc(usage.completion_tokens)
            self.cached.labels(*labels).inc(usage.cached_tokens)
        if timings is None:
            return
        if timings.prefill_s > 0:  # a cloud's queue and prefill are not seen from here
            self.queue.labels(*labels).observe(timings.queue_s)
            if timings.prefill_tokens >= _PREFILL_LEAST:
                self.prefill.labels(*labels).observe(timings.prefill_tokens_per_s)
        if timings.tpot_s > 0:
            self.tpot.labels(*labels).observe(timings.tpot_s)
            self.decode.labels(*labels).observe(timings.decode_tokens_per_s)
        if timings.gaps:
            self.gap.add(labels, timings.gaps, timings.decode_s)
        self.parked.labels(*labels).inc(timings.parked)

    def render(self) -> bytes:
        """The text Prometheus scrapes."""
        return generate_latest(self.registry)


class GapHistogram(Collector):
    """Takes gaps already counted in the classes of `GAP_BOUNDS`, a whole answer's at once."""

    def __init__(self, name: str, help: str, registry: CollectorRegistry) -> None:
        self._name, self._help = name, help
        self._lock = Lock()
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def add(self, labels: tuple[str, str, str], counts: Sequence[int], total_s: float) -> None:
        """`counts` by class, and the sum of all these gaps. A class more than there are bounds is the unbounded one."""
        with self._lock:
            kept = self._counts.setdefault(labels, [0] * (len(GAP_BOUNDS) + 1))
            for i, count in enumerate(counts):
                kept[i] += count
            self._sums[labels] = self._sums.get(labels, 0.0) + total_s

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield HistogramMetricFamily(self._name, self._help, labels=_ANSWER)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._help, labels=_ANSWER)
        with self._lock:
            for labels, counts in self._counts.items():
                family.add_metric(labels, _cumulated(counts), self._sums[labels])
        yield family


def _cumulated(counts: Sequence[int]) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, GAP_BOUNDS), "+Inf"]
    return [(bound, sum(counts[: i + 1])) for i, bound in enumerate(bounds)]
