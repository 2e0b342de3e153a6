"""From a request's event to the metrics. Labels are names of the config and codes of ours, never what a caller sent."""

from __future__ import annotations

from foreshore.config import Config
from foreshore.reliability.event import Event
from foreshore.telemetry import OTHER_TENANT, Metrics

__all__ = ["observe"]

GENERATES = ("chat", "completion")


def observe(metrics: Metrics, config: Config, event: Event) -> None:
    """Count `event`, which `config` decided."""
    metrics.requests.labels(event.target, event.rule, event.terminal_state).inc()
    for attempt in event.attempts:
        metrics.attempts.labels(attempt["target"], attempt["error"]).inc()
    if event.cost:
        metrics.cost.labels(event.target).inc(event.cost)
    spec = config.targets.get(event.target)
    if spec is None:  # nobody answered
        return
    labels = (spec.model, event.target, _tenant(config, event.tenant))
    if event.ttft_s > 0 and event.task in GENERATES:
        metrics.began(*labels, ttft_s=event.ttft_s)
    if event.terminal_state == "complete":
        metrics.answered(*labels, timings=event.timings, usage=event.usage)


def _tenant(config: Config, name: str) -> str:
    """An app that embeds the router may name any tenant: those that the config does not know share one label."""
    known = {"default", *(tenant.name for tenant in config.tenants)}
    return name if name in known else OTHER_TENANT
