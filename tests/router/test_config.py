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
        ("request.private ? 1 : true", "must give true or false"),
        ("request.text > 3", "No such overload"),
        ("request.text.matches('(')", "not a valid regex"),
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
