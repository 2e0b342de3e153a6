"""What a simulated run comes to: in numbers for all, each tenant and each target, and in curves over time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from foreshore.router.simulate.job import Job
from foreshore.router.simulate.simulate import Run
from foreshore.router.simulate.slo import Slo

__all__ = ["Curves", "Figures", "Report", "TargetFigures", "curves", "report"]

SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
WINDOWS = 60  # points of a curve over time, at most,
IN_WINDOW = 20  # and how many requests each is to have on average


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of some requests. Every request counts as one of `complete`, `deadline`, `refused` and `denied`.

    `attainment` is the share of all of them that met the objective; `ttft_s` and `total_s` are percentiles of those
    that were answered whole. `share_local` is of those that any target answered, in part or whole.
    """

    requests: int
    attainment: float
    complete: int
    deadline: int  # ended by their deadline
    refused: int  # no target took them, for want of room or because it failed
    denied: int  # the policy let nobody answer, or no context was large enough
    share_local: float
    cost: float  # US dollars
    ttft_s: Mapping[str, float]
    total_s: Mapping[str, float]

    @classmethod
    def of(cls, jobs: Sequence[Job], local: frozenset[str], slo: Slo) -> Figures:
        """Of at least one."""
        states = Counter(job.state for job in jobs)
        whole = [job for job in jobs if job.state == "complete"]
        given = [job for job in jobs if job.target]
        return cls(
            requests=len(jobs),
            attainment=sum(map(slo.met, jobs)) / len(jobs),
            complete=len(whole),
            deadline=states["deadline"],
            refused=states["upstream_error"],
            denied=states["policy_abort"] + states["rejected"],
            share_local=sum(job.target in local for job in given) / max(1, len(given)),
            cost=math.fsum(job.cost for job in jobs),
            ttft_s=_percentiles([job.first_at - job.at for job in whole]),
            total_s=_percentiles([job.ended_at - job.at for job in whole]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFigures:
    """Of the requests that a target took. `utilisation` is the share of the run in which it worked on any of them,
    `streams` how many it worked on, on average."""

    figures: Figures | None  # None: it took none
    utilisation: float
    streams: float
    refused: int  # attempts
    passed_on: int  # whole answers that a cascade did not keep


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    slo: str
    seconds: float
    all: Figures
    tenants: Mapping[str, Figures]
    targets: Mapping[str, TargetFigures]
    rules: Mapping[str, int]  # requests that each decided
    longest_queue: int


def report(run: Run, slo: Slo) -> Report:
    def figures(jobs: Sequence[Job]) -> Figures:
        return Figures.of(jobs, run.local, slo)

    seconds = max(run.seconds, 1e-9)
    by_target = _grouped([job for job in run.jobs if job.target], lambda job: job.target)
    return Report(
        slo=str(slo),
        seconds=run.seconds,
        all=figures(run.jobs),
        tenants={name: figures(jobs) for name, jobs in sorted(_grouped(run.jobs, lambda job: job.tenant).items())},
        targets={
            name: TargetFigures(
                figures=figures(by_target[name]) if name in by_target else None,
                utilisation=use.busy_s / seconds,
                streams=use.stream_s / seconds,
                refused=use.refused,
                passed_on=use.passed_on,
            )
            for name, use in run.targets.items()
        },
        rules=dict(Counter(job.rule for job in run.jobs if job.rule).most_common()),
        longest_queue=max(run.queue),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Over windows of equal length, by the moment of arrival; None where nobody arrived."""

    minutes: tuple[float, ...]  # the windows' middles
    attainment: tuple[float | None, ...]
    share_local: tuple[float | None, ...]
    queue: tuple[float | None, ...]  # mean number of waiting requests, as those who arrived found it
    ttft_s: Mapping[str, tuple[float, ...]]  # sorted, of whole answers: of all, and by target


def curves(run: Run, slo: Slo, windows: int = 0) -> Curves:
    """`windows`: 0 for as many as the requests suffice for."""
    windows = windows or max(4, min(WINDOWS, len(run.jobs) // IN_WINDOW))
    width = (max(job.at for job in run.jobs) or 1.0) / windows * (1 + 1e-9)
    parts: list[list[Job]] = [[] for _ in range(windows)]
    for job in run.jobs:
        parts[int(job.at / width)].append(job)
    ttft = {"all": sorted(job.first_at - job.at for job in run.jobs if job.state == "complete")}
    for name in run.targets:
        ttft[name] = sorted(j.first_at - j.at for j in run.jobs if j.state == "complete" and j.target == name)
    return Curves(
        minutes=tuple((i + 0.5) * width / 60 for i in range(windows)),
        attainment=tuple(_share(part, slo.met) for part in parts),
        share_local=tuple(_share([j for j in part if j.target], lambda j: j.target in run.local) for part in parts),
        queue=tuple(sum(run.queue[j.number] for j in part) / len(part) if part else None for part in parts),
        ttft_s={name: tuple(values) for name, values in ttft.items() if values},
    )


def _grouped(jobs: Sequence[Job], key: Callable[[Job], str]) -> dict[str, list[Job]]:
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(key(job), []).append(job)
    return found


def _share(jobs: Sequence[Job], good: Callable[[Job], bool]) -> float | None:
    return sum(map(good, jobs)) / len(jobs) if jobs else None


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    """Nearest rank: the smallest value that the share does not exceed."""
    ordered = sorted(values)
    return {name: ordered[math.ceil(share * len(ordered)) - 1] for name, share in SHARES.items()} if ordered else {}
