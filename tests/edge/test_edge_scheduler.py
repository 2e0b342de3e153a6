"""The scheduling policy, without a model: a cache of token ids plays the engine's part.

No token is lost or computed at a wrong place, budgets hold, a step does something whenever there is work, all finish.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from foreshore.edge.fairness import Fairness
from foreshore.edge.ledger import KvLedger
from foreshore.edge.pacer import Pacer
from foreshore.edge.prefix.index import PrefixIndex
from foreshore.edge.scheduler import Forget, Park, Plan, Policy, Restore, Scheduler, Share, Spill
from foreshore.edge.sequence import Sequence
from foreshore.errors import Overloaded

TTFT = {"priority": 0.5, "default": 5.0, "flex": 60.0}
BASE = Policy(slots=2, ids=4, kv_tokens=100, batch_tokens=16, ttft_s=TTFT, queue_limit=3)


def scheduler(**options: Any) -> Scheduler:
    return Scheduler(replace(BASE, **options))


def sequence(name: str, prompt: int | list[int] = 10, answer: int = 5, **options: Any) -> Sequence:
    tokens = [hash(name) % 1000 + i for i in range(prompt)] if isinstance(prompt, int) else list(prompt)
    return Sequence(id=name, tokens=tokens, max_tokens=answer, **{"arrived": 0.0, **options})


class Cell:
    def __init__(self, token: int) -> None:
        self.token = token


class Cache:
    """What the engine's cache would hold: for each slot its cells, which slots may share."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.slots: dict[int, list[Cell]] = {}
        self.states: dict[str, list[int]] = {}

    @property
    def used(self) -> int:
        return len({id(cell) for cells in self.slots.values() for cell in cells})

    def perform(self, plan: Plan, save: bool) -> None:
        for action in plan.actions:
            match action:
                case Forget(slot):
                    self.slots.pop(slot, None)
                case Share(source, target, tokens):
                    assert not self.slots.get(target)
                    assert len(self.slots[source]) >= tokens
                    self.slots[target] = self.slots[source][:tokens]
                case Spill(ended, slot):
                    assert [cell.token for cell in self.slots[slot]] == ended.tokens
                case Park(parked, slot, cells):
                    held = [cell.token for cell in self.slots.pop(slot, [])]
                    assert len(held) == cells
                    if save and cells and parked.slot is None:
                        self.states[parked.id], parked.saved = held, cells
                case Restore(restored, slot):
                    assert not self.slots.get(slot)
                    self.slots[slot] = [Cell(token) for token in self.states.pop(restored.id)]

    def compute(self, plan: Plan) -> None:
        for part in plan.slices:
            slot, sequence = part.sequence.slot, part.sequence
            assert slot is not None
            assert slot < self.policy.ids, "only these ids can be computed"
            cells = self.slots.setdefault(slot, [])
            assert [cell.token for cell in cells] == sequence.tokens[: part.start], "what lies before must be its own"
            tokens = [*sequence.tokens, *sequence.draft][part.start : part.start + part.count]
            assert len(tokens) == part.count
            cells += map(Cell, tokens)


class Model(RuleBasedStateMachine):
    """Plays the stepper against the scheduler, with a cache that knows every token."""

    @initialize(
        slots=st.integers(1, 4), kv=st.integers(20, 90), batch=st.integers(4, 32), queue=st.integers(0, 6),
        order=st.sampled_from(["fair", "fifo"]), prefix=st.booleans(), save=st.booleans(),
    )  # fmt: skip
    def begin(self, slots: int, kv: int, batch: int, queue: int, order: Any, prefix: bool, save: bool) -> None:
        self.policy = replace(
            BASE, slots=slots, ids=2 * slots, kv_tokens=kv, batch_tokens=batch, queue_limit=queue, order=order,
            prefix_cache=prefix, kept_tokens=kv // 2, kept_beside=kv // 4,
        )  # fmt: skip
        self.scheduler, self.cache, self.save = Scheduler(self.policy), Cache(self.policy), save
        self.live: dict[str, Sequence] = {}
        self.drawn: dict[str, int] = {}
        self.count, self.now = 0, 0.0

    @rule(
        prompt=st.lists(st.integers(1, 2), min_size=1, max_size=40), answer=st.integers(1, 20),
        late=st.none() | st.floats(0, 30), tenant=st.sampled_from("abc"), weight=st.sampled_from([0.5, 1, 4]),
        tier=st.sampled_from(["priority", "default", "flex"]), adapter=st.sampled_from([None, None, "x"]),
        repeat=st.integers(1, 3),
    )  # fmt: skip
    def submit(
        self, prompt: list[int], answer: int, late: float | None, tenant: str, weight: float, tier: Any,
        adapter: str | None, repeat: int,
    ) -> None:  # fmt: skip
        self.count += 1
        deadline = None if late is None else self.now + late
        new = sequence(
            f"s{self.count}", prompt * repeat, answer, deadline=deadline, tenant=tenant, weight=weight, tier=tier,
            adapter=adapter, arrived=self.now,
        )  # fmt: skip
        if new.cost > self.policy.kv_tokens:
            with pytest.raises(ValueError, match="never run"):
                self.scheduler.submit(new)
            return
        try:
            self.scheduler.submit(new)
        except Overloaded:
            assert len(self.scheduler.waiting) >= self.policy.queue_limit
            return
        self.live[new.id], self.drawn[new.id] = new, 0

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.end(self.live[data.draw(st.sampled_from(sorted(self.live)))])

    @precondition(lambda self: self.live)
    @rule(data=st.data(), size=st.integers(1, 4))
    def draft(self, data: st.DataObject, size: int) -> None:
        drafted = self.live[data.draw(st.sampled_from(sorted(self.live)))]
        if drafted.decodes:
            drafted.draft = tuple(range(500, 500 + size))

    @rule()
    def the_engine_finds_no_room(self) -> None:
        self.scheduler.relieve(self.now)

    @rule(computed=st.booleans(), seconds=st.floats(0.01, 3), agreed=st.integers(0, 4))
    def step(self, computed: bool, seconds: float, agreed: int) -> None:
        self.now += seconds
        for late in self.scheduler.expire(self.now):
            assert late.deadline is not None
            assert late.deadline <= self.now
            self.end(late)
        plan = self.scheduler.plan(self.now)
        assert bool(plan.slices) == bool(self.live), "work-conserving: a step does something whenever there is work"
        assert plan.tokens <= self.policy.batch_tokens
        assert len(plan.slices) <= self.policy.slots
        assert len({part.sequence.adapter for part in plan.slices}) <= 1
        self.cache.perform(plan, self.save)
        if not computed:
            return
        self.cache.compute(plan)
        self.observe(plan, seconds)
        self.scheduler.commit(plan)
        for part in plan.slices:
            if part.wanted:
                self.draw(part.sequence, part.wanted, agreed)

    def observe(self, plan: Plan, seconds: float) -> None:
        prompt = plan.prefill_tokens
        self.scheduler.pacer.observe(streams=plan.tokens - prompt, prompt_tokens=prompt, seconds=seconds)

    def draw(self, drawing: Sequence, wanted: int, agreed: int) -> None:
        draft, drawing.draft = drawing.draft[: wanted - 1], ()
        for i in range(min(wanted, agreed + 1)):
            self.scheduler.advance(drawing)
            drawing.tokens.append(draft[i] if i < min(len(draft), agreed) else 900 + drawing.generated)
            self.drawn[drawing.id] += 1
            if drawing.exhausted:
                self.end(drawing)
                return
        if draft and drawing.cells >= drawing.length:
            self.scheduler.rewind(drawing)
            assert drawing.slot is not None
            del self.cache.slots[drawing.slot][drawing.cells :]

    def end(self, ended: Sequence) -> None:
        self.scheduler.finish(ended)
        self.scheduler.finish(ended)
        self.live.pop(ended.id, None)

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        ledger = self.scheduler.ledger
        assert ledger.used <= ledger.capacity
        running = list(self.scheduler.running.values())
        assert len({s.slot for s in running}) == len(running) <= self.policy.ids
        for s in self.live.values():
            assert s.generated == self.drawn[s.id] <= s.max_tokens
            assert s.generated == len(s.tokens) - s.prompt_tokens
            assert (s.id in self.scheduler.running) == (s.slot is not None)

    def teardown(self) -> None:
        """Left alone, everything finishes, and the ledger has counted what the cache holds."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(3000):
            if self.scheduler.idle:
                break
            self.step(True, 0.1, 1)
        assert self.scheduler.idle
        assert not self.live
        self.cache.perform(self.scheduler.plan(self.now), self.save)
        assert self.scheduler.ledger.used == self.cache.used


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)


class Bench:
    """Runs a scheduler with a fixed time for each step, counting what each sequence gets."""

    def __init__(self, policy: Scheduler, token_s: float = 0.001) -> None:
        self.policy, self.token_s, self.now = policy, token_s, 0.0
        self.cache = Cache(policy.policy)
        self.first: dict[str, float] = {}
        self.computed: dict[str, int] = {}
        self.gaps: dict[str, list[float]] = {}
        self._last: dict[str, float] = {}

    def submit(self, *sequences: Sequence) -> None:
        for new in sequences:
            new.arrived = self.now
            self.policy.submit(new)

    def step(self) -> Plan:
        plan = self.policy.plan(self.now)
        self.cache.perform(plan, save=True)
        self.cache.compute(plan)
        seconds = 0.01 + self.token_s * plan.tokens
        self.now += seconds
        prompt = plan.prefill_tokens
        self.policy.pacer.observe(streams=plan.tokens - prompt, prompt_tokens=prompt, seconds=seconds)
        self.policy.commit(plan)
        for part in plan.slices:
            name = part.sequence.id
            self.computed[name] = self.computed.get(name, 0) + part.count
            if part.wanted:
                self._draw(part.sequence)
        return plan

    def _draw(self, drawing: Sequence) -> None:
        self.policy.advance(drawing)
        drawing.tokens.append(7)
        self.first.setdefault(drawing.id, self.now)
        if drawing.id in self._last:
            self.gaps.setdefault(drawing.id, []).append(self.now - self._last[drawing.id])
        self._last[drawing.id] = self.now
        if drawing.exhausted:
            self.policy.finish(drawing)

    def run(self) -> None:
        while not self.policy.idle:
            self.step()


def test_streams_come_first_and_prompts_share_what_is_left() -> None:
    bench = Bench(scheduler())
    bench.submit(sequence("a", prompt=3))
    bench.step()
    bench.submit(sequence("b", prompt=30))
    plan = bench.step()
    assert next((p.sequence.id, p.start, p.count, p.wanted) for p in plan.slices) == ("a", 3, 1, 1)
    assert plan.slices[1].sequence.id == "b"
    assert plan.tokens <= BASE.batch_tokens


@pytest.mark.parametrize("target", [2.0, 3.0, 6.0])
def test_a_long_prompt_keeps_the_gaps_of_running_streams_below_the_target(target: float) -> None:
    bench = Bench(scheduler(slots=8, ids=16, kv_tokens=20_000, batch_tokens=512, gap_target=target), token_s=0.003)
    bench.submit(*(sequence(f"stream{i}", prompt=4, answer=400) for i in range(4)))
    for _ in range(20):
        bench.step()
    alone = bench.gaps["stream0"][-1]
    bench.gaps.clear()
    bench.submit(sequence("long", prompt=2000, answer=2))
    while "long" not in bench.first:
        bench.step()
    gaps = bench.gaps["stream0"][3:]
    assert max(gaps) <= target * alone
    assert max(gaps) >= 0.6 * target * alone, "and the prompt gets what the target leaves"


def test_short_prompts_that_come_together_run_together_and_end_together() -> None:
    bench = Bench(scheduler(slots=8, ids=16, kv_tokens=20_000, batch_tokens=512, queue_limit=8), token_s=0.003)
    bench.submit(sequence("before", prompt=32, answer=12))
    bench.run()
    bench.submit(sequence("s0", prompt=32, answer=96))
    bench.step()
    bench.submit(*(sequence(f"s{i}", prompt=32, answer=96) for i in range(1, 8)))
    steps = 1
    while not bench.policy.idle:
        bench.step()
        steps += 1
    assert steps <= 96 + 4, "where each step reads but a few tokens, the first one ends long before the last"
    assert max(max(gaps) for gaps in bench.gaps.values()) < 0.6, "nobody waits for all of it at once"


def test_a_stream_in_the_middle_of_its_answer_does_not_wait_for_short_prompts() -> None:
    bench = Bench(scheduler(slots=8, ids=16, kv_tokens=20_000, batch_tokens=512, queue_limit=8), token_s=0.003)
    bench.submit(sequence("old", prompt=32, answer=400))
    for _ in range(40):
        bench.step()
    bench.submit(*(sequence(f"s{i}", prompt=32, answer=96) for i in range(7)))
    while "s6" not in bench.first:
        bench.step()
    assert max(bench.gaps["old"]) <= 3 * (0.01 + 8 * 0.003), "three times a step of all eight"


def test_a_common_beginning_is_computed_once_even_when_all_come_together() -> None:
    bench = Bench(scheduler(slots=16, ids=32, kv_tokens=4000, batch_tokens=64, queue_limit=64))
    system = list(range(1000, 1200))
    bench.submit(*(sequence(f"s{i}", prompt=[*system, 5 + i, 6], answer=3) for i in range(16)))
    assert bench.policy.waiting_tokens <= 1.25 * len(system), "nor counted more than once in what is to be waited for"
    bench.run()
    prompts = sum(bench.computed.values()) - 16 * 2
    assert prompts <= 1.25 * len(system)
    later = sequence("later", prompt=[*system, 99], answer=1)
    bench.submit(later)
    bench.run()
    assert bench.computed["later"] == 1
    assert later.shared == len(system)


def test_tenants_do_not_see_each_others_beginnings() -> None:
    bench = Bench(scheduler())
    bench.submit(sequence("a", prompt=list(range(30)), tenant="one"))
    bench.run()
    bench.submit(sequence("b", prompt=list(range(30)), tenant="two"))
    bench.run()
    assert bench.computed["b"] >= 30


def test_answers_that_together_outgrow_the_cache_all_finish_whole() -> None:
    bench = Bench(scheduler(slots=8, ids=16, kv_tokens=250, batch_tokens=32, queue_limit=64))
    asked = [sequence(f"s{i}", prompt=10, answer=90) for i in range(8)]
    bench.submit(*asked)
    bench.run()
    assert all(s.generated == 90 for s in asked)
    assert bench.policy.parked > 0


def test_the_least_served_tenant_goes_first_and_weights_count() -> None:
    policy = scheduler(slots=1, ids=2, kv_tokens=1000, queue_limit=100)
    bench = Bench(policy)
    bench.submit(*(sequence(f"heavy{i}", prompt=20, answer=10, tenant="heavy") for i in range(10)))
    bench.submit(*(sequence(f"light{i}", prompt=20, answer=10, tenant="light", weight=2.0) for i in range(10)))
    while len(bench.first) < 9:
        bench.step()
    served = [name[:5] for name in bench.first]
    assert served.count("light") in (5, 6, 7)


def test_one_who_was_away_has_saved_up_nothing() -> None:
    fairness = Fairness()
    fairness.enter("busy")
    fairness.charge("busy", outputs=500)
    fairness.enter("newcomer")
    assert fairness.served("newcomer") == fairness.served("busy")


def test_chat_beside_long_prompts_waits_a_fraction_of_what_fifo_makes_it_wait() -> None:
    waits = {}
    for order in ("fair", "fifo"):
        bench = Bench(scheduler(slots=4, ids=8, kv_tokens=40_000, batch_tokens=128, queue_limit=64, order=order))
        bench.submit(*(sequence(f"batch{i}", prompt=2000, answer=4, tenant="batch") for i in range(10)))
        for _ in range(3):
            bench.step()
        asked = bench.now
        bench.submit(sequence("chat", prompt=40, answer=4, tenant="chat"))
        bench.run()
        waits[order] = bench.first["chat"] - asked
    assert waits["fair"] <= waits["fifo"] / 5


def test_a_priority_request_overtakes_streams_of_a_lower_tier_that_go_on_later() -> None:
    bench = Bench(scheduler(slots=1, ids=2))
    low = sequence("low", prompt=4, answer=30, tier="flex")
    bench.submit(low)
    for _ in range(5):
        bench.step()
    bench.submit(sequence("high", prompt=4, answer=3, tier="priority"))
    for _ in range(3):
        assert [p.sequence.id for p in bench.step().slices] == ["high"]
    bench.run()
    assert low.generated == 30
    assert low.parked == 0, "it kept its place in the cache"


def test_nobody_starves_below_a_stream_of_priority_requests() -> None:
    bench = Bench(scheduler(slots=1, ids=2, kv_tokens=1000, queue_limit=1000), token_s=1.0)
    bench.submit(sequence("patient", prompt=4, answer=2, tier="flex", tenant="poor"))
    for i in range(300):
        bench.submit(sequence(f"rich{i}", prompt=4, answer=2, tier="priority", tenant="rich"))
        bench.step()
        if "patient" in bench.first:
            return
    pytest.fail("the flex request never ran")


def test_a_deterministic_request_runs_alone_in_steps_of_fixed_shape_and_others_go_on() -> None:
    policy = scheduler(slots=2, kv_tokens=1000)
    policy.submit(sequence("other", prompt=3, answer=50))
    lone = sequence("lone", prompt=70, answer=2, deterministic=True)
    policy.submit(lone)
    shapes, others = [], 0
    while lone.generated < 2:
        plan = policy.plan(0.0)
        policy.commit(plan)
        shapes += [(p.start, p.count) for p in plan.slices if plan.apart]
        others += not plan.apart
        for part in plan.slices:
            if part.wanted:
                policy.advance(part.sequence)
                part.sequence.tokens.append(1)
    assert shapes == [(0, 16), (16, 16), (32, 16), (48, 16), (64, 6), (70, 1)]
    assert others >= 3
    policy.finish(lone)
    assert not any(s is lone for s in policy.everyone)


@pytest.mark.parametrize(
    ("options", "waits", "message"),
    [
        ({"queue_limit": 0}, 0.0, "queue holds 0"),
        ({"queue_wait_s": 5.0}, 12.0, "12 s"),
        ({"queue_tokens": 20}, 0.0, "limit is 20"),
    ],
)
def test_a_full_queue_refuses_and_says_when_to_come_back(options: Any, waits: float, message: str) -> None:
    policy = scheduler(slots=1, ids=2, **options)
    policy.submit(sequence("a"))
    policy.plan(0.0)
    if "queue_tokens" in options:
        policy.submit(sequence("b"))
    with pytest.raises(Overloaded, match=message) as caught:
        policy.submit(sequence("c"), wait_s=waits)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 1.0


def test_what_could_never_run_is_no_request() -> None:
    with pytest.raises(ValueError, match="never run"):
        scheduler().submit(sequence("a", prompt=99, answer=2))


# The parts


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.sampled_from("hold cut share release".split()), st.integers(0, 9), st.integers(0, 3)
        )
    )
)
def test_the_ledger_counts_as_sets_of_cells_do(steps: list[tuple[int, str, int, int]]) -> None:
    ledger = KvLedger(1000)
    cells: dict[int, list[object]] = {owner: [] for owner in range(4)}
    for owner, what, n, other in steps:
        if what == "hold":
            ledger.hold(owner, n)
            cells[owner] += [object() for _ in range(n)]
        elif what == "cut":
            ledger.cut(owner, n)
            del cells[owner][n:]
        elif what == "release":
            ledger.release(owner)
            cells[owner].clear()
        elif cells[owner] or n > len(cells[other]) or owner == other:
            if n > len(cells[other]):
                with pytest.raises(ValueError, match="cannot take"):
                    ledger.share(other, owner, n)
        else:
            ledger.share(other, owner, n)
            cells[owner] = cells[other][:n]
        assert ledger.used == len({id(c) for held in cells.values() for c in held})
        assert all(ledger.held(o) == len(held) for o, held in cells.items())


def test_a_ledger_never_gives_more_than_it_has() -> None:
    ledger = KvLedger(10)
    ledger.hold("a", 6)
    with pytest.raises(ValueError, match="5 tokens do not fit"):
        ledger.hold("b", 5)
    ledger.release("a")
    ledger.release("a")
    assert ledger.used == 0


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=8),
    st.lists(st.integers(0, 2), max_size=12),
    st.data(),
)
def test_the_index_finds_the_longest_beginning(paths: list[list[int]], asked: list[int], data: st.DataObject) -> None:
    index, holders = PrefixIndex[Sequence](), []
    for i, path in enumerate(paths):
        holder = sequence(str(i), path)
        holder.cells = data.draw(st.integers(0, len(path)))
        index.add("t", path, holder)
        holders.append(holder)
    for gone in data.draw(st.lists(st.sampled_from(holders), unique=True)) if holders else []:
        index.remove(gone)
        holders.remove(gone)

    def common(holder: Sequence) -> int:
        return next(
            (i for i, (a, b) in enumerate(zip(holder.tokens, asked, strict=False)) if a != b),
            min(len(holder.tokens), len(asked)),
        )

    found = index.find("t", asked)
    assert found.ready == max((min(h.cells, common(h)) for h in holders), default=0)
    if found.ready:
        assert found.source is not None
        assert found.source.tokens[: found.ready] == asked[: found.ready]
    coming = max((common(h) for h in holders if h.cells < common(h)), default=0)
    assert found.coming == (coming if coming > found.ready else 0)
    assert index.find("other tenant", asked).ready == 0


def test_the_pacer_learns_what_a_prompt_token_costs() -> None:
    pacer = Pacer(gap_target=3.0, batch_tokens=512)
    assert 1 <= pacer.budget(streams=4) <= 16, "careful until it knows"
    for _ in range(20):
        pacer.observe(streams=4, prompt_tokens=0, seconds=0.040)
        pacer.observe(streams=4, prompt_tokens=16, seconds=0.040 + 16 * 0.003)
    assert 20 <= pacer.budget(streams=4) <= 26
    assert (pacer.budget(streams=4) + 4) % 4 == 0
    assert pacer.budget(streams=0) == 512
    pacer.observe(streams=0, prompt_tokens=512, seconds=1.5)
    assert pacer.budget(streams=0, step_s=0.25) <= 90


def _steps(pacer: Pacer, count: int, *, alone: float, token: float) -> list[int]:
    """The budgets of so many steps of a long prompt beside 4 streams, on a machine with these costs in seconds."""
    budgets = []
    for _ in range(count):
        budgets.append(pacer.budget(streams=4))
        pacer.observe(streams=4, prompt_tokens=budgets[-1], seconds=alone + budgets[-1] * token)
    return budgets


def test_the_pacer_goes_on_reading_prompts_while_the_machine_is_slow() -> None:
    pacer = Pacer(gap_target=3.0, batch_tokens=512)
    for _ in range(9):
        pacer.observe(streams=4, prompt_tokens=0, seconds=0.040)
    assert _steps(pacer, 40, alone=0.040, token=0.003)[-1] in (20, 24)
    for slowness in (3.0, 1.0, 8.0, 1.0):
        budgets = _steps(pacer, 60, alone=0.040 * slowness, token=0.003 * slowness)
        assert min(filter(None, budgets[-20:])) >= 12, f"{slowness} times slower, for decoders and prompts alike"
        assert 4 <= min(filter(None, budgets)) <= max(budgets) <= 40


def test_the_pacer_notices_that_prompt_tokens_are_dearer_than_it_thought() -> None:
    pacer = Pacer(gap_target=3.0, batch_tokens=512)
    for _ in range(9):
        pacer.observe(streams=4, prompt_tokens=0, seconds=0.040)
    _steps(pacer, 40, alone=0.040, token=0.003)
    for _ in range(20):  # other prompts end, and steps without any come between
        budgets = _steps(pacer, 3, alone=0.040, token=0.009)
        pacer.observe(streams=4, prompt_tokens=0, seconds=0.040)
    assert budgets[-1] <= 8


def test_the_pacer_finds_out_which_of_two_costs_it_has_wrong() -> None:
    pacer = Pacer(gap_target=3.0, batch_tokens=512)
    for _ in range(20):  # what fits steps of 4 and 4 tokens just as well as the truth below
        pacer.observe(streams=4, prompt_tokens=0, seconds=0.028)
        pacer.observe(streams=4, prompt_tokens=4, seconds=0.028 + 4 * 0.010)
    assert pacer.budget(streams=4) == 4
    budgets = _steps(pacer, 300, alone=0.043, token=0.00625)
    assert budgets[-17:].count(0) == 1
    assert max(budgets[-17:]) == 12


def test_the_pacer_takes_at_least_the_rows_that_the_step_computes_anyway() -> None:
    pacer = Pacer(gap_target=1.01, batch_tokens=512)
    for streams in (3, 4):
        pacer.observe(streams=streams, prompt_tokens=0, seconds=0.040)
        pacer.observe(streams=streams, prompt_tokens=8, seconds=0.080)
    assert [pacer.budget(streams=n) for n in (3, 4)] == [1, 4]
