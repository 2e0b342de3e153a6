"""Embedding and ranking requests beside running streams: texts of several requests in one native batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from foreshore.edge.embedder import MAX_BATCH, MAX_TEXTS, Embedder
from foreshore.edge.engine import Engine
from foreshore.edge.prepare import Prepared
from foreshore.errors import DeadlineExceeded, ForeshoreError, Overloaded, UpstreamError
from foreshore.types import Chunk, Timings, Usage

__all__ = ["EmbeddingQueue"]

Event = tuple[str, Chunk | ForeshoreError]
BUSY_TOKENS = 256  # of one step while streams run, unless one text is longer: they wait for its end
LONGEST_WAIT = 60.0


@dataclass(slots=True, kw_only=True)
class _Job:
    prepared: Prepared
    tokens_left: int
    done: int = 0  # texts, from the front
    started: float | None = None

    @property
    def id(self) -> str:
        return self.prepared.request.id

    @property
    def tenant(self) -> str:
        return self.prepared.request.tenant


class EmbeddingQueue:
    """Prepared embedding and rerank requests, computed a batch a `step`. One thread owns it.

    Of the tenants that wait, the one with the fewest tokens served, divided by its weight, has the next text. One that
    comes back begins at the least of those that wait: being away earns nothing.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float], embedder: Embedder | None = None) -> None:
        """`embedder`: another than llama.cpp's."""
        self._embedder = embedder or Embedder(engine)
        self._limit = engine.options.queue_limit
        self._clock = clock
        self._jobs: dict[str, deque[_Job]] = {}  # by tenant, those without jobs left out
        self._served: dict[str, float] = {}  # tokens by tenant, of those in `_jobs`
        self._tokens_per_s = 0.0

    @property
    def idle(self) -> bool:
        return not self._jobs

    @property
    def waiting(self) -> int:
        """Requests that are not done."""
        return sum(map(len, self._jobs.values()))

    @property
    def waiting_tokens(self) -> int:
        return sum(job.tokens_left for job in self._all())

    def submit(self, prepared: Prepared) -> None:
        """Raises `Overloaded` where more than `queue_limit` requests wait already."""
        if self.waiting > self._limit:
            raise Overloaded(f"{self.waiting} embedding requests wait already", retry_after=self._wait_s())
        tenant = prepared.request.tenant
        if tenant not in self._jobs:
            self._served[tenant] = min(self._served.values(), default=0.0)
        self._jobs.setdefault(tenant, deque()).append(
            _Job(prepared=prepared, tokens_left=sum(map(len, prepared.inputs)))
        )

    def cancel(self, request_id: str) -> None:
        """Forget the request; harmless if it has ended."""
        for job in [j for j in self._all() if j.id == request_id]:
            self._drop(job)

    def step(self, now: float, busy: bool = False) -> list[Event]:
        """Compute one batch, a small one where streams are `busy`. An error ends its request's stream."""
        events = self._expire(now)
        batch = self._pick(BUSY_TOKENS if busy else MAX_BATCH)
        if not batch:
            return events
        for job, _ in batch:
            job.started = now if job.started is None else job.started
        texts = [job.prepared.inputs[index] for job, index in batch]
        try:
            vectors = self._embedder.embed(texts)
        except ForeshoreError as error:
            return events + self._fail(batch, error)
        self._measure(sum(map(len, texts)), self._clock() - now)
        for (job, index), vector in zip(batch, vectors, strict=True):
            events += self._take(job, index, vector)
        return events

    def close(self) -> None:
        self._embedder.close()

    def _all(self) -> Iterator[_Job]:
        return (job for jobs in self._jobs.values() for job in jobs)

    def _pick(self, budget: int) -> list[tuple[_Job, int]]:
        """Texts for one batch, each as its job and its place there."""
        batch: list[tuple[_Job, int]] = []
        pending = {tenant: self._texts(jobs) for tenant, jobs in self._jobs.items()}
        size = 0
        while pending and len(batch) < MAX_TEXTS:
            tenant = min(pending, key=lambda t: (self._served[t], t))
            found = next(pending[tenant], None)
            if found is None:
                del pending[tenant]
                continue
            job, index = found
            tokens = len(job.prepared.inputs[index])
            if batch and size + tokens > budget:
                break  # its tenant stays the one with the fewest: it comes first in the next batch
            size += tokens
            self._served[tenant] += tokens / job.prepared.request.weight
            batch.append(found)
        return batch

    def _texts(self, jobs: deque[_Job]) -> Iterator[tuple[_Job, int]]:
        return ((job, i) for job in jobs for i in range(job.done, len(job.prepared.inputs)))

    def _take(self, job: _Job, index: int, vector: tuple[float, ...]) -> list[Event]:
        job.done += 1
        job.tokens_left -= len(job.prepared.inputs[index])
        if job.prepared.request.task == "rerank":
            chunk = Chunk(index=index, score=vector[0])
        else:
            chunk = Chunk(index=index, embedding=vector)
        if job.done < len(job.prepared.inputs):
            return [(job.id, chunk)]
        self._drop(job)
        return [(job.id, chunk), (job.id, self._last(job))]

    def _last(self, job: _Job) -> Chunk:
        tokens = sum(map(len, job.prepared.inputs))
        now, arrived = self._clock(), job.prepared.arrived
        started = arrived if job.started is None else job.started
        timings = Timings(
            queue_s=started - arrived, prefill_s=now - started, prefill_tokens=tokens, ttft_s=now - arrived
        )
        return Chunk(finish_reason="stop", usage=Usage(prompt_tokens=tokens, completion_tokens=0), timings=timings)

    def _expire(self, now: float) -> list[Event]:
        late = [j for j in self._all() if (end := j.prepared.request.deadline) is not None and end <= now]
        for job in late:
            self._drop(job)
        return [(job.id, DeadlineExceeded("the deadline passed before all texts were computed")) for job in late]

    def _fail(self, batch: list[tuple[_Job, int]], error: ForeshoreError) -> list[Event]:
        failed = {job.id: job for job, _ in batch}
        for job in failed.values():
            self._drop(job)
        return [(request_id, UpstreamError(error.message, hint=error.hint)) for request_id in failed]

    def _drop(self, job: _Job) -> None:
        jobs = self._jobs[job.tenant]
        jobs.remove(job)
        if not jobs:
            del self._jobs[job.tenant], self._served[job.tenant]

    def _measure(self, tokens: int, seconds: float) -> None:
        if seconds > 0:
            rate = tokens / seconds
            self._tokens_per_s = rate if self._tokens_per_s == 0 else 0.8 * self._tokens_per_s + 0.2 * rate

    def _wait_s(self) -> float:
        """Until what waits now is computed, at the measured rate."""
        seconds = self.waiting_tokens / self._tokens_per_s if self._tokens_per_s else 1.0
        return min(LONGEST_WAIT, max(1.0, seconds))
