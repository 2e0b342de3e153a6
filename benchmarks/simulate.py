"""A policy that looks ahead against those that do not: who keeps the objective on recorded arrivals, at what cost.

The policy is the shipped example, `examples/simulate/foreshore.yaml`, asked as the gateway asks it; the targets are
simulated with the speeds beside it. docs/simulate.md says what is assumed, and what the rows are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command import attempt, check_names, parser, run_as_command, show
from benchmarks.row import Row, Target, worst
from benchmarks.simulate_outcome import Outcome, at_cost, difference, short
from benchmarks.simulate_rules import AWAY, HERE, Fixed, LeastLatency, Told, Unloaded
from foreshore.cli.console import exit_on_error
from foreshore.config import Config, load_config
from foreshore.errors import UsageError
from foreshore.router.simulate.policy import PolicyChooser
from foreshore.router.simulate.simulate import Chooser, simulate
from foreshore.router.simulate.slo import Slo
from foreshore.router.simulate.speed import CloudSpeed, LocalSpeed, read_speeds
from foreshore.router.simulate.trace import Trace, read_trace

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "simulate"
SLO = Slo(ttft_s=5.0, total_s=30.0)
DEADLINE_S = 30.0  # that requests bring: what is later than its objective helps nobody
RATE = 0.08  # of the recorded arrivals: about as much as this machine and the cloud's limit can do together
OTHER_RATES = (0.03, 0.12)
QUANTILES = (0.1, 0.2, 0.35, 0.5, 0.6, 0.7, 0.85, 1.0)  # of the prompts' lengths: where thresholds are tried
SHARES = (1.0, 0.67, 0.33)
BUSY = (1, 2, 3, 4)
CLOUD_ONLY = Fixed(share=0.0, away=AWAY[:1])
EVENLY = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
FIRST, SLACK = 0.25, 0.01  # the part of a trace that rules are first tried on, and what "clearly more" is there
SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz")

_more = "share of requests that keep the objective, less that of"
TARGETS = {
    "attainment": Target(bound=0.001, side=">=", what=f"{_more} the best static rule at equal cost"),
    "attainment_vs_local_only": Target(bound=0.001, side=">=", what=f"{_more} this machine alone"),
    "attainment_vs_cloud_only": Target(bound=0.001, side=">=", what=f"{_more} the cloud alone"),
    "attainment_vs_least_latency": Target(
        bound=0.001, side=">=", what=f"{_more} the target with the least mean latency"
    ),
}


Rules = dict[str, Chooser]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One trace at one rate."""

    trace: Trace
    config: Config
    speeds: Mapping[str, LocalSpeed | CloudSpeed]

    @classmethod
    def of(cls, trace: Trace, rate: float) -> Scene:
        return cls(
            trace=trace.faster(rate),
            config=load_config(EXAMPLE / "foreshore.yaml"),
            speeds=read_speeds(EXAMPLE / "speeds.yaml"),
        )

    def run(self, name: str, chooser: Chooser) -> Outcome:
        found = simulate(self.config, self.speeds, self.trace, chooser, deadline_s=DEADLINE_S)
        return Outcome.of(name, found, SLO)

    def ours(self) -> Outcome:
        return self.run("ours", PolicyChooser(self.config, self.trace))

    @property
    def prompts(self) -> list[int]:
        lengths = sorted(a.prompt_tokens for a in self.trace.arrivals)
        return sorted({lengths[min(len(lengths) - 1, int(q * len(lengths)))] + (q == 1.0) for q in QUANTILES})


def static(prompts: Sequence[int]) -> Rules:
    """Rules that look at the prompt's length alone: below, or above, a threshold a share stays here."""
    found: Rules = {"cloud first": Fixed(share=0.0), "cloud only": CLOUD_ONLY}
    for most in prompts:
        for share in SHARES:
            found[f"{share:.0%} of prompts below {most} here"] = Fixed(most=most, share=share)
            found[f"{share:.0%} of prompts below {most} here, others never"] = Fixed(
                most=most, share=share, away=AWAY[:1]
            )
        found[f"prompts from {most} here"] = Fixed(least=most)
    return found


def unloaded(prompts: Sequence[int]) -> Rules:
    """Rules that look at what runs now, but not ahead."""
    found: Rules = {"cloud first": Fixed(share=0.0), "cloud only": CLOUD_ONLY}
    for most in prompts[3::2]:
        for busy in BUSY:
            name = f"prompts below {most} here while under {busy}"
            found[name] = Unloaded(most=most, busy=busy)
            found[f"{name}, others never"] = Unloaded(most=most, busy=busy, away=AWAY[:1])
    return found


def tried(scene: Scene, rules: Rules) -> list[Outcome]:
    """Those worth it on the whole trace: of which, on its first part, no other costs less and keeps clearly more."""
    part = replace(scene, trace=scene.trace.part(0.0, FIRST * scene.trace.seconds))
    first = {name: part.run(name, rule) for name, rule in rules.items()}

    def beaten(one: Outcome) -> bool:
        return any(o.cost <= one.cost and o.attainment > one.attainment + SLACK for o in first.values())

    return [scene.run(name, rules[name]) for name, outcome in first.items() if not beaten(outcome)]


def least_latency(scene: Scene) -> Outcome:
    """The best of its four forms, as seen afterwards."""
    forms = [
        scene.run(
            f"least mean {'total' if whole else 'TTFT'}{', late counts as 1,000 s' if penalty else ''}",
            LeastLatency(whole=whole, penalty=penalty),
        )
        for whole in (False, True)
        for penalty in (False, True)
    ]
    return max(forms, key=lambda o: o.attainment)


def table(scene: Scene, *, whole: bool) -> dict[str, Outcome]:
    """Policies on one trace, by the name of what they stand for; `whole`: all of them."""
    ours, prompts = scene.ours(), scene.prompts
    found = {
        "ours": ours,
        "static": at_cost(tried(scene, static(prompts)), ours.cost, "best static rule at equal cost"),
        "local_only": scene.run("local only", Fixed(here=HERE[:1])),
        "cloud_only": scene.run("cloud only", CLOUD_ONLY),
        "least_latency": least_latency(scene),
    }
    if not whole:
        return found
    edge = scene.speeds["edge"]
    assert isinstance(edge, LocalSpeed)
    evenly = [scene.run(f"{share:.0%} here", Fixed(share=share)) for share in EVENLY]
    told = Told(ttft_s=SLO.ttft_s, total_s=SLO.total_s, slots=edge.slots, step_s=edge.step_s)
    return {
        **found,
        "random": at_cost(evenly, ours.cost, "by chance at equal cost"),
        "unloaded": at_cost(tried(scene, unloaded(prompts)), ours.cost, "best rule on load at equal cost"),
        "told": scene.run("told the answer's length", told),
    }


AGAINST = {
    "attainment": "static",
    "attainment_vs_local_only": "local_only",
    "attainment_vs_cloud_only": "cloud_only",
    "attainment_vs_least_latency": "least_latency",
}


def measure(trace: Trace, rates: Sequence[float]) -> dict[str, Row]:
    """The first of `rates` makes the rows; the others stand in the details."""
    scenes = [Scene.of(trace, rate) for rate in rates]
    tables = [table(scene, whole=scene is scenes[0]) for scene in scenes]
    at = [a.at for a in scenes[0].trace.arrivals]
    rows = {}
    for key, name in AGAINST.items():
        value, low, high = difference(tables[0]["ours"], tables[0][name], at)
        others = {
            f"{rate:g}": short(t["ours"].attainment - t[name].attainment) for rate, t in zip(rates, tables, strict=True)
        }
        details = {"at_rates": others, "requests": len(at)}
        rows[key] = Row(key=key, value=value, low=low, high=high, details=details)
    shown = {f"{rate:g}": [o.row for o in t.values()] for rate, t in zip(rates, tables, strict=True)}
    gaps = {name: short(tables[0]["ours"].attainment - o.attainment) for name, o in tables[0].items() if name != "ours"}
    first = rows["attainment"]
    more = {**first.details, "rows": shown, "ours_less": gaps, "assumed": _assumed(scenes[0])}
    return {**rows, "attainment": Row(key=first.key, value=first.value, low=first.low, high=first.high, details=more)}


def _assumed(scene: Scene) -> dict[str, Any]:
    price = scene.config.targets["cloud"].price
    return {
        "slo": str(SLO),
        "deadline_s": DEADLINE_S,
        "rate": RATE,
        "speeds": {name: speed.model_dump(exclude_none=True) for name, speed in scene.speeds.items()},
        "dollars_per_million_tokens": {"input": price.input, "output": price.output},
        "policy": [rule.model_dump(exclude_none=True) for rule in (*scene.config.constraints, *scene.config.rules)],
    }


def traces(path: Path, requests: int | None) -> Iterator[tuple[str, Trace]]:
    """The trace at `path`, or all in that folder; of each the first `requests`."""
    files = [path] if path.is_file() else sorted(f for f in path.glob("*") if f.name.endswith(SUFFIXES))
    if not files:
        raise UsageError(f"there is no trace in {str(path)!r}", hint=f"files that end in {', '.join(SUFFIXES)}")
    for file in files:
        found = read_trace(file)
        yield file.name.partition(".")[0], Trace(arrivals=found.arrivals[:requests], begun=found.begun)


def main(argv: list[str] | None = None) -> None:
    options = parser("Policies on recorded arrivals, simulated.", "the first 500 requests of each trace: that it works")
    options.add_argument("--data", type=Path, required=True, metavar="DIR|FILE", help="Azure's traces, or others")
    given = options.parse_args(argv)
    with exit_on_error():
        check_names("row", given.only, TARGETS)
        rates = (RATE,) if given.quick else (RATE, *OTHER_RATES)
        found = {
            name: attempt(list(TARGETS), partial(measure, trace, rates), TARGETS, name)
            for name, trace in traces(given.data, 500 if given.quick else None)
        }
        rows = {key: worst({name: found[name][key] for name in found}, TARGETS[key]) for key in TARGETS}
    show([rows[key] for key in given.only or TARGETS], TARGETS, as_json=given.json)


if __name__ == "__main__":
    run_as_command(main)
