"""Plan, compute, draw, deliver: the loop body that joins the scheduler with the engine."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import get_args

from foreshore.edge.draft_model import DraftModel
from foreshore.edge.embedder import Embedder
from foreshore.edge.embedding import EmbeddingQueue
from foreshore.edge.engine import Aborted, Engine, NoSlot
from foreshore.edge.generation import Generation
from foreshore.edge.meter import Meter
from foreshore.edge.options import Load
from foreshore.edge.pacer import ALIGN
from foreshore.edge.prefix.keeper import PrefixKeeper, fingerprint
from foreshore.edge.prefix.memory import PrefixMemory
from foreshore.edge.prefix.store import open_store
from foreshore.edge.prepare import Prepared
from foreshore.edge.scheduler import Action, Forget, Park, Plan, Policy, Restore, Scheduler, Share, Slice, Spill
from foreshore.edge.sequence import Sequence
from foreshore.edge.speculation import Lookup, Speculator
from foreshore.errors import BadRequest, DeadlineExceeded, ForeshoreError, UpstreamError
from foreshore.types import Chunk, Request, ServiceTier

__all__ = ["Event", "Stepper"]

KEPT_BESIDE = 0  # tokens of ended sequences that stay in the cache beside running ones: bringing them back is cheaper
SHORT_STEP = 64  # tokens; not worth stopping
REPORT_S = 0.1  # how old a load may be while nobody comes or goes
_log = logging.getLogger("foreshore")
Event = tuple[str, Chunk | ForeshoreError]  # request id; an error ends its stream


class Stepper:
    """Runs prepared requests. One thread owns it, and with it the engine; `computing` may be read by others."""

    def __init__(
        self, engine: Engine, *, embedder: Embedder | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._embeddings = EmbeddingQueue(engine, clock, embedder)
        self._scheduler = Scheduler(_policy(engine))
        self._meter = Meter()
        self._speculator = self._open_speculator()
        self._keeper = self._open_keeper()
        self._states: dict[str, bytes] = {}  # of parked sequences
        self._generations: dict[str, Generation] = {}
        self._steps = 0
        self._busy_s = self._native_s = 0.0
        self._reported: tuple[int, int] | None = None  # who waited and ran at the last report
        self._report_due = 0.0
        self._apart: str | None = None  # the deterministic request whose tokens are in the context for these
        self.due: float | None = None  # when to stop the step that runs now, for most of it will be of no use
        self.computing: frozenset[str] = frozenset()  # the requests in the step that runs now

    @property
    def idle(self) -> bool:
        return self._scheduler.idle and self._embeddings.idle

    @property
    def load(self) -> Load:
        scheduler = self._scheduler
        return Load(
            waiting=scheduler.queue + self._embeddings.waiting,
            running=len(scheduler.running),
            waiting_tokens=scheduler.waiting_tokens + self._embeddings.waiting_tokens,
            kv_used=scheduler.ledger.used,
            kv_tokens=scheduler.ledger.capacity,
            kept=len(scheduler.kept),
            parked=scheduler.parked,
            prefill_tokens_per_s=self._meter.prefill_tokens_per_s,
            decode_tokens_per_s=self._meter.decode_tokens_per_s,
            steps=self._steps,
            busy_s=self._busy_s,
            native_s=self._native_s,
            threads=self._engine.threads,
            drafted=self._speculator.drafted if self._speculator else 0,
            accepted=self._speculator.accepted if self._speculator else 0,
        )

    def report(self) -> Load | None:
        """`load`, unless a report a moment ago said nearly the same: making and sending it takes a while. What was done
        by the time that all is done is always said."""
        now, present = self._clock(), (self._scheduler.queue + self._embeddings.waiting, len(self._scheduler.running))
        if present == self._reported and now < self._report_due and not self.idle:
            return None
        self._reported, self._report_due = present, now + REPORT_S
        return self.load

    def submit(self, prepared: Prepared) -> None:
        """Raises `Overloaded`, or `BadRequest` where its grammar cannot be read."""
        if prepared.inputs:
            self._embeddings.submit(prepared)
            return
        _check(prepared.request, self._engine.info.adapters)
        generation = Generation(prepared, self._engine.vocab)
        sequence = generation.sequence
        try:
            held = self._keeper.held(sequence) if self._keeper is not None else 0
            self._scheduler.submit(sequence, wait_s=self._wait_s(), held=held)
        except ForeshoreError:
            generation.close()
            raise
        self._generations[prepared.request.id] = generation

    def cancel(self, request_id: str) -> None:
        """Forget the request, wherever it is; harmless if it has ended."""
        self._embeddings.cancel(request_id)
        generation = self._generations.get(request_id)
        if generation is not None:
            self._drop(generation.sequence)

    def step(self) -> list[Event]:
        """Compute once. Returns all that became known, an error for each request that failed."""
        now = self._clock()
        events: list[Event] = [(s.id, self._too_late(s)) for s in self._expire(now)]
        events += self._embeddings.step(now, busy=bool(self._scheduler.running))
        self._speculate()
        self._recall(now)
        plan = self._scheduler.plan(now)
        events += self._run(plan)
        self._steps += 1
        self._busy_s += self._clock() - now
        return events

    def rest(self) -> bool:
        """There is nothing to do: do a little of what can wait. Whether there was any."""
        return self._keeper is not None and self._keeper.rest()

    def abort(self) -> None:
        """End the step that runs now, as if it had not begun. From any thread."""
        self._engine.abort()

    def set_threads(self, threads: int) -> None:
        self._engine.set_threads(threads)

    def close(self) -> None:
        for generation in list(self._generations.values()):
            self._drop(generation.sequence)
        if self._speculator is not None:
            self._speculator.drafter.close()
        while self.rest():
            pass
        self._embeddings.close()

    def _run(self, plan: Plan) -> list[Event]:
        begun = self._clock()
        try:
            computed = self._perform(plan.actions) and bool(plan.slices) and self._compute(plan)
        except NoSlot as error:
            return self._relieve(plan, begun, error)
        finally:
            seconds = self._clock() - begun
            self._native_s += seconds
        if not computed:
            return []
        self._observe(plan, seconds)
        self._scheduler.commit(plan)
        return self._draw(plan)

    def _open_keeper(self) -> PrefixKeeper | None:
        options = self._engine.options
        folder = options.prefix_cache_dir
        if folder and not self._engine.rewinds:
            _log.warning("nothing is kept in %s: this model's memory cannot be cut where prompts part", folder)
        if not self._scheduler.policy.prefix_cache or not self._engine.info.generates:
            return None
        return PrefixKeeper(
            self._engine,
            self._scheduler,
            memory=PrefixMemory(options.prefix_cache_bytes),
            store=open_store(folder, fingerprint(self._engine)) if folder else None,
            settle=lambda: self._perform(self._scheduler.take_actions()),
        )

    def _open_speculator(self) -> Speculator | None:
        options = self._engine.options
        if options.speculation == "off" or not self._engine.rewinds:
            return None
        drafter = Lookup() if options.speculation == "lookup" else DraftModel(self._engine)
        return Speculator(drafter, self._scheduler.pacer)

    def _recall(self, now: float) -> None:
        """Bring beginnings back right before they are used: in the cache they would cost every step until then."""
        if self._keeper is None or all(s.recalled for s in self._scheduler.waiting):
            return
        for sequence in self._scheduler.entering(now):
            if not sequence.recalled:
                sequence.recalled = True
                self._keeper.recall(sequence)

    def _speculate(self) -> None:
        """Guess for the running answers, as long as no prompt wants the room in the step."""
        running = self._scheduler.running.values()
        if self._speculator is not None and not self._scheduler.waiting and all(s.decodes for s in running):
            self._speculator.prepare(running)

    def _perform(self, actions: tuple[Action, ...]) -> bool:
        """Whether the plan stands: a state that cannot be restored must be computed again, by another plan."""
        engine, stands = self._engine, True
        for action in actions:
            match action:
                case Forget(slot):
                    engine.forget(slot)
                case Share(source, target, tokens):
                    engine.share(source, target, tokens)
                case Spill(sequence, slot):
                    if self._keeper is not None:
                        self._keeper.spill(sequence, slot)
                case Park(sequence, slot, cells):
                    self._save(sequence, slot, cells)
                    engine.forget(slot)
                    if self._speculator is not None:
                        self._speculator.drafter.drop(sequence)
                case Restore(sequence, slot):
                    try:
                        engine.restore(slot, self._states.pop(sequence.id))
                    except NoSlot:
                        self._scheduler.lose(sequence)
                        stands = False
        return stands

    def _save(self, sequence: Sequence, slot: int, cells: int) -> None:
        """Keep the state of a parked sequence, or let it be computed again where that would take too much memory."""
        room = self._engine.options.park_bytes - sum(map(len, self._states.values()))
        if sequence.slot is not None or sequence.id not in self._generations:
            return  # it was let in again by the same plan, or has ended
        if cells and self._engine.state_bytes(slot) <= room:
            self._states[sequence.id] = self._engine.save(slot)
            sequence.saved = cells

    def _compute(self, plan: Plan) -> bool:
        """Whether the plan was computed; if it was stopped, all is as before it."""
        engine, batch = self._engine, self._engine.batch
        batch.clear()
        if not plan.apart and not self._scheduler.ledger.used:
            engine.clear()
        if plan.apart and plan.slices[0].sequence.id != self._apart:
            self._apart = plan.slices[0].sequence.id
            engine.begin_apart()
        for part in plan.slices:
            sequence = part.sequence
            tokens = sequence.tokens[part.start : part.start + part.count]
            if part.count > 1 and part.wanted == part.count:
                tokens += sequence.draft[: part.count - 1]
            slot = 0 if plan.apart else sequence.slot
            assert slot is not None
            batch.add(tokens, start=part.start, slot=slot, wanted=part.wanted)
        padded = not plan.apart and plan.tokens % ALIGN == ALIGN - 1 and self._scheduler.ledger.free > plan.tokens
        if padded:  # the kernels compute four tokens faster than three: a fourth that nobody reads
            batch.add([engine.vocab.first_token()], start=0, slot=engine.scratch, wanted=0)
        engine.use_adapter(plan.slices[0].sequence.adapter, apart=plan.apart)
        self.computing = frozenset(part.sequence.id for part in plan.slices)
        self.due = _due(plan)
        try:
            engine.decode(batch, apart=plan.apart)
            return True
        except Aborted:
            engine.abort(False)
            for part in plan.slices:
                if engine.rewinds:
                    engine.forget(part.sequence.slot or 0, part.start, apart=plan.apart)
                else:  # a recurrent state knows no earlier one
                    engine.forget(part.sequence.slot or 0, apart=plan.apart)
                    self._scheduler.lose(part.sequence)
            return False
        finally:
            if padded:
                engine.forget(engine.scratch)
            self.computing, self.due = frozenset(), None

    def _relieve(self, plan: Plan, now: float, error: NoSlot) -> list[Event]:
        """The cache had no room, against the ledger's count. Make some, or give up on who alone does not fit."""
        if self._scheduler.relieve(now):
            return []
        events: list[Event] = []
        for part in plan.slices:
            events.append((part.sequence.id, UpstreamError(error.message, hint="choose more kv_tokens")))
            self._drop(part.sequence)
        return events

    def _observe(self, plan: Plan, seconds: float) -> None:
        prefill = plan.prefill_tokens
        self._meter.observe(prefill_tokens=prefill, decode_tokens=plan.streams, seconds=seconds)
        if not plan.apart:
            self._scheduler.pacer.observe(streams=plan.tokens - prefill, prompt_tokens=prefill, seconds=seconds)

    def _draw(self, plan: Plan) -> list[Event]:
        events: list[Event] = []
        begin = plan.tokens
        for part in reversed(plan.slices):  # the engine wrote the last row last: it is still in the processor's cache
            begin -= part.count
            if part.wanted:
                events += self._draw_one(part, begin + part.count - part.wanted, apart=plan.apart)
        return events

    def _draw_one(self, part: Slice, row: int, *, apart: bool) -> list[Event]:
        """The next token, and with a draft as many more as the model agrees with."""
        sequence, events = part.sequence, []
        generation = self._generations[sequence.id]
        draft, sequence.draft = sequence.draft[: part.wanted - 1], ()
        agreed = 0
        for i in range(part.wanted):
            self._scheduler.advance(sequence)
            event = self._take(generation, row + i, apart=apart)
            if event is not None:
                events.append((sequence.id, event))
            if sequence.id not in self._generations:
                return events
            if i == len(draft) or sequence.tokens[-1] != draft[i]:
                break
            agreed += 1
        if draft:
            self._checked(sequence, len(draft), agreed)
        return events

    def _checked(self, sequence: Sequence, drafted: int, agreed: int) -> None:
        assert self._speculator is not None
        assert sequence.slot is not None
        self._speculator.check(sequence, drafted, agreed)
        self._meter.guessed(agreed)
        if agreed < drafted:
            self._scheduler.rewind(sequence)
            self._engine.forget(sequence.slot, sequence.cells)

    def _take(self, generation: Generation, row: int, *, apart: bool) -> Chunk | ForeshoreError | None:
        try:
            chunk = generation.take(self._engine.logits(row, apart=apart), self._clock())
        except ForeshoreError as error:
            self._drop(generation.sequence)
            return error
        if generation.ended:
            self._meter.answered(generation.sequence.generated)
            self._drop(generation.sequence)
        return chunk

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
        if self._speculator is not None:
            self._speculator.drop(sequence)
        self._states.pop(sequence.id, None)
        generation = self._generations.pop(sequence.id, None)
        if generation is not None:
            generation.close()

    def _wait_s(self) -> float:
        """What one who comes now would wait for its first step, by the measured speeds: prompts before it are read,
        and where all slots are taken, answers of the usual length end."""
        scheduler, meter = self._scheduler, self._meter
        prefill = scheduler.waiting_tokens / meter.prefill_tokens_per_s if meter.prefill_tokens_per_s else 0.0
        slots, running = scheduler.policy.slots, len(scheduler.running)
        over = scheduler.queue + running + 1 - slots
        if over <= 0 or not meter.decode_tokens_per_s:
            return prefill
        return prefill + over / slots * meter.answer_tokens * min(running, slots) / meter.decode_tokens_per_s


def _check(request: Request, adapters: tuple[str, ...]) -> None:
    if request.adapter is not None and request.adapter not in adapters:
        known = ", ".join(adapters) or "none"
        raise BadRequest(f"adapter is {request.adapter!r}; this model was loaded with {known}", param="adapter")
    if request.service_tier not in get_args(ServiceTier):
        raise BadRequest(
            f"service_tier is {request.service_tier!r}", hint="priority, default or flex", param="service_tier"
        )
    if not 0 < request.weight < math.inf:
        raise BadRequest(f"weight is {request.weight!r}; it must be a positive number", param="weight")


def _policy(engine: Engine) -> Policy:
    options, kv_tokens = engine.options, max(1, engine.info.kv_tokens)
    return Policy(
        slots=options.slots,
        ids=engine.scratch,
        kv_tokens=kv_tokens,
        batch_tokens=options.batch_tokens,
        order=options.policy,
        gap_target=options.gap_target,
        ttft_s={"priority": options.priority_ttft_s, "default": options.default_ttft_s, "flex": options.flex_ttft_s},
        queue_limit=options.queue_limit,
        queue_tokens=options.queue_tokens or 8 * kv_tokens,
        queue_wait_s=options.queue_wait_s,
        prefix_cache=options.prefix_cache and engine.rewinds,
        kept_tokens=kv_tokens // 2,
        kept_beside=KEPT_BESIDE,
    )


def _due(plan: Plan) -> float | None:
    """When at least half of the tokens will be of requests whose deadline has passed; `None`: never, or it is short."""
    if plan.tokens <= SHORT_STEP:
        return None
    wasted = 0
    for part in sorted(
        (p for p in plan.slices if p.sequence.deadline is not None), key=lambda p: p.sequence.deadline or 0
    ):
        wasted += part.count
        if 2 * wasted >= plan.tokens:
            return part.sequence.deadline
    return None
