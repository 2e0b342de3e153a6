"""Drives a measuring process: `Meter` is one, `Meters` several side by side, each with the model loaded."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from foreshore.errors import ModelError, SetupError
from foreshore.quantize.texts import Corpus

__all__ = ["Meter", "MeterJob", "Meters", "Mix"]

Mix = Mapping[str, str]  # tensor -> type; every other tensor keeps its parent's


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterJob:
    """What is measured on. `cache` keeps quantized tensors; `context` is the longest window, in tokens."""

    model: Path
    corpus: Corpus
    imatrix: Path | None = None
    cache: Path | None = None
    context: int = 512
    threads: int = 1


class Meter:
    """`tokens` of each window, and the tensors that the graph `used`, are known once it is made.

    Raises `ModelError` for a model that cannot be measured, `SetupError` where the process dies.
    """

    def __init__(self, job: MeterJob) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "foreshore.quantize.sensitivity"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        try:
            described = self._ask(_opening(job))
        except BaseException:
            self.close()
            raise
        self.tokens: list[int] = described["tokens"]
        self.used = frozenset(described["used"])

    def errors(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Of tensor and type: the squared error weighted by importance, as a share of the squared values."""
        return [float(e) for e in self._ask({"errors": list(pairs)})["errors"]]

    def divergences(self, mix: Mix, windows: int) -> list[float]:
        """KL(parent || mix) in nats, summed over each of the first `windows` windows."""
        return [float(kl) for kl in self._ask({"mix": dict(mix), "windows": windows})["kl"]]

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with suppress(OSError):
                if pipe:
                    pipe.close()
        self._errors.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._child.stdin
        assert self._child.stdout
        with suppress(OSError):  # it died: the missing answer says so
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise self._crash()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise (SetupError if answer["setup"] else ModelError)(answer["error"], hint=answer["hint"])
        return answer

    def _crash(self) -> SetupError:
        code = self._child.wait()
        self._errors.seek(0)
        said = self._errors.read()[-2000:].decode(errors="replace").strip()
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        hint = f"run `foreshore doctor`; it said: {said or 'nothing'}"
        return SetupError(f"the measuring process ended ({why}); was there enough memory?", hint=hint)


class Meters:
    """`count` meters, started together by `make`. Use it in a `with` statement."""

    def __init__(self, job: MeterJob, count: int, make: Callable[[MeterJob], Meter] = Meter) -> None:
        self._meters: list[Meter] = []
        results = list(_side_by_side([lambda: make(job)] * count))
        self._meters = [r for r in results if not isinstance(r, BaseException)]
        failed = [r for r in results if isinstance(r, BaseException)]
        if failed:
            self.close()
            raise failed[0]

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


def _side_by_side(makers: Sequence[Callable[[], Any]]) -> list[Any]:
    results: list[Any] = [None] * len(makers)

    def make(number: int) -> None:
        try:
            results[number] = makers[number]()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=make, args=(i,)) for i in range(len(makers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def _opening(job: MeterJob) -> dict[str, Any]:
    return {
        "model": os.fspath(job.model),
        "imatrix": os.fspath(job.imatrix) if job.imatrix else None,
        "cache": os.fspath(job.cache) if job.cache else None,
        "documents": job.corpus.documents,
        "special": job.corpus.special,
        "context": job.context,
        "threads": job.threads,
    }
