"""The shipped policies, by worked cases. Each must do on any config what it says, so none names a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest

from foreshore.config import parse_config
from foreshore.errors import ConfigError, RoutingError
from foreshore.policy_config import PolicyName
from foreshore.router.constrain import constrain
from foreshore.router.decide import Decision, State, decide
from foreshore.router.estimates import estimated
from foreshore.router.facts import BudgetFacts, DeviceFacts, RequestFacts
from foreshore.router.library import NAMES, shipped, text_of
from foreshore.router.policy import Policy
from foreshore.router.target import describe
from foreshore.types import Request

BASE = """
targets:
  large: {kind: openai, model: big, base_url: "http://127.0.0.1:9", price: {input: 2, output: 8}}
  small: {kind: openai, model: mini, base_url: "http://127.0.0.1:9", price: {input: 0.2, output: 0.8}, tags: [trusted]}
  edge: {kind: local, model: tiny, context_tokens: 1000}
"""


def decided(
    policy: str,
    *,
    facts: RequestFacts | None = None,
    quality: Mapping[str, float] | None = None,
    seconds: Mapping[str, float] | None = None,
    on_time: Mapping[str, float] | None = None,
    rest: str = "",
    **scene: Any,
) -> Decision:
    config = parse_config(f"{BASE}policy: [{policy}]\n{rest}")
    facts = facts or RequestFacts(prompt_tokens=500, max_tokens=250)
    targets = [
        replace(describe(name, spec), total_s=(seconds or {}).get(name, 0.0), on_time=(on_time or {}).get(name, 1.0))
        for name, spec in config.targets.items()
    ]
    targets = estimated(targets, facts, quality)
    compiled = Policy(config)
    clearing = constrain(Request(), facts, targets, config.targets, compiled, **scene)
    return decide(facts, State(policy=compiled, targets=targets, clearing=clearing, **scene))


def test_private_first_sends_out_only_what_its_caller_calls_public() -> None:
    assert decided("private-first").targets == ("edge", "small")
    public = RequestFacts(headers={"x-foreshore-privacy": " Public"})
    assert decided("private-first", facts=public).targets == ("edge", "large", "small")
    said = RequestFacts(headers={"x-privacy": "public"})
    assert decided("private-first", facts=said, rest="privacy: {header: x-privacy}").targets[0] == "edge"
    assert len(decided("private-first", facts=said, rest="privacy: {header: x-privacy}").targets) == 3
    assert decided("private-first", facts=said).targets == ("edge", "small")


def test_private_first_does_not_trust_a_target_with_what_a_detector_found() -> None:
    facts = RequestFacts(private=True, labels=("card",))
    assert decided("private-first", facts=facts).targets == ("edge",)
    with pytest.raises(RoutingError, match="private"):
        decided("private-first", facts=replace(facts, model="small"))


def test_offline_first_answers_here_unless_that_comes_too_late() -> None:
    assert decided("offline-first").targets == ("edge", "large", "small")
    assert decided("offline-first", on_time={"edge": 0.2}).targets == ("large", "small", "edge")
    late = decided("offline-first", on_time={"edge": 0.2}, device=DeviceFacts(online=False))
    assert (late.targets[0], late.rule) == ("edge", "offline-first.no-network")


def test_offline_first_leaves_what_does_not_fit_here_to_the_cloud() -> None:
    assert decided("offline-first", facts=RequestFacts(prompt_tokens=5000)).targets == ("large", "small")


def test_cheapest_within_quality_takes_the_cheapest_that_is_good_enough() -> None:
    quality = {"edge": 0.5, "small": 0.85, "large": 0.95}
    assert decided("cheapest-within-quality", quality=quality).targets == ("small", "large", "edge")
    assert decided("cheapest-within-quality", quality={**quality, "edge": 0.8}).targets[0] == "edge"
    assert decided("cheapest-within-quality", quality=quality, rest="quality: {floor: 0.9}").targets[0] == "large"


def test_cheapest_within_quality_takes_the_best_where_none_is() -> None:
    assert decided("cheapest-within-quality", quality={"edge": 0.2, "small": 0.6, "large": 0.4}).targets[0] == "small"


def test_cheapest_within_quality_knows_quality_by_model_too_and_without_any_takes_the_cheapest() -> None:
    assert decided("cheapest-within-quality", quality={"tiny": 0.3, "mini": 0.9, "big": 0.95}).targets[0] == "small"
    assert decided("cheapest-within-quality").targets == ("edge", "small", "large")


def test_fastest_within_budget_is_fast_until_it_is_poor() -> None:
    seconds = {"edge": 9.0, "small": 3.0, "large": 2.0}
    assert decided("fastest-within-budget", seconds=seconds).targets == ("large", "small", "edge")
    poorer = BudgetFacts(dollars=10.0, spent=9.0, left=1.0, share_left=0.1)
    found = decided("fastest-within-budget", seconds=seconds, budget=poorer)
    assert (found.targets[0], found.rule) == ("small", "fastest-within-budget.nearly-spent")


def test_fastest_within_budget_never_spends_what_is_not_there() -> None:
    seconds = {"edge": 9.0, "small": 3.0, "large": 2.0}
    spent = BudgetFacts(dollars=10.0, spent=10.0, left=0.0, share_left=0.0)
    assert decided("fastest-within-budget", seconds=seconds, budget=spent).targets == ("edge",)
    with pytest.raises(RoutingError, match="affordable"):
        decided("fastest-within-budget", facts=RequestFacts(model="large", prompt_tokens=9), budget=spent)


@pytest.mark.parametrize(
    ("device", "prompt_tokens", "first"),
    [
        (DeviceFacts(), 500, "edge"),
        (DeviceFacts(on_battery=True, battery_percent=80.0), 500, "edge"),
        (DeviceFacts(on_battery=True, battery_percent=80.0), 1500, "large"),
        (DeviceFacts(on_battery=True, battery_percent=20.0), 500, "large"),
        (DeviceFacts(on_battery=True, battery_percent=20.0, online=False), 500, "edge"),
        (DeviceFacts(battery_percent=20.0), 500, "edge"),
        (DeviceFacts(celsius=90.0), 500, "large"),
    ],
)
def test_battery_saver_spares_a_machine_that_must_last(device: DeviceFacts, prompt_tokens: int, first: str) -> None:
    rest = "default: [edge, large]"
    facts = RequestFacts(prompt_tokens=prompt_tokens, max_tokens=10)
    roomy = rest if prompt_tokens < 1000 else f"{rest}\nlimits: {{attempts: 2}}"
    assert decided("battery-saver", facts=facts, device=device, rest=roomy).targets[0] == first


def test_battery_saver_keeps_what_is_private_here_all_the_same() -> None:
    flat = DeviceFacts(on_battery=True, battery_percent=3.0)
    facts = RequestFacts(private=True, labels=("email",))
    assert decided("battery-saver", facts=facts, device=flat).targets == ("edge",)


def test_a_files_own_rules_come_first_and_several_policies_in_order() -> None:
    own = "rules: [{name: mine, when: request.stream, prefer: [large]}]"
    assert decided("offline-first", facts=RequestFacts(stream=True), rest=own).rule == "mine"
    assert decided("offline-first", rest=own).rule == "offline-first.here-in-time"
    found = decided("battery-saver, offline-first", device=DeviceFacts(on_battery=True, battery_percent=9.0))
    assert found.rule == "battery-saver.low"
    assert decided("battery-saver, offline-first").rule == "offline-first.here-in-time"


def test_a_name_of_theirs_that_the_file_uses_too_is_told() -> None:
    own = f"{BASE}policy: [offline-first]\nrules: [{{name: offline-first.no-network, prefer: [edge]}}]"
    with pytest.raises(ConfigError, match=r"'offline-first\.no-network'"):
        Policy(parse_config(own))


@pytest.mark.parametrize("name", NAMES)
def test_each_can_be_copied_into_a_file_and_names_no_target(name: PolicyName) -> None:
    config = parse_config(BASE)
    found = shipped(name, config)
    assert found.about.strip()
    names = [*(c.name for c in found.constraints), *(r.name for r in found.rules)]
    assert names
    assert all(part.startswith(f"{name}.") for part in names)
    assert all(c.allow is None and c.forbid is None for c in found.constraints)
    assert all(r.prefer is None for r in found.rules)
    assert "target.name" not in text_of(name, config)
    text = text_of(name, config)
    copied = parse_config(BASE + text[text.index("constraints:" if "constraints:" in text else "rules:") :])
    assert (copied.constraints, copied.rules) == (found.constraints, found.rules)


def test_the_library_is_what_a_config_may_name() -> None:
    assert get_args(PolicyName) == NAMES
