"""A decision is a function of facts: same facts, same decision, every reason said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from foreshore.config import Config, parse_config
from foreshore.errors import BadRequest, NotFound, RoutingError
from foreshore.router.constrain import constrain
from foreshore.router.decide import Decision, State, decide
from foreshore.router.facts import RequestFacts, TargetFacts
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
    targets = [
        replace(describe(name, spec), **states.get(name, {})).predicted(facts) for name, spec in config.targets.items()
    ]
    clearing = constrain(request or Request(), facts, targets, config.targets, policy)
    return decide(facts, State(policy=policy, targets=targets, clearing=clearing))


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
    slow = {"prefill_tokens_per_s": 10.0, "waiting_tokens": 500}
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
