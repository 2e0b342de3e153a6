"""What one decision costs: ten rules, five targets, from facts to a decision; then with reading 2,000 characters first.

The first two rows begin where the request is labelled and the targets are described, and end with the decision, the
policy's constraints included. The third begins with the request: its detectors and the quality estimate for each target
come on top. Requests differ, so that every rule decides some; garbage is collected
as ever. Details say what the seal of the clearance costs beside that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.command import attempt, check_names, parser, run_as_command, show
from benchmarks.row import Row, Target, of_values, percentile
from foreshore.cli.console import exit_on_error
from foreshore.config import Config, parse_config
from foreshore.quality import Label, train
from foreshore.router.constrain import Clearing, constrain
from foreshore.router.decide import Decision, State, chance, decide
from foreshore.router.estimates import estimated
from foreshore.router.facts import BudgetFacts, ClockFacts, DeviceFacts, RequestFacts, TargetFacts
from foreshore.router.label import Caller, label
from foreshore.router.policy import Policy
from foreshore.router.target import describe
from foreshore.types import Request

CONFIG = """
targets:
  edge: {kind: local, model: small, context_tokens: 4096}
  edge-large: {kind: local, model: large, context_tokens: 8192}
  cloud: {kind: openai, model: mini, base_url: "http://127.0.0.1:9", price: {input: 0.25, output: 2}, tags: [eu]}
  cloud-large: {kind: openai, model: maxi, base_url: "http://127.0.0.1:9", price: {input: 2.5, output: 10}}
  far: {kind: openai, model: other, base_url: "http://127.0.0.1:9", price: {input: 1, output: 5}}
constraints:
  - {name: dear, require: "target.local || target.cost < 0.05"}
  - {name: in-the-eu, when: request.tenant == 'acme', require: "target.local || target.tags.exists(t, t == 'eu')"}
  - {name: no-network, when: "!device.online", require: target.local}
rules:
  - {name: tools, when: request.has_tools && request.tenant == 'acme', prefer: [cloud, cloud-large]}
  - {name: long, when: request.prompt_tokens > 3000 && !request.private, prefer: [cloud-large, cloud]}
  - {name: flat, when: device.on_battery && device.battery_percent < 20.0, where: "!target.local"}
  - {name: hard, when: "request.text.matches('(?i)step by step|prove that|derive')", prefer: [cloud-large, cloud, edge]}
  - {name: images, when: request.has_images || 'vision' in request.labels, prefer: [cloud-large, cloud]}
  - {name: nights, when: now.hour >= 23 || now.hour < 5, objective: {dollars: 1}}
  - {name: poor, when: budget.share_left < 0.05, objective: {dollars: 1, seconds: 0.001}}
  - {name: json, when: request.wants_json && request.max_tokens > 500, prefer: [edge-large, cloud]}
  - {name: chatty, when: request.messages > 20, prefer: [cloud]}
  - name: others
    where: target.quality >= 0.8 && target.on_time > 0.9
    objective: {quality: 1, dollars: 100, seconds: 0.01}
"""
TARGETS = {
    "p50_us": Target(bound=40, side="<=", what="one decision, µs: median"),
    "p99_us": Target(bound=100, side="<=", what="one decision, µs: 99th percentile"),
    "content_p99_us": Target(bound=1000, side="<=", what="one decision on 2,000 characters, µs: 99th percentile"),
}
CASES, ROUNDS, SEED, LABELLED = 256, 5, 7, 200
DECISIONS, READINGS = 20_000, 2_000  # of a round; a tenth with --quick
WORDS = "the quick answer to a question about numbers, dates, and names in a list of 12 items; sort them please".split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request and the world as it finds it."""

    request: Request
    facts: RequestFacts
    targets: Sequence[TargetFacts]
    device: DeviceFacts
    budget: BudgetFacts
    now: ClockFacts
    id: str


class Bench:
    """The same policy and cases for every row."""

    def __init__(self) -> None:
        self.config: Config = parse_config(CONFIG)
        self.policy = Policy(self.config)
        draw = random.Random(SEED)
        self.cases = [self._case(draw, f"dec_{i}") for i in range(CASES)]
        self.everyone = frozenset(self.config.targets)
        self.estimator = train(self._labels(draw))

    def decide(self, case: Case) -> Decision:
        """From facts to a decision, without the clearance."""
        excluded = self.policy.forbids(case.facts, case.targets, device=case.device, budget=case.budget, now=case.now)
        allowed = self.everyone.difference([e.target for e in excluded])
        found = Clearing(request=case.request, allowed=allowed, excluded=tuple(excluded))
        return self._decided(case, found)

    def clear(self, case: Case) -> Decision:
        """As the gateway: with the constraints that are built in, and the clearance's seal."""
        found = constrain(
            case.request,
            case.facts,
            case.targets,
            self.config.targets,
            self.policy,
            device=case.device,
            budget=case.budget,
            now=case.now,
        )
        return self._decided(case, found)

    def read(self, case: Case) -> Decision:
        """From the request: its label and the quality of each target's answer, then as `decide`."""
        facts = label(case.request, Caller(tenant=case.facts.tenant), self.config, self.policy.reads)
        targets = estimated(case.targets, facts, self.estimator.predict(facts.text))
        return self.decide(replace(case, facts=facts, targets=targets))

    def _decided(self, case: Case, clearing: Clearing) -> Decision:
        state = State(
            policy=self.policy,
            targets=case.targets,
            clearing=clearing,
            device=case.device,
            budget=case.budget,
            now=case.now,
            explore=0.02,
            dice=chance(case.id, "explore"),
        )
        return decide(case.facts, state)

    def _case(self, draw: random.Random, name: str) -> Case:
        text = " ".join(draw.choices(WORDS, k=400))[:1980]
        text += " prove that" if draw.random() < 0.1 else ""
        request = Request(messages=({"role": "user", "content": text},))
        tenant = draw.choice(["acme", "default", "default", "lab"])
        facts = replace(
            label(request, Caller(tenant=tenant, headers={"x-team": "a"}), self.config),
            has_tools=draw.random() < 0.2,
            has_images=draw.random() < 0.1,
            wants_json=draw.random() < 0.2,
            max_tokens=draw.choice([0, 64, 256, 1024]),
            prompt_tokens=int(draw.lognormvariate(6.0, 1.2)),
            messages=draw.choice([1, 1, 3, 9, 30]),
            deadline_s=draw.choice([5.0, 30.0, 300.0]),
        )
        return Case(
            request=request,
            facts=facts,
            targets=estimated([self._target(draw, name) for name in self.config.targets], facts, {}),
            device=DeviceFacts(on_battery=draw.random() < 0.3, battery_percent=draw.uniform(5, 100), online=True),
            budget=BudgetFacts(dollars=10.0, spent=5.0, left=5.0, share_left=draw.uniform(0.0, 1.0)),
            now=ClockFacts(hour=draw.randrange(24), minute=7, weekday=2),
            id=name,
        )

    def _labels(self, draw: random.Random) -> Iterator[Label]:
        """Of no value but to make an estimator as large as any: what is hard, every target gets wrong more often."""
        for i in range(LABELLED):
            hard = i % 2 == 1
            prompt = " ".join(draw.choices(WORDS, k=60)) + (" prove that" if hard else "")
            for name in self.config.targets:
                yield Label(prompt=prompt, target=name, correct=draw.random() < (0.3 if hard else 0.8))

    def _target(self, draw: random.Random, name: str) -> TargetFacts:
        ttft_s, total_s = draw.uniform(0.05, 1.0), draw.uniform(0.5, 20.0)
        return replace(
            describe(name, self.config.targets[name]),
            healthy=draw.random() < 0.97,
            waiting=draw.randrange(4),
            ttft_s=ttft_s,
            total_s=total_s,
            ttft_p90_s=2 * ttft_s,
            p90_s=2 * total_s,
            on_time=draw.uniform(0.5, 1.0),
            quality=draw.uniform(0.3, 1.0),
        )


def times(run: Callable[[Case], Decision], cases: Sequence[Case], count: int) -> list[float]:
    """Microseconds of each of `count` runs."""
    found = []
    for i in range(count):
        case = cases[i % len(cases)]
        begun = time.perf_counter_ns()
        run(case)
        found.append((time.perf_counter_ns() - begun) / 1e3)
    return found


def measure(bench: Bench, share: float) -> dict[str, Row]:
    """Every row. `share` of the runs are made."""
    rounds = {}
    for name, run, count in (
        ("decide", bench.decide, DECISIONS),
        ("clear", bench.clear, DECISIONS // 4),
        ("read", bench.read, READINGS),
    ):
        count = max(CASES, int(count * share))
        times(run, bench.cases, CASES)  # what is cached is what a gateway would have cached
        rounds[name] = [times(run, bench.cases, count) for _ in range(ROUNDS)]
    half = {name: [percentile(r, 0.5) for r in found] for name, found in rounds.items()}
    worst = {name: [percentile(r, 0.99) for r in found] for name, found in rounds.items()}
    clear = of_values("", half["clear"]).value
    details = {"rules": len(bench.policy.rules), "targets": len(bench.config.targets), "with_clearance": clear}
    return {
        "p50_us": of_values("p50_us", half["decide"], **details),
        "p99_us": of_values("p99_us", worst["decide"], decided_by=_counts(bench)),
        "content_p99_us": of_values("content_p99_us", worst["read"], median=of_values("", half["read"]).value),
    }


def _counts(bench: Bench) -> dict[str, int]:
    """How many of the cases each rule decides."""
    found = [bench.decide(case).rule for case in bench.cases]
    return {rule.name: found.count(rule.name) for rule in (*bench.policy.rules, bench.policy.default)}


def main(argv: list[str] | None = None) -> None:
    given = parser("What one decision costs, in microseconds.", "a tenth of the runs").parse_args(argv)
    with exit_on_error():
        check_names("row", given.only, TARGETS)
        share = 0.1 if given.quick else 1.0
        rows = attempt(list(TARGETS), lambda: measure(Bench(), share), TARGETS, "decide")
    show([rows[key] for key in given.only or TARGETS], TARGETS, as_json=given.json)


if __name__ == "__main__":
    run_as_command(main)
