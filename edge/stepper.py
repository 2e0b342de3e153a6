"""Plan, compute, draw, deliver: the loop body that joins the scheduler with the engine."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from foreshore.edge.embedder import Embedder
from foreshore.edge.engine import Aborted, Engine
from foreshore.edge.generation import Generation
from foreshore.edge.meter import Meter
from foreshore.edge.options import Load
from foreshore.edge.prepare import Prepared
from foreshore.edge.scheduler import Plan, Scheduler, Sequence
from foreshore.errors import DeadlineExceeded, ForeshoreError, Overloaded, UpstreamError
from foreshore.types import Chunk, Timings, Usage

__all__ = ["Event", "Stepper"]

Event = tuple[str, Chunk | ForeshoreError]  # request id; an error ends its stream


@dataclass(slots=True)
class _EmbeddingJob:
    prepared: Prepared
    done: int = 0
    started: float | None = None


class Stepper:
    """Runs prepared requests. One thread owns it, and with it the engine; `computing` may be read by others."""

    def __init__(self, engine: Engine, *, clock: Callable[[], float] = time.monotonic) -> None:
        options, info = engine.options, engine.info
        self._engine = engine
        self._clock = clock
        self._embedder = Embedder(engine)
        self._scheduler = Scheduler(
            slots=options.slots,
            kv_tokens=info.kv_tokens,
            batch_tokens=options.batch_tokens,
            shared_prefill_tokens=options.shared_prefill_tokens,
            queue_limit=options.queue_limit,
        )
        self._meter = Meter()
        self._generations: dict[str, Generation] = {}
        self._embeddings: deque[_EmbeddingJob] = deque()
        self._steps = 0
        self.computing: frozenset[str] = frozenset()  # the requests in the step that runs now

    @property
    def idle(self) -> bool:
        return self._scheduler.idle and not self._embeddings

    @property
    def load(self) -> Load:
        scheduler = self._scheduler
        return Load(
            waiting=len(scheduler.waiting) + len(self._embeddings),
            running=len(scheduler.running),
            waiting_tokens=scheduler.waiting_tokens,
            kv_used=scheduler.ledger.used,
            kv_tokens=scheduler.ledger.capacity,
            prefill_tokens_per_s=self._meter.prefill_tokens_per_s,
            decode_tokens_per_s=self._meter.decode_tokens_per_s,
            steps=self._steps,
        )

    def submit(self, prepared: Prepared) -> None:
        """Raises `Overloaded`, or `BadRequest` where its grammar cannot be read."""
        if prepared.inputs:
            if len(self._embeddings) > self._engine.options.queue_limit:
                raise Overloaded(f"{len(self._embeddings)} embedding requests wait already", retry_after=self._wait_s())
            self._embeddings.append(_EmbeddingJob(prepared))
            return
        generation = Generation(prepared, self._engine.vocab)
        try:
            self._scheduler.submit(generation.sequence, retry_after=self._wait_s())
        except ForeshoreError:
            generation.close()
            raise
        self._generations[prepared.request.id] = generation

    def cancel(self, request_id: str) -> None:
        """Forget the request, wherever it is; harmless if it has ended."""
        self._embeddings = deque(job for job in self._embeddings if job.prepared.request.id != request_id)
        generation = self._generations.get(request_id)
        if generation is not None:
            self._drop(generation.sequence)

    def step(self) -> list[Event]:
        """Compute once. Returns all that became known, an error for each request that failed."""
        now = self._clock()
        events: list[Event] = [(s.id, self._too_late(s)) for s in self._expire(now)]
        events += self._embed(now)
        plan = self._scheduler.plan(now)
        if plan.slices and self._compute(plan):
            seconds = self._clock() - now
            self._meter.observe(prefill_tokens=plan.prefill_tokens, decode_tokens=plan.decode_tokens, seconds=seconds)
            self._scheduler.commit(plan)
            events += self._draw(plan)
        self._steps += 1
        return events

    def close(self) -> None:
        for generation in list(self._generations.values()):
            self._drop(generation.sequence)
        self._embedder.close()

    def _compute(self, plan: Plan) -> bool:
        """Whether the plan was computed; if it was stopped, all is as before it."""
        engine, batch = self._engine, self._engine.batch
        batch.clear()
        for part in plan.slices:
            tokens = self._generations[part.sequence.id].tokens[part.start : part.start + part.count]
            assert part.sequence.slot is not None
            batch.add(tokens, start=part.start, slot=part.sequence.slot, wanted=part.wanted)
        self.computing = frozenset(part.sequence.id for part in plan.slices)
        try:
            engine.decode(batch)
            return True
        except Aborted:
            engine.abort(False)
            for part in plan.slices:
                assert part.sequence.slot is not None
                engine.forget(part.sequence.slot, part.start)
            return False
        finally:
            self.computing = frozenset()

    def _draw(self, plan: Plan) -> list[Event]:
        events: list[Event] = []
        row = -1
        for part in plan.slices:
            row += part.count
            if part.wanted:
                event = self._take(self._generations[part.sequence.id], row)
                events += [] if event is None else [(part.sequence.id, event)]
        return events

    def _take(self, generation: Generation, row: int) -> Chunk | ForeshoreError | None:
        try:
            chunk = generation.take(self._engine.logits(row), self._clock())
        except ForeshoreError as error:
            self._drop(generation.sequence)
            return error
        if generation.ended:
            self._drop(generation.sequence)
        return chunk

    def _embed(self, now: float) -> list[Event]:
        """One batch of the oldest embedding request."""
        if not self._embeddings:
            return []
        job = self._embeddings[0]
        request, inputs = job.prepared.request, job.prepared.inputs
        if request.deadline is not None and request.deadline <= now:
            self._embeddings.popleft()
            return [(request.id, DeadlineExceeded("the deadline passed before all inputs were embedded"))]
        job.started = now if job.started is None else job.started
        count = self._embedder.take(inputs[job.done :])
        try:
            vectors = self._embedder.embed(inputs[job.done : job.done + count])
        except ForeshoreError as error:
            self._embeddings.popleft()
            return [(request.id, UpstreamError(error.message, hint=error.hint))]
        events: list[Event] = [
            (request.id, Chunk(index=job.done + i, embedding=vector)) for i, vector in enumerate(vectors)
        ]
        job.done += count
        if job.done == len(inputs):
            self._embeddings.popleft()
            events.append((request.id, self._embedded(job)))
        return events

    def _embedded(self, job: _EmbeddingJob) -> Chunk:
        tokens = sum(map(len, job.prepared.inputs))
        now, arrived = self._clock(), job.prepared.arrived
        started = arrived if job.started is None else job.started
        return Chunk(
            finish_reason="stop",
            usage=Usage(prompt_tokens=tokens, completion_tokens=0),
            timings=Timings(
                queue_s=started - arrived, prefill_s=now - started, prefill_tokens=tokens, ttft_s=now - arrived
            ),
        )

    def _expire(self, now: float) -> list[Sequence]:
        late = self._scheduler.expire(now)
        for sequence in late:
            self._drop(sequence)
        return late

    def _too_late(self, sequence: Sequence) -> DeadlineExceeded:
        where = "while it waited" if sequence.slot is None else f"after {sequence.generated} tokens"
        return DeadlineExceeded(f"the deadline passed {where}")

    def _drop(self, sequence: Sequence) -> None:
        self._scheduler.finish(sequence)
        if sequence.slot is not None:
            self._engine.forget(sequence.slot)
        generation = self._generations.pop(sequence.id, None)
        if generation is not None:
            generation.close()

    def _wait_s(self) -> float:
        """Until the queue has room: what is left to compute at the measured speeds, shared by the slots."""
        scheduler, meter = self._scheduler, self._meter
        prefill = scheduler.waiting_tokens / meter.prefill_tokens_per_s if meter.prefill_tokens_per_s else 0.0
        left = sum(s.max_tokens - s.generated for s in scheduler.running.values()) / max(1, len(scheduler.running))
        each = meter.decode_tokens_per_s / max(1, len(scheduler.running))
        return min(60.0, max(1.0, prefill + (left / each if each else 0.0)))
