"""Every mistake in foreshore.yaml is named with its line; nothing wrong is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from foreshore.config import Config, find_config, load_config, parse_config
from foreshore.errors import ConfigError
from foreshore.router.policy import Policy
from foreshore.router.tenants import Tenants

TARGETS = "targets:\n  edge: {kind: local, model: tiny}\n"


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Policy(parse_config(text))
    return f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "targets:\n  edge:\n    kind: local\n    modle: x\n",
            ":4: unknown key 'targets.edge.modle'; did you mean 'model'",
        ),
        (TARGETS + "ruels: []", ":3: unknown key 'ruels'; did you mean 'rules'"),
        (TARGETS + "listen: {port: 70000}", ":3: listen.port"),
        (TARGETS + "targets: {}", ":3: the key 'targets' stands here twice"),
        (TARGETS + "default: [egde]", "did you mean 'edge'"),
        (TARGETS + "rules:\n  - {name: r, when: 'true', prefer: [cloud]}", ":4: rules.0.prefer.0"),
        (TARGETS + "tenants: [{name: a, key_env: A}, {name: a, key_env: B}]", "stands here twice"),
        (TARGETS + "x: &a 1\ny: *a", "aliases are not supported"),
        ("targets: {auto: {kind: local, model: x}}", "'auto'"),
        ("targets: {c: {kind: openai, model: x}}", "needs key_env"),
        ("targets: {c: {kind: anthropic, model: x}}", "needs key_env"),
        ("targets: {c: {kind: local, model: x, base_url: 'http://x'}}", "means nothing"),
        ("targets: {c: {kind: openai, model: x, base_url: 'http://u:p@x'}}", "key_env"),
        ("targets: {c: {kind: openai, model: x, base_url: 'ftp://x'}}", "http"),
        ("targets: {c: {kind: openai, model: x, base_url: 'http://x', price: {input: -1}}}", "price.input"),
        (TARGETS + "rules: [{name: r, targets: [edge]}]", ":3: 'rules.0.targets' has a new name: write 'prefer'"),
        (TARGETS + "rules: [{name: r, prefer: []}]", "rules.0.prefer"),
        (TARGETS + "rules: [{name: r, refuse: no, prefer: [edge]}]", "a rule that refuses has no prefer"),
        (TARGETS + "rules: [{name: r, confidence: 0.5}]", "the threshold of strategy 'cascade'"),
        (TARGETS + "rules: [{name: r, objective: {}}]", "a weight above 0"),
        (TARGETS + "rules: [{name: r, objective: {quality: -1}}]", "rules.0.objective.quality"),
        (TARGETS + "rules: [{name: r, objective: {quality: .inf}}]", "rules.0.objective.quality"),
        (TARGETS + "rules: [{name: r, strategy: race}]", "'fallback' or 'cascade'"),
        (TARGETS + "rules: [{name: r, deadline: 0}]", "rules.0.deadline"),
        (TARGETS + "rules: [{name: r, where: 'target.quick'}]", "unknown field of target 'quick'"),
        (TARGETS + "constraints: [{name: c}]", "needs exactly one of require, allow, forbid, refuse; has none"),
        (TARGETS + "constraints: [{name: c, allow: [edge], refuse: no}]", "has allow, refuse"),
        (TARGETS + "constraints: [{name: c, forbid: [egde]}]", "constraints.0.forbid.0: there is no target 'egde'"),
        (TARGETS + "policy: [battery]", "policy.0"),
        (TARGETS + "policy: [battery-saver, battery-saver]", "stands here twice"),
        (TARGETS + "budgets: [{tenant: a, dollars: 1}]", ":3: budgets.0.tenant: there is no tenant 'a'"),
        (TARGETS + "budgets: [{tenant: default, dollars: 1, per: week}]", "budgets.0.per"),
        (TARGETS + "budgets: [{tenant: default, dollars: 0}]", "budgets.0.dollars"),
        (TARGETS + "quality: {floor: 1.5}", "quality.floor"),
        (TARGETS + "learning: {explore: 0.3}", "learning.explore"),
        (TARGETS + "learning: {remember: 1}", "learning.remember"),
        (TARGETS + "device: {every_s: 0}", "device.every_s"),
        ("targets: {edge: {kind: local, model: m, tags: ['a b']}}", "targets.edge.tags.0"),
        ("- 1", "must be a mapping"),
        ("[", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("a: !!python/object:os.system x", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("", "'targets' is missing"),
    ],
)
def test_a_wrong_config_is_named_with_its_place(text: str, said: str) -> None:
    assert said in complaint(text)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("request.prompt_tokens >", "line 1, column 24"),
        (
            "true &&\n  request.tennant == 'a'",
            "line 2, column 11: unknown field of request 'tennant'; did you mean 'tenant'",
        ),
        ("request.text.contain('x')", "unknown function 'contain'; did you mean 'contains'"),
        ("target.local", "'target' means nothing here"),
        ("request == 1", "needs a field"),
        ("nowhere.x == 1", "nowhere"),
        ("request.prompt_tokens", "must give true or false"),
        ("request.private ? 1 : true", "gives an int or a bool"),
        ("request.text > 3", "have no order"),
        ("request.text.matches('(')", "no regular expression"),
        ("'unclosed", "line 1, column 1"),
    ],
)
def test_a_wrong_expression_is_named_with_rule_line_and_column(expression: str, said: str) -> None:
    config = Config.model_validate(
        {
            "targets": {"edge": {"kind": "local", "model": "x"}},
            "rules": [{"name": "mine", "when": expression, "prefer": ["edge"]}],
        }
    )
    with pytest.raises(ConfigError) as caught:
        Policy(config, where="foreshore.yaml")
    said_all = f"{caught.value.message} {caught.value.hint}"
    assert said in said_all
    assert "rule 'mine'" in said_all


@pytest.mark.parametrize(
    "expression",
    [
        "'request.nonsense' == request.text // request.nonsense",
        "request.labels.exists(label, label == 'email')",
        "request.headers['x-team'] == 'a'",
        "!request.private && request.text.size() > 3",
        "request.deadline_s < 5",
    ],
)
def test_a_right_expression_is_taken(expression: str) -> None:
    Policy(
        Config.model_validate(
            {
                "targets": {"edge": {"kind": "local", "model": "x"}},
                "rules": [{"name": "r", "when": expression, "prefer": ["edge"]}],
            }
        )
    )


def test_the_file_is_found_bounded_and_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORESHORE_CONFIG", raising=False)
    assert find_config() is None
    assert list(load_config(None).targets) == ["edge"]
    (tmp_path / "foreshore.yaml").write_text(TARGETS)
    assert find_config() == Path("foreshore.yaml")
    (tmp_path / "other.yaml").write_bytes(b"\xff")
    monkeypatch.setenv("FORESHORE_CONFIG", str(tmp_path / "other.yaml"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(find_config())
    (tmp_path / "other.yaml").write_text("#" * 300_000)
    with pytest.raises(ConfigError, match="larger than"):
        load_config(find_config())
    with pytest.raises(ConfigError, match="there is no config file"):
        find_config(tmp_path / "missing.yaml")


def test_beyond_loopback_a_key_is_required() -> None:
    config = parse_config(TARGETS + "listen: {host: 0.0.0.0}\n")
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0"):
        Tenants(config)
    keyed = parse_config(TARGETS + "listen: {host: 0.0.0.0}\ntenants: [{name: a, key_env: A_KEY}]")
    with pytest.raises(ConfigError, match="A_KEY"):
        Tenants(keyed, environ={})
    with pytest.raises(ConfigError, match="fewer than"):
        Tenants(keyed, environ={"A_KEY": "short"})
    assert Tenants(keyed, environ={"A_KEY": "k" * 20}).admit("Bearer " + "k" * 20).name == "a"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_none_is(host: str) -> None:
    config = parse_config(TARGETS + f"listen: {{host: '{host}'}}")
    assert Tenants(config, environ={}).admit(None).name == "default"


def test_what_is_left_out_has_its_default() -> None:
    config = parse_config(TARGETS + "rules: [{name: r}]\nbudgets: [{tenant: default, dollars: 2}]")
    (rule,) = config.rules
    assert (rule.when, rule.prefer, rule.strategy, rule.confidence) == ("true", None, "fallback", None)
    assert (config.budgets[0].per, config.quality.floor, config.quality.estimator) == ("month", 0.8, None)
    assert (config.learning.explore, config.learning.holdout, config.learning.remember) == (0.0, 0.1, False)
    assert (config.device.every_s, config.device.probe, config.policy) == (5.0, True, ())
    assert Policy(config).rules[0].prefer == ("edge",)


def test_a_policy_reads_what_its_expressions_and_objectives_look_at() -> None:
    policy = Policy(
        parse_config(
            TARGETS + "constraints: [{name: c, when: now.hour > 3, require: target.cost < 1.0}]\n"
            "rules: [{name: r, when: device.online, where: target.loaded, objective: {quality: 1, seconds: 0}}]"
        )
    )
    assert policy.reads == {"now.hour", "target.cost", "device.online", "target.loaded", "target.quality"}
    assert Policy(parse_config(TARGETS)).reads == frozenset()
