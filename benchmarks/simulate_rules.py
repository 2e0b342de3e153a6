"""What a routing policy is held against: fixed rules, what other routers do, and one that knows more than is fair."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from foreshore.router.facts import RequestFacts
from foreshore.router.simulate.job import Job
from foreshore.router.simulate.simulate import Choice, Look

__all__ = ["AWAY", "HERE", "Fixed", "LeastLatency", "Told", "Unloaded"]

Order = tuple[str, ...]
HERE, AWAY = ("edge", "cloud"), ("cloud", "edge")
KNUTH = 2654435761  # multiplicative hashing: which requests are among the share, the same ones for every rule
PENALTY_S = 1000.0  # what LiteLLM's lowest-latency strategy adds for a timeout
WINDOW, TTL_S = 10, 3600.0  # and how many latencies of how long it remembers


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Base of rules that learn nothing."""

    def spent(self, job: Job) -> None:
        """Nothing to learn."""


@dataclass(frozen=True, kw_only=True)
class Fixed(Rule):
    """Prompts from `least` to below `most` tokens go `here`, a `share` of them, all others `away`; what comes second
    is the fallback."""

    least: float = 0.0
    most: float = math.inf
    share: float = 1.0
    here: Order = HERE
    away: Order = AWAY

    def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice:
        here = self.least <= facts.prompt_tokens < self.most and _dice(job) < self.share
        return Choice(targets=self.here if here else self.away)


@dataclass(frozen=True, kw_only=True)
class Unloaded(Rule):
    """Prompts below `most` tokens go to this machine while it has fewer than `busy` requests."""

    most: float
    busy: int
    away: Order = AWAY

    def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice:
        edge = look()["edge"]
        here = facts.prompt_tokens < self.most and edge.running + edge.waiting < self.busy
        return Choice(targets=HERE if here else self.away)


@dataclass(frozen=True, kw_only=True)
class Told(Rule):
    """Looks ahead as the policy does, and knows how long this answer will be."""

    ttft_s: float
    total_s: float
    slots: int
    step_s: Callable[[int], float]

    def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice:
        edge = look()["edge"]
        total_s = edge.ttft_s + job.output_tokens * self.step_s(min(self.slots, edge.running + edge.waiting + 1))
        return Choice(targets=HERE if edge.ttft_p90_s <= self.ttft_s and total_s <= self.total_s else AWAY[:1])


@dataclass(kw_only=True)
class LeastLatency:
    """The target whose last answers were the fastest on average, by TTFT or by the whole time; one without any goes
    first. With `penalty` a missed deadline counts as very slow."""

    whole: bool
    penalty: bool
    seen: dict[str, deque[tuple[float, float]]] = field(
        default_factory=lambda: {name: deque(maxlen=WINDOW) for name in HERE}
    )

    def choose(self, job: Job, facts: RequestFacts, look: Look) -> Choice:
        for known in self.seen.values():
            while known and known[0][0] < job.at - TTL_S:
                known.popleft()
        return Choice(targets=tuple(sorted(HERE, key=self._mean)))

    def spent(self, job: Job) -> None:
        if job.target and job.state == "complete":
            seconds = (job.ended_at if self.whole else job.first_at) - job.asked_at
            self.seen[job.target].append((job.ended_at, seconds))
        elif job.target and self.penalty:
            self.seen[job.target].append((job.ended_at, PENALTY_S))

    def _mean(self, name: str) -> float:
        known = self.seen[name]
        return sum(seconds for _, seconds in known) / len(known) if known else 0.0


def _dice(job: Job) -> float:
    return job.number * KNUTH % 2**32 / 2**32
