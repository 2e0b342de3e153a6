"""The routing benchmark's arithmetic, and that what is judged was not learnt from. No model is asked."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.row import Row
from benchmarks.starter_routing import SHARE, TARGETS, Judged, recovered, routers
from benchmarks.starter_traffic import items
from foreshore.quality import Label
from foreshore.quantize.confidences import prompt_of
from foreshore.starter.tasks import TASKS, levels
from tests.project.benchmark_command import check_refused, run


def test_what_is_judged_shares_no_prompt_with_what_is_learnt() -> None:
    taken: set[str] = set()
    test, learnt = items(3, 0, taken), items(3, 1, taken)
    asked = {str(i.task.messages) + str(i.task.tools) for i in test}
    assert asked.isdisjoint(str(i.task.messages) + str(i.task.tools) for i in learnt)
    assert len(asked) == len(test) == 3 * sum(len(levels(kind)) for kind in TASKS)
    assert test == items(3, 0, set()), "the same questions every time"


def test_the_share_of_the_gap_is_0_for_the_edge_and_1_for_the_cloud() -> None:
    rng = np.random.default_rng(0)
    edge, cloud = rng.random(2000) < 0.6, rng.random(2000) < 0.9
    assert recovered(edge, cloud, edge).value == 0.0
    assert recovered(edge, cloud, cloud).value == 1.0
    half = np.where(rng.random(2000) < 0.5, cloud, edge)
    found = recovered(edge, cloud, half)
    assert found.value == pytest.approx(0.5, abs=0.1)
    assert found.low < 0.5 < found.high < 1.0
    assert recovered(edge, cloud, edge | cloud).value > 1.0


def test_routers_are_judged_by_what_they_send() -> None:
    """Where confidence alone tells right from wrong, it recovers all, chance its share, length nothing special."""
    asked = items(8, 0, set())
    rng = np.random.default_rng(7)
    edge = rng.random(len(asked)) < 0.75
    judged = Judged(items=asked, edge=edge, cloud=np.ones(len(asked), bool), confidence=np.where(edge, 0.9, 0.1))
    labels = [
        Label(f"{prompt_of(i.task)} ({n})", name, bool((n + (name == "edge")) % 3))
        for n, i in enumerate(asked)
        for name in ("edge", "cloud")
    ]
    found = {row["router"]: row["gap_recovered"]["value"] for row in routers(judged, labels)}
    assert found["cascade by confidence"] == found["oracle"] == 1.0
    assert found["random, on average"] == pytest.approx(SHARE)
    assert set(found) >= {"length, longer", "prompt estimator", "prompt estimator and confidence"}


def test_a_target_is_met_from_its_bound_on() -> None:
    target = TARGETS["gap_recovered_at_30"]
    assert target.met(Row(key="gap_recovered_at_30", value=0.75))
    assert not target.met(Row(key="gap_recovered_at_30", value=0.74))


def test_an_unknown_row_is_refused() -> None:
    check_refused(run("starter_routing", "--only", "nothing"))
