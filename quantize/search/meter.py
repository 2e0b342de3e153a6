"""Drives a measuring process: `Meter` is one, `Meters` several side by side, each with the model loaded."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from foreshore.quantize.child import Child
from foreshore.quantize.texts import Corpus

__all__ = ["MODULE", "Asked", "Meter", "MeterJob", "Meters", "Mix"]

MODULE = "foreshore.quantize.search.sensitivity"
Mix = Mapping[str, str]  # tensor -> type; every other tensor keeps its parent's


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterJob:
    """What is measured on. With `moments` tensors are refined by them. `cache` keeps quantized tensors; `context` is
    the longest window, in tokens."""

    model: Path
    corpus: Corpus
    imatrix: Path | None = None
    moments: Path | None = None
    cache: Path | None = None
    context: int = 512
    threads: int = 1

    def to_json(self) -> dict[str, Any]:
        return {
            "model": os.fspath(self.model),
            "imatrix": os.fspath(self.imatrix) if self.imatrix else None,
            "moments": os.fspath(self.moments) if self.moments else None,
            "cache": os.fspath(self.cache) if self.cache else None,
            "documents": self.corpus.documents,
            "special": self.corpus.special,
            "context": self.context,
            "threads": self.threads,
        }


class Asked(Protocol):
    """A process of `MODULE`, wherever it runs."""

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Meter:
    """`tokens` of each window, and the tensors that the graph `used`, are known once it is made.

    `process` is a new local one if not given. Raises `ModelError` for a model that cannot be measured, `SetupError`
    where the process dies.
    """

    def __init__(self, job: MeterJob, process: Asked | None = None) -> None:
        self._process = process or Child(MODULE, doing=f"measured mixes of {job.model.name!r}")
        try:
            described = self._process.ask(job.to_json())
        except BaseException:
            self.close()
            raise
        self.tokens: list[int] = described["tokens"]
        self.used = frozenset(described["used"])

    def paces(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Of tensor and type: the seconds that quantizing one weight takes, on all threads."""
        return [float(s) for s in self._process.ask({"paces": list(pairs)})["paces"]]

    def errors(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Of tensor and type: the squared error weighted by importance, as a share of the squared values."""
        return [float(e) for e in self._process.ask({"errors": list(pairs)})["errors"]]

    def divergences(self, mix: Mix, windows: int) -> list[float]:
        """KL(parent || mix) in nats, summed over each of the first `windows` windows."""
        return [float(kl) for kl in self._process.ask({"mix": dict(mix), "windows": windows})["kl"]]

    def close(self) -> None:
        self._process.close()


class Meters:
    """`count` meters, started together by `make`. Use it in a `with` statement."""

    def __init__(self, job: MeterJob, count: int, make: Callable[[MeterJob], Meter] = Meter) -> None:
        self._meters: list[Meter] = []
        self._closed = False
        errors: list[BaseException] = []

        def start() -> None:
            try:
                meter = make(job)
            except BaseException as error:
                errors.append(error)
                return
            self._meters.append(meter)
            if self._closed:  # interrupted meanwhile
                meter.close()

        try:
            _side_by_side(start, count)
            if errors:
                raise errors[0]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Meters:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def first(self) -> Meter:
        return self._meters[0]

    def __len__(self) -> int:
        return len(self._meters)

    def map(self, tasks: Iterable[Callable[[Meter], Any]]) -> Iterator[tuple[int, Any]]:
        """Number and result of each task, as they are done. The first error ends it."""
        waiting: queue.SimpleQueue[tuple[int, Callable[[Meter], Any]]] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        total = 0
        for task in tasks:
            waiting.put((total, task))
            total += 1
        for meter in self._meters:
            threading.Thread(target=_work, args=(meter, waiting, done), daemon=True).start()
        for _ in range(total):
            number, result = done.get()
            if isinstance(result, BaseException):
                raise result
            yield number, result

    def close(self) -> None:
        self._closed = True
        for meter in self._meters:
            meter.close()


def _work(meter: Meter, waiting: Any, done: Any) -> None:
    with suppress(queue.Empty):
        while True:
            number, task = waiting.get_nowait()
            try:
                done.put((number, task(meter)))
            except BaseException as error:
                done.put((number, error))
                return


def _side_by_side(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
