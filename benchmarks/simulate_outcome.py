"""Runs that can be compared: who kept the objective, at what cost; frontiers of many runs, and differences with their
intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.router.simulate.report import report
from foreshore.router.simulate.simulate import Run
from foreshore.router.simulate.slo import Slo

__all__ = ["Outcome", "at_cost", "difference", "short"]

BLOCKS = 48  # of equal length in time, drawn together: neighbours in time share their luck
DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`met`: for each request, whether it kept the objective, or how probably."""

    name: str
    met: NDArray[np.float64]
    cost: float
    row: dict[str, Any]

    @classmethod
    def of(cls, name: str, run: Run, slo: Slo) -> Outcome:
        found = report(run, slo)
        whole, edge = found.all, found.targets["edge"]
        row = {
            "policy": name,
            "attainment": short(whole.attainment),
            "dollars": short(whole.cost),
            "share_local": short(whole.share_local),
            "ttft_p50_s": short(whole.ttft_s.get("p50", 0.0)),
            "ttft_p95_s": short(whole.ttft_s.get("p95", 0.0)),
            "total_p95_s": short(whole.total_s.get("p95", 0.0)),
            "late": whole.deadline,
            "refused": whole.refused + whole.denied,
            "edge_busy": short(edge.utilisation),
        }
        return cls(name=name, met=np.array([slo.met(job) for job in run.jobs], float), cost=whole.cost, row=row)

    @property
    def attainment(self) -> float:
        return float(self.met.mean())


def at_cost(outcomes: Sequence[Outcome], cost: float, name: str) -> Outcome:
    """The best that `outcomes` offer at no more than `cost`: one of them, or two in turns, so long each that together
    they cost just that. That is the upper concave hull of attainment over cost."""
    cheap = [o for o in outcomes if o.cost <= cost]
    if not cheap:
        least = min(outcomes, key=lambda o: o.cost)
        raise ValueError(
            f"no {name} costs at most {cost:.4g} dollars; the cheapest, {least.name}, costs {least.cost:.4g}"
        )
    best = max(cheap, key=lambda o: (o.attainment, -o.cost))
    for low in cheap:
        for high in outcomes:
            if high.cost > cost and high.attainment > low.attainment:
                share = (cost - low.cost) / (high.cost - low.cost)
                if low.attainment + share * (high.attainment - low.attainment) > best.attainment:
                    best = _mixed(low, high, share)
    return Outcome(name=name, met=best.met, cost=best.cost, row={**best.row, "policy": f"{name}: {best.name}"})


def _mixed(low: Outcome, high: Outcome, share: float) -> Outcome:
    met = low.met + share * (high.met - low.met)
    cost = low.cost + share * (high.cost - low.cost)
    name = f"{1 - share:.0%} of the time {low.name}, else {high.name}"
    figures = {k: short(v + share * (high.row[k] - v)) for k, v in low.row.items() if k != "policy"}
    return Outcome(name=name, met=met, cost=cost, row={"policy": name, **figures})


def difference(ours: Outcome, other: Outcome, at: Sequence[float]) -> tuple[float, float, float]:
    """Attainment, ours less the other's, and its 95 % interval: a bootstrap over blocks of time, in pairs.

    `at` are the requests' arrivals.
    """
    blocks = np.minimum((np.array(at) / (at[-1] or 1.0) * BLOCKS).astype(int), BLOCKS - 1)
    sums = np.bincount(blocks, ours.met - other.met, BLOCKS)
    counts = np.bincount(blocks, minlength=BLOCKS)
    draws = np.random.default_rng(0).integers(0, BLOCKS, (DRAWS, BLOCKS))
    means = sums[draws].sum(axis=1) / np.maximum(counts[draws].sum(axis=1), 1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def short(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")
