"""Proofs against brute force: the router's own stages must never contradict what a lint claims."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import cel
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from foreshore.config import Budget, Config, Constraint, Price, Privacy, Rule, TargetConfig, Tenant
from foreshore.errors import ForeshoreError
from foreshore.router.asking import asked
from foreshore.router.constrain import constrain
from foreshore.router.decide import State, decide
from foreshore.router.facts import BudgetFacts, ClockFacts, DeviceFacts, RequestFacts
from foreshore.router.honours import UNCOMMON, honours_too, unhonoured
from foreshore.router.lint.atoms import ERROR, FALSE, TRUE, Atom, Slot
from foreshore.router.lint.egress import prove
from foreshore.router.lint.fields import LABELS
from foreshore.router.lint.reach import Reach
from foreshore.router.lint.terms import term_of
from foreshore.router.lint.types import check_types
from foreshore.router.lint.values import outcome
from foreshore.router.policy import Policy, load_scene
from foreshore.router.rules import OF_TARGETS, SCENE, Evaluator, Expression
from foreshore.router.situation import Situation
from foreshore.router.target import describe
from foreshore.types import Request, Sampling

TARGETS = {
    "edge": TargetConfig(kind="local", model="small"),
    "spare": TargetConfig(kind="local", model="tiny", tags=("spare",)),
    "cloud": TargetConfig(kind="openai", model="big", base_url="http://127.0.0.1:9/v1", price=Price(output=1.0)),
    "claude": TargetConfig(kind="anthropic", model="vast", key_env="KEY"),
}
SETTLED = (
    *("request.private", "request.has_tools", "!request.stream", "device.online", "true"),
    *("request.tenant == 'hr'", "request.tenant in ['hr', 'dev']", "'dev' != request.tenant"),
    *("request.prompt_tokens > 10", "request.prompt_tokens <= 10.5", "11 == request.prompt_tokens"),
    *("request.prompt_tokens in [3, 11]", "device.battery_percent < 20.0", "request.deadline_s >= 5"),
    *("'email' in request.labels", "size(request.labels) > 1", "request.labels.exists(l, l == 'card')"),
    *("'x-team' in request.headers", "request.headers['x-team'] == 'a'", "has(request.headers.x)"),
    *("request.task == 'chat'", "now.hour >= 22", "now.hour * 2 == 10", "request.model == 'cloud'"),
    *("device.celsius > 1e17", "budget.left <= 1e18", "request.text == '\u0130'", "request.labels == ['card']"),
)
LOOSE = (
    *("request.text.contains('a')", "request.text.matches('(?i)ab')", "request.text.size() > 2"),
    *("request.text == 'ab'", "request.tenant.startsWith('h')", "request.tenant < 'e'"),
    *("request.prompt_tokens + request.max_tokens > 20", "request.max_tokens - 9 <= request.prompt_tokens"),
    *("10 / request.messages > 2", "request.tenant == request.model"),
    *("request.headers.exists(k, k == 'x-team')", "request.text.matches(request.session)"),
    *(
        "size(request.labels) > 0 && request.labels.map(l, size(l))[0] == 5",
        "request.labels.filter(l, l != 'card') == []",
    ),
    *("request.prompt_tokens * 1000000000000000 > 0", "size(request.labels) > 0 && request.labels[0] == 'card'"),
    "request.text.contains('\u0131')",
)
OF_TARGET = (
    *("target.local", "target.waiting == 0", "target.cost < 0.5", "'spare' in target.tags", "target.name != 'cloud'"),
    *("target.total_s < request.deadline_s", "target.healthy", "target.kind == 'openai'"),
)


MANNERS: Any = st.sampled_from(
    [{}, {"strategy": "cascade", "confidence": 0.5}, {"where": "target.local"}, {"objective": {"dollars": 1.0}}]
)
BODIES: tuple[dict[str, Any], ...] = (
    {}, {}, {"extra": {"verbosity": "low"}}, {"deterministic": True}, {"extra": {"thinking": {}}},
    {"response_format": {"type": "json_object"}}, {"extra": {"seed_words": 1}, "adapter": "a"},
)  # fmt: skip
DRAWN: Any = {"deadline": None, "derandomize": True, "database": None, "phases": [Phase.generate]}


def conditions(*atoms: str) -> st.SearchStrategy[str]:
    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.one_of(
            st.tuples(inner, inner).map(lambda p: f"({p[0]} && {p[1]})"),
            st.tuples(inner, inner).map(lambda p: f"({p[0]} || {p[1]})"),
            inner.map(lambda e: f"!({e})"),
            st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})"),
            st.tuples(inner, inner).map(lambda p: f"(({p[0]}) == ({p[1]}))"),
        )

    return st.recursive(st.sampled_from(atoms), larger, max_leaves=4)


@st.composite
def policies(draw: st.DrawFn, *atoms: str) -> Config:
    when, names = conditions(*atoms), st.lists(st.sampled_from(list(TARGETS)), min_size=1, max_size=3, unique=True)
    actions = st.one_of(
        conditions(*atoms, *OF_TARGET).map(lambda e: {"require": e}),
        names.map(lambda n: {"allow": tuple(n)}),
        names.map(lambda n: {"forbid": tuple(n)}),
        st.just({"refuse": "no"}),
    )
    constraints = draw(st.lists(st.tuples(when, actions), max_size=3))
    rules = draw(st.lists(st.tuples(when, names | st.none(), MANNERS), max_size=3))
    return Config(
        targets=TARGETS,
        tenants=(Tenant(name="hr", key_env="HR", private=draw(st.booleans())),),
        privacy=Privacy(detectors=("email", "card")),
        budgets=(Budget(tenant="default", dollars=1e300),),
        constraints=tuple(Constraint(name=f"c{i}", when=w, **a) for i, (w, a) in enumerate(constraints)),
        rules=tuple(
            Rule.model_validate({"name": f"r{i}", "when": w, **({"prefer": n, **manner} if n else {"refuse": "no"})})
            for i, (w, n, manner) in enumerate(rules)
        ),
        default=tuple(draw(names)),
    )


def situations(config: Config, seed: int, count: int) -> list[Situation]:
    """Requests as `label` could make them, and states of everything else."""
    dice = random.Random(seed)
    return [_situation(config, dice) for _ in range(count)]


def _situation(config: Config, dice: random.Random) -> Situation:
    tenant = dice.choice(("hr", "dev", "default", "h", "e"))
    labels = [name for name in ("header", "email", "card") if dice.random() < 0.2]
    if any(t.name == tenant and t.private for t in config.tenants):
        labels = sorted({*labels, "tenant"}, key=LABELS.index)
    request = RequestFacts(
        task=dice.choice(("chat", "chat", "embedding")),
        model=dice.choice(("auto", "", "cloud", "big", "vast", "hr")),
        tenant=tenant,
        session=dice.choice(("", "a", "(")),
        text=dice.choice(("", "a", "ab", "AB", "xyz", "b", "\u0130", "\u0131 i")),
        prompt_tokens=dice.choice((0, 3, 9, 10, 11, 12, 30)),
        max_tokens=dice.choice((0, 9, 10, 11, 20)),
        messages=dice.choice((0, 1, 3, 7)),
        has_tools=dice.random() < 0.5,
        stream=dice.random() < 0.5,
        private=bool(labels),
        labels=tuple(labels),
        headers=dice.choice(({}, {"x-team": "a"}, {"x-team": "b"}, {"x-other": "a"})),
        deadline_s=dice.choice((0.0, 4.9, 5.0, 60.0)),
    )
    targets = [
        replace(
            describe(name, spec),
            waiting=dice.choice((0, 1)),
            total_s=dice.choice((0.0, 5.0, 90.0)),
            healthy=dice.random() < 0.8,
            cost=dice.choice((0.1, 0.5, 1.0)) if name == "cloud" else 0.0,
        )
        for name, spec in config.targets.items()
    ]
    return Situation(
        request=request,
        targets=targets,
        device=DeviceFacts(
            battery_percent=dice.choice((5.0, 20.0, 90.0)),
            online=dice.random() < 0.5,
            celsius=dice.choice((0.0, 1e17, 1.5e17)),
        ),
        budget=BudgetFacts(dollars=1e300, left=dice.choice((0.0, 1e18, 1e300))),
        now=ClockFacts(hour=dice.choice((0, 5, 21, 22, 23))),
    )


def is_kind(kind: str, situation: Situation) -> bool:
    expression = Expression.compile(kind, where="test", sees=SCENE)
    with Evaluator([expression]) as evaluator:
        load_scene(evaluator, situation.request, situation.device, situation.budget, situation.now)
        return evaluator.ask(expression)[0] is True


def gets_out(config: Config, policy: Policy, situation: Situation, dice: float = 1.0, **body: Any) -> bool:
    """Whether a target elsewhere is among those tried; by chance where `dice` says so, and with such a body."""
    facts, targets = situation.request, situation.targets
    scene: Any = {"device": situation.device, "budget": situation.budget, "now": situation.now}
    request = Request(task=facts.task, model=facts.model, **body)
    clearing = constrain(request, facts, targets, config.targets, policy, **scene)
    state = State(policy=policy, targets=targets, clearing=clearing, explore=0.2, dice=dice, **scene)
    try:
        decision = decide(facts, state)
    except ForeshoreError:
        return False
    return any(not config.targets[name].local for name in decision.targets)


@settings(max_examples=40, **DRAWN)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_what_is_proved_never_happens_and_a_witness_does(data: st.DataObject, seed: int) -> None:
    config = data.draw(policies(*SETTLED, *LOOSE))
    kind = data.draw(conditions(*SETTLED, *LOOSE) | st.just("request.private"))
    policy = Policy(config)
    found = prove(Reach(config, policy), kind)
    if found.verdict == "broken":
        assert found.witness is not None
        situation = found.witness.situation
        assert is_kind(kind, situation)
        extra = UNCOMMON[situation.request.task] if found.witness.fields else {}
        assert gets_out(config, policy, situation, extra=extra)
        assert not config.targets[found.witness.target].local
        assert situation.request.private == bool(situation.request.labels)
    elif found.verdict == "proved":
        dice = random.Random(seed)
        for situation in situations(config, seed, 80):
            body = dice.choice(BODIES)
            if gets_out(config, policy, situation, dice.random() / 2, **body):
                assert not is_kind(kind, situation), (kind, situation, body)
    else:
        assert found.because


@settings(max_examples=25, **DRAWN)
@given(data=st.data())
def test_a_policy_of_settled_comparisons_is_always_decided(data: st.DataObject) -> None:
    config = data.draw(policies(*SETTLED))
    kind = data.draw(conditions(*SETTLED))
    assert prove(Reach(config, Policy(config)), kind).verdict in ("proved", "broken")


@settings(max_examples=25, **DRAWN)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_private_requests_never_leave_whatever_the_policy(data: st.DataObject, seed: int) -> None:
    config = data.draw(policies(*SETTLED, *LOOSE))
    policy = Policy(config)
    assert prove(Reach(config, policy)).verdict == "proved"
    assert not any(s.request.private and gets_out(config, policy, s) for s in situations(config, seed, 40))


@settings(max_examples=80, **DRAWN)
@given(source=conditions(*SETTLED, *LOOSE, *OF_TARGET), seed=st.integers(0, 2**32))
def test_a_formula_gives_what_the_engine_gives(source: str, seed: int) -> None:
    assert check_types(source, where="test", sees=OF_TARGETS) == []
    term = term_of(source, "cloud")
    for situation in situations(Config(targets=TARGETS), seed, 10):
        cloud = next(t for t in situation.targets if t.name == "cloud")
        parts = {
            "request": situation.request,
            "target": cloud,
            "device": situation.device,
            "budget": situation.budget,
            "now": situation.now,
        }
        found = term.outcome(partial(_outcome, parts=parts))
        assert found == _engine(source, parts)
        assert found == _router(source, parts)


def _outcome(atom: Atom, parts: dict[str, Any]) -> int:
    return outcome(atom, {slot: _value(slot, parts) for slot in atom.slots})


def _value(slot: Slot, parts: dict[str, Any]) -> Any:
    part, _, name = slot.path.partition(".")
    return parts["request"].headers.get(slot.header) if slot.header else getattr(parts[part], name)


def _router(source: str, parts: dict[str, Any]) -> int:
    """What the gateway's evaluator makes of it."""
    expression = Expression.compile(source, where="test", sees=OF_TARGETS)
    with Evaluator([expression]) as evaluator:
        for part, facts in parts.items():
            evaluator.load(part, facts)
        holds, _ = evaluator.ask(expression)
    return ERROR if holds is None else TRUE if holds else FALSE


def _engine(source: str, parts: dict[str, Any]) -> int:
    plain = {
        part: {
            name: list(value) if isinstance(value := getattr(facts, name), tuple) else value for name in facts.__slots__
        }
        for part, facts in parts.items()
    }
    try:
        found = cel.evaluate(source, plain)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, RuntimeError):
        return ERROR
    return TRUE if found else FALSE


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("request.tenant == 'hr'", "proved"),
        ("request.tenant.startsWith('hr')", "broken"),
        ("request.tenant == 'hr' || request.headers['x-team'] == 'hr'", "broken"),
        ("request.prompt_tokens * request.prompt_tokens == 2", "not proved"),
        ("request.prompt_tokens > 100 && request.prompt_tokens < 101", "proved"),
    ],
)
def test_a_kind_of_request_is_kept_in_sent_out_or_undecided(kind: str, verdict: str) -> None:
    config = Config(
        targets=TARGETS, constraints=(Constraint(name="hr", when="request.tenant == 'hr'", require="target.local"),)
    )
    found = prove(Reach(config, Policy(config)), kind)
    assert found.verdict == verdict
    if verdict == "not proved":
        assert found.because == (kind,)


@pytest.mark.parametrize(
    ("when", "kind", "verdict"),
    [
        ("request.prompt_tokens + request.max_tokens > 40", "request.prompt_tokens > 40", "proved"),
        ("request.prompt_tokens + request.max_tokens >= 41", "request.prompt_tokens > 40", "proved"),
        ("request.prompt_tokens + request.max_tokens > 41", "request.prompt_tokens > 40", "broken"),
        ("40 < request.prompt_tokens + request.max_tokens - 5", "request.prompt_tokens > 45", "proved"),
        ("request.prompt_tokens - request.max_tokens > 40", "request.prompt_tokens > 40", "broken"),
        ("request.prompt_tokens > request.max_tokens", "request.prompt_tokens > 8 && request.max_tokens < 9", "proved"),
    ],
)
def test_sums_are_bounded_by_the_ranges_in_them(when: str, kind: str, verdict: str) -> None:
    config = Config(targets=TARGETS, constraints=(Constraint(name="c", when=when, require="target.local"),))
    assert prove(Reach(config, Policy(config)), kind).verdict == verdict


def test_what_is_paid_by_the_token_never_costs_nothing() -> None:
    spent = Constraint(name="spent", require="target.cost == 0.0 || budget.left > 0.0")
    budgets = (Budget(tenant="default", dollars=5),)
    paid = {name: TARGETS[name] for name in ("edge", "cloud")}
    config = Config(targets=paid, constraints=(spent,), budgets=budgets)
    assert prove(Reach(config, Policy(config)), "budget.left <= 0.0").verdict == "proved"
    config = Config(targets={**paid, "claude": TARGETS["claude"]}, constraints=(spent,), budgets=budgets)
    found = prove(Reach(config, Policy(config)), "budget.left <= 0.0")  # which has no price
    assert found.witness is not None
    assert found.witness.target == "claude"


def test_a_pin_is_a_way_out_that_rules_do_not_close() -> None:
    hr = Rule(name="hr", when="request.tenant == 'hr'", prefer=("edge",))
    config = Config(targets=TARGETS, rules=(hr,), default=("edge",))
    reach = Reach(config, Policy(config))
    found = prove(reach, "request.tenant == 'hr'")
    assert found.witness is not None
    assert (found.verdict, found.witness.rule) == ("broken", "pinned")
    assert prove(reach, "request.tenant == 'hr' && request.model == 'auto'").verdict == "proved"


def test_a_field_that_nobody_here_honours_passes_a_rule_over() -> None:
    hr = Rule(name="hr", when="request.tenant == 'hr'", prefer=("edge",))
    config = Config(targets={k: TARGETS[k] for k in ("edge", "cloud")}, rules=(hr,))
    found = prove(Reach(config, Policy(config)), "request.tenant == 'hr' && request.model == 'auto'")
    assert found.witness is not None
    assert (found.verdict, found.witness.rule, found.witness.fields) == ("broken", "default", ("verbosity",))
    config = Config(targets={k: TARGETS[k] for k in ("edge", "claude")}, rules=(hr,))  # it honours less than we do
    reach = Reach(config, Policy(config))
    assert prove(reach, "request.tenant == 'hr' && request.model == 'auto'").verdict == "proved"


@pytest.mark.parametrize("task", UNCOMMON)
def test_the_uncommon_fields_come_in_by_the_door_and_are_honoured_elsewhere_alone(task: str) -> None:
    words: Any = {"chat": {"messages": [{"role": "user", "content": "hi"}]}, "completion": {"prompt": "hi"}}
    body = {"model": "auto", **words.get(task, {"input": "hi"}), **UNCOMMON[task]}
    request, _ = asked(body, Config(targets=TARGETS))
    assert request.task == task
    assert [kind for kind in ("local", "openai", "anthropic") if not unhonoured(request, kind)] == ["openai"]


@settings(max_examples=200, **DRAWN)
@given(
    extra=st.sets(st.sampled_from(["thinking", "ignore_eos", "verbosity", "parallel_tool_calls", "add_special"])),
    sampling=st.sampled_from([{}, {"temperature": 1.5}, {"seed": 1}, {"grammar": "x"}, {"logprobs": 1}]),
    more=st.sampled_from([{}, {"deterministic": True}, {"adapter": "a"}, {"response_format": {"type": "json_object"}}]),
    allowed=st.booleans(),
)
def test_who_honours_a_request_too(
    extra: set[str], sampling: dict[str, Any], more: dict[str, Any], allowed: bool
) -> None:
    request = Request(sampling=Sampling(**sampling), extra=dict.fromkeys(extra, allowed), **more)
    for kind in ("local", "openai", "anthropic"):
        if not unhonoured(request, kind):
            assert not [other for other in honours_too(kind) if unhonoured(request, other)]


@pytest.mark.parametrize(
    ("header", "verdict"),
    [("private", "proved"), ("PRIVATE", "proved"), ("public, 1", "proved"), ("public", "broken")],
)
def test_the_privacy_header_makes_private_whoever_looks_at_it(header: str, verdict: str) -> None:
    config = Config(targets=TARGETS)
    reach = Reach(config, Policy(config))
    assert prove(reach, f"request.headers['x-foreshore-privacy'] == '{header}'").verdict == verdict


@pytest.mark.parametrize(
    ("when", "kind"),
    [("budget.left <= 1e18", "true"), ("device.celsius <= 1e17", "true"), ("device.celsius >= -1e17", "true")],
)
def test_numbers_beyond_the_last_constant_are_there_however_large_it_is(when: str, kind: str) -> None:
    config = Config(
        targets=TARGETS,
        budgets=(Budget(tenant="default", dollars=1e300),),
        constraints=(Constraint(name="c", when=when, require="target.local"),),
    )
    assert prove(Reach(config, Policy(config)), kind).verdict == "broken"


def test_a_private_tenant_is_private_whatever_else_it_asks() -> None:
    config = Config(targets=TARGETS, tenants=(Tenant(name="hr", key_env="HR", private=True),))
    reach = Reach(config, Policy(config))
    assert prove(reach, "request.tenant == 'hr' && request.has_tools").verdict == "proved"
    assert prove(reach, "request.tenant == 'hr2'").verdict == "broken"
