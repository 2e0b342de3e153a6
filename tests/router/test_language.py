"""The language of a text is looked for only where a rule asks, and without the extra such a rule is refused."""

from __future__ import annotations

import sys

import pytest

from foreshore.config import parse_config
from foreshore.errors import ConfigError
from foreshore.router import language
from foreshore.router.label import Caller, label
from foreshore.router.language import identify
from foreshore.router.policy import Policy
from foreshore.types import Request

CONFIG = parse_config(
    "targets: {edge: {kind: local, model: m}}\nrules: [{name: fr, when: 'request.language == \"fr\"', prefer: [edge]}]"
)
FRENCH = Request(messages=({"role": "user", "content": "Quelle heure est-il à Paris, s'il vous plaît ?"},))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("What time is it in Berlin right now?", "en"),
        ("Wie spät ist es gerade in Berlin?", "de"),
        ("今日は天気がいいですね", "ja"),
        ("Какая сегодня погода в Москве?", "ru"),
        ("", ""),
        ("   ", ""),
        ("12 + 30 = ?", ""),
        ("\ud83d", ""),
        ("Where can I find the station, please? " * 100_000, "en"),
    ],
)
def test_a_text_is_in_a_language_or_nobody_is_sure(text: str, code: str) -> None:
    assert identify(text) == code


def test_it_is_looked_for_only_where_a_rule_reads_it() -> None:
    assert label(FRENCH, Caller(), CONFIG, Policy(CONFIG).reads).language == "fr"
    assert label(FRENCH, Caller(), CONFIG).language == ""


def test_without_the_extra_a_rule_that_reads_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)  # as if it were not installed
    language._identifier.cache_clear()
    with pytest.raises(ConfigError, match=r"request\.language") as caught:
        Policy(CONFIG)
    assert "foreshore[language]" in str(caught.value.hint)
    Policy(parse_config("targets: {edge: {kind: local, model: m}}"))
    language._identifier.cache_clear()
