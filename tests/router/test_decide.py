"""A decision is a function of facts: same facts, same decision, every reason said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.config import Config, parse_config
from foreshore.errors import BadRequest, NotFound, RoutingError
from foreshore.policy_config import Objective
from foreshore.router.constrain import constrain
from foreshore.router.decide import Decision, State, by_chance, chance, decide
from foreshore.router.estimates import cost_of
from foreshore.router.facts import BudgetFacts, ClockFacts, DeviceFacts, RequestFacts, TargetFacts
from foreshore.router.order import scores
from foreshore.router.policy import Policy
from foreshore.router.target import describe
from foreshore.types import Request

BASE = """
targets:
  edge: {kind: local, model: tiny, context_tokens: 1000}
  cloud: {kind: openai, model: big, base_url: "http://127.0.0.1:9", price: {input: 1, output: 2}}
"""


def decided(text: str, request: Request | None = None, facts: RequestFacts | None = None, **states: Any) -> Decision:
    config: Config = parse_config(BASE + text)
    policy = Policy(config)
    facts = facts or RequestFacts()
    known = [replace(describe(name, spec), **states.get(name, {})) for name, spec in config.targets.items()]
    targets = [replace(target, cost=cost_of(target, facts)) for target in known]
    scene = {part: states[part] for part in ("device", "budget", "now") if part in states}
    clearing = constrain(request or Request(), facts, targets, config.targets, policy, **scene)
    chance = {name: states[name] for name in ("explore", "dice") if name in states}
    return decide(facts, State(policy=policy, targets=targets, clearing=clearing, **scene, **chance))


def test_the_first_rule_that_holds_decides() -> None:
    rules = "rules: [{name: no, when: false, prefer: [cloud]}, {name: yes, when: true, prefer: [cloud, edge]}]"
    found = decided(rules)
    assert (found.rule, found.targets, found.propensity) == ("yes", ("cloud", "edge"), 1.0)


def test_a_rule_none_of_whose_targets_may_answer_is_passed_over_with_a_reason() -> None:
    facts = RequestFacts(private=True, labels=("email",))
    found = decided("rules: [{name: hard, when: 'true', prefer: [cloud]}]", facts=facts)
    assert (found.rule, found.targets) == ("default", ("edge",))
    assert "hard" in found.reasons[0]


def test_a_rule_that_cannot_be_evaluated_is_skipped_with_a_reason_without_content() -> None:
    found = decided('rules: [{name: team, when: \'request.headers["x-team"] == "a"\', prefer: [cloud]}]')
    assert found.rule == "default"
    assert found.reasons == ("rule 'team' skipped: its condition cannot be evaluated (KeyError)",)


@pytest.mark.parametrize("part", ["when", "require"])
def test_a_constraint_that_cannot_be_evaluated_excludes(part: str) -> None:
    odd = '\'request.headers["x-team"] == "a"\''
    text = f"constraints: [{{name: team, {part}: {odd}{', require: target.local' if part == 'when' else ''}}}]"
    with pytest.raises(RoutingError) as caught:
        decided(text)
    assert set(caught.value.reasons) == {"edge", "cloud"}


def test_a_constraint_holds_for_what_it_is_about() -> None:
    text = (
        "default: [cloud, edge]\nconstraints: [{name: eu, when: 'request.tenant == \"acme\"', require: target.local}]"
    )
    assert decided(text).targets == ("cloud", "edge")
    assert decided(text, facts=RequestFacts(tenant="acme")).targets == ("edge",)


def test_too_long_for_the_context_goes_elsewhere_unless_nobody_is_left() -> None:
    facts = RequestFacts(prompt_tokens=990, max_tokens=50)
    assert decided("", facts=facts).targets == ("cloud",)
    private = replace(facts, private=True, labels=("header",))
    assert decided("", facts=private).targets == ("edge",)


def test_the_unhealthy_are_left_out_and_the_too_slow_come_last() -> None:
    assert decided("", edge={"healthy": False}).targets == ("cloud",)
    assert decided("", edge={"healthy": False}, cloud={"healthy": False}).targets == ("edge", "cloud")
    slow = {"ttft_s": 60.0, "total_s": 60.0}
    found = decided("", facts=RequestFacts(prompt_tokens=100, deadline_s=20.0), edge=slow)
    assert found.targets == ("cloud", "edge")
    assert found.estimates["edge"].ttft_s == 60.0


def test_estimates_can_be_constrained() -> None:
    text = "constraints: [{name: cheap, require: 'target.cost < 0.0001'}]\ndefault: [cloud, edge]"
    assert decided(text, facts=RequestFacts(prompt_tokens=10, max_tokens=10)).targets == ("cloud", "edge")
    assert decided(text, facts=RequestFacts(prompt_tokens=500, max_tokens=10)).targets == ("edge",)


def test_what_nobody_honours_is_the_callers_to_mend() -> None:
    with pytest.raises(NotFound):
        decided("", facts=RequestFacts(model="nobody"))
    with pytest.raises(BadRequest) as caught:
        decided("", request=Request(extra={"verbosity": "low"}), facts=RequestFacts(model="edge"))
    assert caught.value.param == "verbosity"


def test_a_decision_is_pure() -> None:
    facts = RequestFacts(prompt_tokens=5, text="hello")
    assert decided("", facts=facts) == decided("", facts=facts)
    assert isinstance(decided("", facts=facts).estimates["edge"], TargetFacts)


BOTH = "default: [cloud, edge]\n"


@pytest.mark.parametrize(
    ("action", "left"),
    [
        ("allow: [edge]", ("edge",)),
        ("forbid: [edge]", ("cloud",)),
        ("require: target.local", ("edge",)),
        ("forbid: [edge], when: 'request.stream'", ("cloud", "edge")),
    ],
)
def test_a_constraint_allows_forbids_or_requires(action: str, left: tuple[str, ...]) -> None:
    assert decided(f"{BOTH}constraints: [{{name: c, {action}}}]").targets == left


def test_a_constraint_that_refuses_tells_the_caller_why_and_one_in_doubt_refuses() -> None:
    text = "constraints: [{name: night, when: 'now.hour >= 22', refuse: 'ask again in the morning'}]"
    assert decided(text, now=ClockFacts(hour=9)).targets == ("edge", "cloud")
    with pytest.raises(RoutingError, match=r"^ask again in the morning$") as caught:
        decided(text, now=ClockFacts(hour=23))
    assert set(caught.value.reasons) == {"edge", "cloud"}
    assert "'night'" in str(caught.value.hint)
    doubtful = text.replace("now.hour >= 22", 'request.headers["x-a"] == "b"').replace("'request", '"request')
    with pytest.raises(RoutingError, match="ask again"):
        decided(doubtful.replace('"request.headers["x-a"] == "b"\'', '\'request.headers["x-a"] == "b"\''))


def test_a_rule_that_refuses_does_so_only_where_no_rule_before_it_decided() -> None:
    text = "rules: [{name: own, when: 'request.tenant == \"a\"', prefer: [edge]}, {name: no, refuse: 'not for others'}]"
    assert decided(text, facts=RequestFacts(tenant="a")).rule == "own"
    with pytest.raises(RoutingError, match="not for others"):
        decided(text)


def test_a_rule_sees_the_device_the_budget_and_the_time() -> None:
    text = (
        "rules: [{name: flat, when: 'device.on_battery && device.battery_percent < 20.0', prefer: [cloud]},"
        "{name: poor, when: 'budget.left < 1.0', prefer: [edge]},"
        "{name: weekend, when: 'now.weekday >= 5', prefer: [cloud, edge]}]"
    )
    assert decided(text).rule == "default"
    assert decided(text, device=DeviceFacts(on_battery=True, battery_percent=12.0)).rule == "flat"
    assert decided(text, budget=BudgetFacts(dollars=5, spent=4.5, left=0.5, share_left=0.1)).rule == "poor"
    assert decided(text, now=ClockFacts(weekday=6)).rule == "weekend"


def test_those_of_which_where_does_not_hold_come_later_and_are_not_lost() -> None:
    text = "rules: [{name: r, prefer: [cloud, edge], where: 'target.waiting == 0'}]"
    found = decided(text, cloud={"waiting": 2})
    assert (found.targets, found.reasons) == (
        ("edge", "cloud"),
        ("'cloud' later: 'target.waiting == 0' does not hold",),
    )
    assert decided(text, cloud={"waiting": 2}, edge={"waiting": 1}).targets == ("cloud", "edge")


def test_where_comes_before_time_and_time_before_the_objective() -> None:
    facts = RequestFacts(deadline_s=10.0)
    text = "rules: [{name: r, objective: {dollars: 1}, where: '!target.local'}]"
    late = {"total_s": 50.0}
    assert decided(text, facts=facts, cloud=late).targets == ("cloud", "edge")
    assert decided("rules: [{name: r, objective: {dollars: 1}}]", facts=facts, edge=late).targets == ("cloud", "edge")
    assert decided("rules: [{name: r, objective: {dollars: 1}}]", facts=facts).targets == ("edge", "cloud")


def test_an_objective_weighs_quality_dollars_and_seconds() -> None:
    quality = {"edge": {"quality": 0.7}, "cloud": {"quality": 0.9}}
    facts = RequestFacts(prompt_tokens=500, max_tokens=128)  # the cloud's answer costs 0.000756 dollars

    def best(weights: str, **states: Any) -> str:
        text = f"rules: [{{name: r, objective: {{{weights}}}}}]"
        return decided(text, facts=facts, **{**quality, **states}).targets[0]

    assert best("quality: 1") == "cloud"
    assert best("quality: 1, dollars: 50") == "cloud"
    assert best("quality: 1, dollars: 500") == "edge"
    slow = {"total_s": 8.0, "quality": 0.9}
    assert best("quality: 1, seconds: 0.1", cloud=slow, edge={"total_s": 1.0, "quality": 0.7}) == "edge"
    assert best("quality: 10, seconds: 0.1", cloud=slow, edge={"total_s": 1.0, "quality": 0.7}) == "cloud"


@pytest.mark.parametrize(
    ("weights", "sums"),
    [
        ({"quality": 1}, [0.70, 0.80, 0.90]),
        ({"quality": 1, "dollars": 100}, [0.70, 0.77, 0.60]),
        ({"quality": 1, "dollars": 100, "seconds": 0.02}, [0.52, 0.71, 0.56]),
    ],
)
def test_the_sums_of_the_documentations_example_are_right(weights: dict[str, float], sums: list[float]) -> None:
    three = [
        TargetFacts(name=name, quality=quality, cost=cost, total_s=seconds)
        for name, quality, cost, seconds in (
            ("edge", 0.70, 0.0, 9.0),
            ("small", 0.80, 0.0003, 3.0),
            ("large", 0.90, 0.0030, 2.0),
        )
    ]
    assert scores(Objective(**weights), three) == pytest.approx(sums)
    page = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()
    assert all(f"{value:.2f}" in page for value in sums)


def test_what_is_not_known_neither_wins_nor_loses() -> None:
    text = "rules: [{name: r, prefer: [cloud, edge], objective: {quality: 1, seconds: 0.01}}]"
    assert decided(text, edge={"quality": 0.9}).targets == ("cloud", "edge")  # 0.9 for both, in order
    assert decided(text, cloud={"total_s": 5.0}).targets == ("cloud", "edge")
    assert decided(text, edge={"total_s": 5.0}, cloud={"total_s": float("inf")}).targets[0] == "edge"


def test_a_rules_deadline_and_strategy_stand_in_the_decision() -> None:
    text = "rules: [{name: r, strategy: cascade, confidence: 0.7, deadline: 8}]"
    found = decided(text, facts=RequestFacts(deadline_s=60.0), edge={"total_s": 20.0})
    assert (found.strategy, found.confidence, found.deadline_s) == ("cascade", 0.7, 8.0)
    assert found.targets == ("cloud", "edge")  # in 60 s the edge would have been on time


def test_each_target_that_may_not_see_it_has_a_reason() -> None:
    text = "constraints: [{name: eu, require: '\"eu\" in target.tags'}]\ndefault: [cloud, edge]"
    found = decided(text, edge={"tags": ("eu",)})
    assert found.reasons == ("'cloud' excluded by 'eu': requires \"eu\" in target.tags",)


def test_chance_chooses_as_often_as_the_propensity_says() -> None:
    explore = 0.2
    found = [decided(BOTH, explore=explore, dice=i / 20) for i in range(20)]
    assert [d.targets[0] for d in found] == ["cloud"] * 2 + ["edge"] * 2 + ["cloud"] * 16
    for name, share in (("cloud", 18 / 20), ("edge", 2 / 20)):
        assert [d.propensity for d in found if d.targets[0] == name] == [pytest.approx(share)] * round(20 * share)
    assert all(set(d.targets) == {"cloud", "edge"} for d in found)
    assert [d.explored for d in found] == [True] * 4 + [False] * 16
    assert found[3].reasons == ("'edge' first by chance",)


@given(explore=st.floats(1e-6, 0.2), dice=st.floats(0, 1, exclude_max=True), count=st.integers(2, 9))
def test_propensities_are_probabilities(explore: float, dice: float, count: int) -> None:
    names = [f"t{i}" for i in range(count)]
    order, propensity, explored = by_chance(names, explore, dice)
    assert sorted(order) == names
    assert explored == (dice < explore)
    first = names.index(order[0])
    assert propensity == pytest.approx(explore / count + (1 - explore) * (first == 0))
    assert explored or first == 0


def test_chance_never_decides_on_what_is_private_pinned_alone_or_forbidden() -> None:
    private = RequestFacts(private=True, labels=("header",))
    for found in (
        decided(BOTH, facts=private, explore=0.2, dice=0.0),
        decided(BOTH, facts=RequestFacts(model="cloud"), explore=0.2, dice=0.0),
        decided(BOTH + "constraints: [{name: c, forbid: [edge]}]", explore=0.2, dice=0.0),
        decided(BOTH, explore=0.0, dice=0.0),
    ):
        assert (found.explored, found.propensity) == (False, 1.0)


def test_the_dice_of_an_id_is_always_the_same_and_evenly_spread() -> None:
    drawn = [chance(f"dec_{i}", "explore") for i in range(2000)]
    assert drawn == [chance(f"dec_{i}", "explore") for i in range(2000)]
    assert drawn != [chance(f"dec_{i}", "holdout") for i in range(2000)]
    assert all(0 <= value < 1 for value in drawn)
    assert [sum(i / 4 <= value < (i + 1) / 4 for value in drawn) for i in range(4)] == pytest.approx([500] * 4, abs=80)
