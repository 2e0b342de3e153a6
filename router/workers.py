"""The workers behind the local targets, as a scrape finds them: nothing is measured while nobody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from foreshore.router.target import Target

__all__ = ["Workers"]

_LABELS = ("model", "target")
_HELP = {
    "requests_running": "Requests in the running batch.",
    "requests_waiting": "Requests in the queue.",
    "kv_used_tokens": "Tokens that the KV cache holds, cached beginnings of prompts with them.",
    "kv_tokens": "Tokens that the KV cache has room for.",
    "threads": "CPU threads that compute.",
    "model_loaded": "1 while the model can answer, else 0.",
    "memory_bytes": "Resident memory, the mapped weights with it.",
    "restarts": "Workers that ended unasked and were replaced.",
    "quarantined": "Requests that are refused, for two workers ended with them.",
}
Family = GaugeMetricFamily | CounterMetricFamily


@runtime_checkable
class Worked(Protocol):
    """A backend with a worker process. `info` and `pid` are None while there is none."""

    @property
    def state(self) -> Any: ...
    @property
    def info(self) -> Any: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def restarts(self) -> int: ...
    @property
    def quarantine(self) -> Any: ...

    def load(self) -> Any: ...


class Workers(Collector):
    """Asks `targets` at each scrape: a reload may have changed them."""

    def __init__(self, targets: Callable[[], Iterable[Target]]) -> None:
        self._targets = targets

    def describe(self) -> Iterator[Family]:
        for name, text in _HELP.items():
            kind = CounterMetricFamily if name == "restarts" else GaugeMetricFamily
            yield kind(f"foreshore_worker_{name}", text, labels=_LABELS)

    def collect(self) -> Iterator[Family]:
        families = dict(zip(_HELP, self.describe(), strict=True))
        for target in self._targets():
            if isinstance(target.backend, Worked):
                for name, value in _values(target.backend).items():
                    families[name].add_metric((target.spec.model, target.name), value)
        yield from families.values()


def _values(backend: Worked) -> dict[str, float]:
    load, info = backend.load(), backend.info
    return {
        "requests_running": load.running,
        "requests_waiting": load.waiting,
        "kv_used_tokens": load.kv_used,
        "kv_tokens": load.kv_tokens or (info.kv_tokens if info else 0),
        "threads": load.threads or (info.threads if info else 0),
        "model_loaded": float(backend.state == "ready"),
        "memory_bytes": _resident(backend.pid),
        "restarts": backend.restarts,
        "quarantined": 0 if backend.quarantine is None else backend.quarantine.held,
    }


def _resident(pid: int | None) -> int:
    try:
        return 0 if pid is None else int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:  # it ended meanwhile
        return 0
