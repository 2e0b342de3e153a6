"""Replays a trace through a policy: the real decision, simulated targets, one clock. Equal arguments, equal results.

Each arrival is decided on by what its targets look like at that moment. What a target does with it follows
`router.fallback`: the next target where one refuses, another round after a pause, all within the attempts and the
deadline; and `router.cascade`: the next target where an answer inspires too little confidence. Nothing here reads the
machine's clock.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from foreshore.config import Config
from foreshore.errors import RoutingError, UsageError
from foreshore.router.estimates import estimated
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.fallback import FIRST_WAIT, LONGEST_WAIT
from foreshore.router.simulate.job import NEVER, Cascade, Held, Job, Moment
from foreshore.router.simulate.speed import CloudSpeed, LocalSpeed
from foreshore.router.simulate.target import SimulatedTarget
from foreshore.router.simulate.trace import Arrival, Trace
from foreshore.types import TerminalState

__all__ = ["Choice", "Chooser", "Look", "Run", "TargetUse", "simulate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`targets` in the order they are tried."""

    targets: tuple[str, ...]
    rule: str = ""
    deadline_s: float | None = None
    cascade: Cascade | None = None  # None: fallback


Look = Callable[[], Mapping[str, TargetFacts]]


class Chooser(Protocol):
    """Decides where a request goes. Raises `RoutingError` or `UsageError` where nobody may answer it.

    `look` says what the targets look like now, with what is expected of them for this request. `job` knows how long
    the answer will be: a policy must not look at that, an oracle may.
    """

    def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice: ...

    def spent(self, job: Job) -> None:
        """`job` has ended, and `job.cost` is known."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetUse:
    """Over the whole run. `refused` counts attempts, `passed_on` answers that a cascade did not keep."""

    busy_s: float
    stream_s: float
    refused: int
    passed_on: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`jobs` in the trace's order, each ended. `queue`: requests that waited in all local queues, at each arrival."""

    jobs: tuple[Job, ...]
    targets: Mapping[str, TargetUse]
    local: frozenset[str]
    queue: tuple[int, ...]
    seconds: float  # from the first arrival to the last end


def simulate(
    config: Config,
    speeds: Mapping[str, LocalSpeed | CloudSpeed],
    trace: Trace,
    chooser: Chooser,
    *,
    seed: int = 0,
    deadline_s: float | None = None,
) -> Run:
    """`speeds`: one for each target, see `speed.complete`. `deadline_s`: of requests that bring none.

    Raises `UsageError` for a trace without requests.
    """
    if not trace.arrivals:
        raise UsageError("there is nothing to simulate: the trace has no requests")
    return _Simulation(config, speeds, trace, chooser, seed, deadline_s).run()


Event = tuple[float, int, Literal["arrival", "retry", "deadline"], Job]


class _Simulation:
    def __init__(
        self,
        config: Config,
        speeds: Mapping[str, LocalSpeed | CloudSpeed],
        trace: Trace,
        chooser: Chooser,
        seed: int,
        deadline_s: float | None,
    ) -> None:
        self.now = 0.0
        self.attempts = config.limits.attempts
        self.arrivals, self.chooser = trace.arrivals, chooser
        self.targets = {
            name: SimulatedTarget(name, spec, speeds[name], self.clock, requests=len(self.arrivals), seed=seed)
            for name, spec in config.targets.items()
        }
        self.local = [t for t in self.targets.values() if t.spec.local]
        self.timeout = deadline_s or config.limits.timeout
        self.pauses = random.Random(seed)
        self.numbers = itertools.count()
        self.facts = [_facts(arrival, self.timeout) for arrival in self.arrivals]
        self.jobs = [_job(i, arrival, self.timeout) for i, arrival in enumerate(self.arrivals)]
        self.agenda: list[Event] = [(job.at, next(self.numbers), "arrival", job) for job in self.jobs]
        self.queue: list[int] = []

    def clock(self) -> float:
        return self.now

    def run(self) -> Run:
        happen: dict[str, Callable[[Job], None]] = {
            "arrival": self.arrive, "retry": self.ask, "deadline": self.expire,
        }  # fmt: skip
        targets = [(target, target.service) for target in self.targets.values()]
        while True:
            at = min([service.next_at for _, service in targets])
            if self.agenda and self.agenda[0][0] < at:
                self.now, _, kind, job = heapq.heappop(self.agenda)
                if job.state is None:
                    happen[kind](job)
            elif at < NEVER:
                self.now = at
                target, service = next(pair for pair in targets if pair[1].next_at == at)
                self.follow(target, service.step())
            else:
                return self.result()

    def arrive(self, job: Job) -> None:
        facts = self.facts[job.number]
        self.queue.append(sum(t.service.load(self.now).waiting for t in self.local))
        try:
            choice = self.chooser.choose(job, facts, lambda: self.look(facts))
        except RoutingError:
            self.end(job, "policy_abort")
            return
        except UsageError:
            self.end(job, "rejected")
            return
        job.rule, job.left, job.cascade = choice.rule, list(choice.targets), choice.cascade
        job.deadline = min(job.deadline, job.at + (choice.deadline_s or NEVER))
        self.plan(job.deadline, "deadline", job)
        self.ask(job)

    def look(self, facts: RequestFacts) -> Mapping[str, TargetFacts]:
        return {t.name: t for t in estimated([t.facts_for(facts) for t in self.targets.values()], facts)}

    def ask(self, job: Job) -> None:
        """The targets that are left, until one takes it; then, if that may help, all again after a pause."""
        while job.left and job.attempts < self.attempts and not self.late_for(job, job.left[0]):
            name = job.left.pop(0)
            job.attempts += 1
            refusal = self.targets[name].ask(job, self.facts[job.number])
            if refusal is None:
                return
            job.failures.append((name, refusal))
        if job.held is not None:
            self.fall_back(job)
            return
        again = [name for name, refusal in job.failures if refusal.code != "context_length_exceeded"]
        if not again:
            self.end(job, "rejected")
            return
        waits = [refusal.retry_after for _, refusal in job.failures if refusal.retry_after]
        wait = min(waits) if waits else FIRST_WAIT * 2**job.turn * self.pauses.uniform(0.5, 1.0)
        if wait > min(LONGEST_WAIT, job.deadline - self.now) or job.attempts >= self.attempts:
            self.end(job, "upstream_error")
            return
        job.turn, job.left, job.failures = job.turn + 1, again, []
        self.plan(self.now + wait, "retry", job)

    def follow(self, target: SimulatedTarget, moment: Moment) -> None:
        job = moment.job
        if moment.kind == "error":
            job.target, job.cost = "", job.cost + target.price(job)
            job.failures.append((target.name, target.failed(job)))
            self.ask(job)
            return
        job.token_at = min(job.token_at, moment.at)
        cascade = job.cascade
        judged = cascade is not None and target.name != cascade.last
        if not judged or moment.kind == "end":
            job.first_at = min(job.first_at, moment.at)
        target.heard(job)
        if moment.kind == "end":
            job.cost += target.price(job)
            target.answered(job)
            held = target.judged(job, cascade.confidence) if cascade is not None and judged else None
            if held is None:
                self.end(job, "complete")
            else:
                self.pass_on(job, held)

    def pass_on(self, job: Job, held: Held) -> None:
        """Ask the next target, with the best answer so far at hand."""
        job.held = held if job.held is None else min(job.held, held)
        job.target, job.first_at = "", NEVER
        self.ask(job)

    def late_for(self, job: Job, name: str) -> bool:
        """Whether an answer is at hand and the deadline leaves no time for the next."""
        if job.held is None or job.cascade is None:
            return False
        return job.deadline - self.now <= job.cascade.expected.get(name, 0.0)

    def fall_back(self, job: Job) -> None:
        """On the answer that was held back, where no other comes."""
        assert job.held is not None
        _, job.target, job.tokens = job.held
        job.first_at = self.now
        self.end(job, "complete")

    def expire(self, job: Job) -> None:
        if job.target:
            target = self.targets[job.target]
            target.expired(job)
            job.cost += target.price(job)
        if job.held is not None and job.first_at == NEVER:
            self.fall_back(job)
        else:
            self.end(job, "deadline")

    def end(self, job: Job, state: TerminalState) -> None:
        assert job.state is None, f"request {job.number} ends twice"
        job.state, job.ended_at = state, self.now
        self.chooser.spent(job)

    def plan(self, at: float, kind: Literal["retry", "deadline"], job: Job) -> None:
        heapq.heappush(self.agenda, (at, next(self.numbers), kind, job))

    def result(self) -> Run:
        end = max(job.ended_at for job in self.jobs)
        use = {
            name: TargetUse(
                busy_s=t.service.busy_s(end),
                stream_s=t.service.stream_s(end),
                refused=t.refused,
                passed_on=t.passed_on,
            )
            for name, t in self.targets.items()
        }
        local = frozenset(t.name for t in self.local)
        return Run(jobs=tuple(self.jobs), targets=use, local=local, queue=tuple(self.queue), seconds=end)


def _job(number: int, arrival: Arrival, timeout: float) -> Job:
    return Job(
        number=number,
        at=arrival.at,
        prompt_tokens=arrival.prompt_tokens,
        output_tokens=max(1, arrival.output_tokens),
        deadline=arrival.at + (arrival.facts.get("deadline_s") or timeout),
        tenant=arrival.tenant,
    )


def _facts(arrival: Arrival, timeout: float) -> RequestFacts:
    usual = {"prompt_tokens": arrival.prompt_tokens, "messages": 1, "stream": True, "deadline_s": timeout}
    return RequestFacts(model="auto", tenant=arrival.tenant, **{**usual, **arrival.facts})
