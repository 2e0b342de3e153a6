"""The scheduling policy, without a model: no token is lost or computed twice, budgets hold, all finish."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from foreshore.edge.ledger import KvLedger
from foreshore.edge.scheduler import Scheduler, Sequence
from foreshore.errors import Overloaded


def scheduler(**options: int) -> Scheduler:
    defaults = {"slots": 2, "kv_tokens": 100, "batch_tokens": 16, "shared_prefill_tokens": 4, "queue_limit": 3}
    return Scheduler(**{**defaults, **options})


def sequence(name: str, prompt: int = 10, answer: int = 5, deadline: float | None = None) -> Sequence:
    return Sequence(id=name, prompt_tokens=prompt, max_tokens=answer, arrived=0.0, deadline=deadline)


class Model(RuleBasedStateMachine):
    """Plays the stepper against the scheduler and keeps its own account of every position computed."""

    @initialize(
        slots=st.integers(1, 4), kv=st.integers(20, 80), batch=st.integers(4, 32), shared=st.integers(1, 8),
        queue=st.integers(0, 4),
    )  # fmt: skip
    def begin(self, slots: int, kv: int, batch: int, shared: int, queue: int) -> None:
        self.scheduler = scheduler(
            slots=slots, kv_tokens=kv, batch_tokens=batch, shared_prefill_tokens=shared, queue_limit=queue
        )
        self.kv, self.batch, self.shared, self.slots, self.queue = kv, batch, shared, slots, queue
        self.live: dict[str, Sequence] = {}
        self.positions: dict[str, int] = {}
        self.admitted: list[str] = []
        self.order: list[str] = []
        self.count = 0
        self.now = 0.0

    @rule(prompt=st.integers(1, 40), answer=st.integers(1, 20), late=st.one_of(st.none(), st.floats(0, 30)))
    def submit(self, prompt: int, answer: int, late: float | None) -> None:
        self.count += 1
        new = sequence(f"s{self.count}", prompt, answer, None if late is None else self.now + late)
        if prompt + answer > self.kv:
            with pytest.raises(ValueError, match="never run"):
                self.scheduler.submit(new)
            return
        try:
            self.scheduler.submit(new)
        except Overloaded:
            assert len(self.scheduler.waiting) >= self.queue
            return
        self.live[new.id], self.positions[new.id] = new, 0
        self.order.append(new.id)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.live)))
        self.end(self.live[name])
        assert self.scheduler.find(name) is None

    @rule(computed=st.booleans(), seconds=st.floats(0.1, 3))
    def step(self, computed: bool, seconds: float) -> None:
        self.now += seconds
        for late in self.scheduler.expire(self.now):
            assert late.deadline is not None
            assert late.deadline <= self.now
            self.end(late)
        plan = self.scheduler.plan(self.now)
        assert bool(plan.slices) == bool(self.live), "work-conserving: a step does something whenever there is work"
        assert plan.tokens <= self.batch
        deciding = [p for p in plan.slices if p.sequence.decodes]
        assert {p.sequence.id for p in deciding} == {
            s.id for s in self.live.values() if s.slot is not None and s.decodes
        }
        if deciding:
            assert plan.tokens - len(deciding) <= self.shared
        for part in plan.slices:
            assert part.start == self.positions[part.sequence.id], "each position is computed once, in order"
        if not computed:
            assert self.scheduler.plan(self.now) == plan, "a step that failed is planned again"
            return
        self.scheduler.commit(plan)
        for part in plan.slices:
            self.positions[part.sequence.id] += part.count
            if part.sequence.exhausted:
                assert self.positions[part.sequence.id] == part.sequence.cost - 1
                self.end(part.sequence)

    @invariant()
    def budgets_hold(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        running = list(self.scheduler.running.values())
        assert sum(s.cost for s in running) == self.scheduler.ledger.used <= self.kv
        slots = [s.slot for s in running]
        assert len(set(slots)) == len(slots) <= self.slots
        assert all(s.generated <= s.max_tokens and s.computed <= s.prompt_tokens for s in running)

    @invariant()
    def first_come_first_served(self) -> None:
        if hasattr(self, "scheduler") and self.scheduler.waiting and self.scheduler.running:
            first_waiting = self.order.index(self.scheduler.waiting[0].id)
            assert all(self.order.index(name) < first_waiting for name in self.scheduler.running)

    def end(self, ended: Sequence) -> None:
        self.scheduler.finish(ended)
        self.scheduler.finish(ended)
        self.live.pop(ended.id, None)

    def teardown(self) -> None:
        """Left alone, everything finishes."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(10_000):
            if self.scheduler.idle:
                break
            self.step(True, 0.1)
        assert self.scheduler.idle
        assert not self.live
        assert self.scheduler.ledger.used == 0


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_decoders_come_before_prompts_and_prompts_share_what_is_left() -> None:
    policy = scheduler()
    policy.submit(sequence("a", prompt=3))
    policy.commit(policy.plan(0.0))
    policy.submit(sequence("b", prompt=10))
    plan = policy.plan(0.0)
    assert [(p.sequence.id, p.start, p.count, p.wanted) for p in plan.slices] == [("a", 3, 1, True), ("b", 0, 4, False)]
    assert (plan.decode_tokens, plan.prefill_tokens) == (1, 4)


def test_a_full_queue_passes_on_when_to_come_back() -> None:
    policy = scheduler(slots=1, queue_limit=0)
    policy.submit(sequence("a"))
    policy.plan(0.0)
    with pytest.raises(Overloaded) as caught:
        policy.submit(sequence("b"), retry_after=7.0)
    assert caught.value.retry_after == 7.0


def test_a_ledger_never_gives_more_than_it_has() -> None:
    ledger = KvLedger(10)
    ledger.reserve("a", 6)
    with pytest.raises(ValueError, match="'b'"):
        ledger.reserve("b", 5)
    with pytest.raises(ValueError, match="'a'"):
        ledger.reserve("a", 1)
    ledger.release("a")
    ledger.release("a")
    assert ledger.used == 0
