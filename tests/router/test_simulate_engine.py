"""The simulated machine beside the engine's own scheduler, which plans each step; a step takes what was measured."""

from __future__ import annotations

import random

import pytest

from foreshore.config import Config
from foreshore.edge.scheduler import Policy, Scheduler
from foreshore.edge.sequence import Sequence
from foreshore.router.facts import RequestFacts
from foreshore.router.simulate.job import Job
from foreshore.router.simulate.simulate import Choice, Look, simulate
from foreshore.router.simulate.speed import LocalSpeed
from foreshore.router.simulate.trace import Arrival, Trace

SPEED = LocalSpeed(
    prefill_tokens_per_s=305, decode_tokens_per_s={1: 32, 4: 98, 16: 164}, queue_limit=1000, queue_wait_s=86_400
)
EDGE = Config.model_validate({"targets": {"edge": {"kind": "local", "model": "m"}}, "limits": {"timeout": 86_400}})
Times = list[tuple[float, float]]  # TTFT and total


class Edge:
    def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice:
        return Choice(targets=("edge",))

    def spent(self, job: Job) -> None:
        assert job.state == "complete"


def arrivals(rate: float, count: int = 150) -> list[Arrival]:
    draws, at, found = random.Random(5), 0.0, []
    for _ in range(count):
        at += draws.expovariate(rate)
        found.append(Arrival(at=at, prompt_tokens=draws.randint(50, 500), output_tokens=draws.randint(5, 80)))
    return found


def by_the_engine(trace: list[Arrival]) -> Times:
    """Step by step: all streams and some prompt tokens, by the scheduler's plan, until all have ended."""
    policy = Policy(
        slots=SPEED.slots,
        ids=64,
        kv_tokens=1 << 20,
        batch_tokens=512,
        ttft_s={"default": 5.0, "priority": 0.5, "flex": 60.0},
        queue_limit=1000,
        queue_wait_s=86_400,
        prefix_cache=False,
    )
    scheduler, now, coming = Scheduler(policy), 0.0, list(enumerate(trace))
    first: dict[str, float] = {}
    ended: dict[str, float] = {}
    while coming or not scheduler.idle:
        if scheduler.idle:
            now = max(now, coming[0][1].at)
        while coming and coming[0][1].at <= now:
            number, one = coming.pop(0)
            tokens = [number * 1000 + i for i in range(one.prompt_tokens)]
            scheduler.submit(Sequence(id=str(number), tokens=tokens, max_tokens=one.output_tokens, arrived=one.at))
        plan = scheduler.plan(now)
        alone_s = SPEED.step_s(plan.streams) if plan.streams else 0.0
        seconds = alone_s + plan.prefill_tokens / SPEED.prefill_tokens_per_s
        now += seconds
        scheduler.pacer.observe(streams=plan.streams, prompt_tokens=plan.prefill_tokens, seconds=seconds)
        scheduler.commit(plan)
        for part in plan.slices:
            if part.wanted:
                sequence = part.sequence
                sequence.tokens.append(0)
                scheduler.advance(sequence)
                first.setdefault(sequence.id, now)
                if sequence.exhausted:
                    ended[sequence.id] = now
                    scheduler.finish(sequence)
    return [(first[str(i)] - one.at, ended[str(i)] - one.at) for i, one in enumerate(trace)]


def simulated(trace: list[Arrival]) -> Times:
    run = simulate(EDGE, {"edge": SPEED}, Trace(arrivals=tuple(trace)), Edge())
    return [(job.first_at - job.at, job.ended_at - job.at) for job in run.jobs]


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.7])
def test_it_takes_about_as_long_as_the_engine(rate: float) -> None:
    """From nearly idle to nearly full."""
    trace = arrivals(rate)
    engine, model = by_the_engine(trace), simulated(trace)
    for what in (0, 1):
        theirs, ours = (sorted(times[what] for times in found) for found in (engine, model))
        for share in (0.5, 0.95):
            rank = int(share * len(ours))
            assert ours[rank] == pytest.approx(theirs[rank], rel=0.2)
