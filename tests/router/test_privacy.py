"""What the detectors find, in whatever corner of a request it hides, and what they leave alone."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.config import parse_config
from foreshore.router import privacy
from foreshore.router.content import readable, text_of, unscannable
from foreshore.router.label import Caller, label
from foreshore.router.privacy import DETECTORS, detect, find
from foreshore.types import Request, Sampling

FOUND = [
    ("email", "mail jane.doe+x@mail.example.co.uk please"),
    ("email", "jane%40example.com"),
    ("email", "ｊａｎｅ＠ｅｘａｍｐｌｅ．ｃｏｍ"),
    ("email", "ja\u200bne@exam\u00adple.com"),
    ("email", "_jane@example.com_"),
    ("card", "4111 1111 1111 1111"),
    ("card", "4111 - 1111 - 1111 - 1111"),
    ("card", "\u0664\u0661\u0661\u0661" + "\u0661" * 12),  # Arabic-Indic digits
    ("card", "4111-1111-1111-1111"),
    ("card", "4111\u20111111\u20111111\u20111111"),
    ("card", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"),
    ("card", "5555555555554444"),
    ("card", "3782 822463 10005"),
    ("card", "４１１１１１１１１１１１１１１１"),
    ("card", "41111111\u200b11111111"),
    ("phone", "+41 (0)62 585 51 90"),
    ("phone", "call me at 555 0123 456"),
    ("phone", "(64) 3591-3246"),
    ("phone", "780-999-2181"),
    ("phone", "my number: 415 555 2671"),
    ("iban", "GB82 WEST 1234 5698 7654 32"),
    ("iban", "de89370400440532013000"),
    ("iban", "pay GB82WEST12345698765432 now"),
    ("api_key", "sk-proj-abcdefghijklmnopqrstuvwx"),
    ("api_key", "sk-ant-api03-abcdefghijklmnop"),
    ("api_key", "AKIAIOSFODNN7EXAMPLE"),
    ("api_key", "ghp_abcdefghijklmnopqrstuvwxyz0123456789"),
    ("api_key", "AIzaSyA1234567890abcdefghijklmnopqrstuv"),
    ("api_key", "xoxb-1234567890-abcdef"),
    ("api_key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc"),
    ("api_key", "-----BEGIN RSA PRIVATE KEY-----"),
    ("api_key", "password: hunter2hunter2"),
]
CLEAN = [
    "sort 45, 12, 78, 34, 90, 11",
    "what is 123456 + 654321?",
    "4111 1111 1111 1112",  # fails Luhn
    "GB82 WEST 1234 5698 7654 33",  # fails mod 97
    "the meeting is on 2026-11-21 at 10:30",
    "version 1.2.3.4 of numpy 2.4.6",
    "@decorator above def f(a, b)",
    "sk-learn is a library, and so is sk-image",
    "0000000000000000",
    "order 12345 was shipped in 3 boxes of 12",
]


@pytest.mark.parametrize(("detector", "text"), FOUND)
def test_it_is_found(detector: str, text: str) -> None:
    request = Request(messages=({"role": "user", "content": text},))
    assert detector in detect(text_of(request), DETECTORS)


@pytest.mark.parametrize("text", CLEAN)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert detect(text_of(Request(messages=({"role": "user", "content": text},))), DETECTORS) == ()


LISTED = "ring (415) 555 2671 or 020 7946 0958 x, then 415 555 2671"


def test_the_phone_library_adds_to_our_finds_and_never_takes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [LISTED, *(text for kind, text in FOUND if kind == "phone")]
    both = [set(find(text, "phone")) for text in texts]
    monkeypatch.setitem(sys.modules, "phonenumbers", None)  # as if it were not installed
    privacy._phonenumbers.cache_clear()
    ours = [set(find(text, "phone")) for text in texts]
    privacy._phonenumbers.cache_clear()
    assert all(own <= found for own, found in zip(ours, both, strict=True))
    number = LISTED.rindex("415")
    assert (number, len(LISTED)) in both[0] - ours[0]


SECRET = "jane@example.com"
ESCAPED = json.dumps({"to": SECRET}).replace("@", "\\u0040")
PLACES = [
    Request(messages=({"role": "system", "content": SECRET}, {"role": "user", "content": "hi"})),
    Request(messages=({"role": "assistant", "content": SECRET}, {"role": "user", "content": "hi"})),
    Request(messages=({"role": "tool", "tool_call_id": "1", "content": SECRET},)),
    Request(messages=({"role": "user", "name": SECRET, "content": "hi"},)),
    Request(messages=({"role": "user", "content": [{"type": "text", "text": SECRET}]},)),
    Request(messages=({"role": "user", "content": [{"type": "file", "file": {"filename": SECRET}}]},)),
    Request(messages=({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ESCAPED}}]},)),
    Request(messages=({"role": "tool", "content": json.dumps({"inner": ESCAPED})},)),
    Request(messages=({"role": "user", "content": {SECRET: 1}},)),
    Request(tools=({"type": "function", "function": {"name": "f", "description": SECRET}},)),
    Request(tool_choice={"type": "function", "function": {"name": SECRET}}),
    Request(response_format={"type": "json_schema", "json_schema": {"schema": {"enum": [SECRET]}}}),
    Request(task="completion", prompt=SECRET),
    Request(task="embedding", inputs=("hi", SECRET)),
    Request(sampling=Sampling(stop=(SECRET,))),
    Request(sampling=Sampling(grammar=f'root ::= "{SECRET}"')),
    Request(sampling=Sampling(dry_sequence_breakers=("\n", SECRET))),
    Request(sampling=Sampling(samplers=(SECRET,))),
    Request(extra={"prediction": {"content": SECRET}}),
]


@pytest.mark.parametrize("request_", PLACES, ids=range(len(PLACES)))
def test_it_is_found_wherever_it_stands(request_: Request) -> None:
    assert detect(text_of(request_), DETECTORS) == ("email",)


def test_a_card_written_as_a_number_or_over_two_parts_is_found() -> None:
    as_number = Request(tools=({"function": {"parameters": {"const": 4111111111111111}}},))
    parts = [{"type": "text", "text": "4111 1111"}, {"type": "text", "text": "1111 1111"}]
    for request in (as_number, Request(messages=({"role": "user", "content": parts},))):
        assert "card" in detect(text_of(request), DETECTORS)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(task="completion", prompt=(1, 2, 3)), True),
        (Request(messages=({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},)), True),
        (Request(messages=({"role": "user", "content": [{"type": "text", "text": "x"}]},)), False),
        (Request(messages=({"role": "user", "content": "x"},)), False),
    ],
)
def test_what_no_detector_can_read_is_known(request_: Request, expected: bool) -> None:
    assert unscannable(request_) is expected


HOSTILE = ["a", "1", "1 ", "4 ", "@", "a@", "a@b.", "(1", "+1-", "AA11", "AA11 ", "sk-", "eyJaaaaaaaa.", "password ",
           "-----BEGIN ", "0 (1) ", "1.1.1.", "tel 1", "-", " ", "00", "secret=a"]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_is_read_through(piece: str) -> None:
    """It ends: a pattern that backtracked over these 200,000 characters would take hours."""
    text = piece * (200_000 // len(piece))
    assert set(detect(text + " jane@example.com", DETECTORS)) >= {"email"}


@pytest.mark.parametrize("padding", [0, privacy.WINDOW - 530, privacy.WINDOW - 20, privacy.WINDOW - 5, privacy.WINDOW])
@pytest.mark.parametrize(("detector", "text"), FOUND)
def test_what_stands_at_the_edge_of_a_window_is_found(detector: str, text: str, padding: int) -> None:
    whole = readable("a " * (padding // 2) + text + " b" * privacy.WINDOW)
    assert detect(whole, [detector]) == (detector,)


def test_text_too_long_to_scan_is_private_even_where_images_are_allowed() -> None:
    rest = "targets: {edge: {kind: local, model: m}}\nprivacy: {unscannable: allow, scan_characters: 100}"
    config = parse_config(rest)
    for length, labels in ((50, ()), (101, ("too_long",))):
        request = Request(messages=({"role": "user", "content": "a" * length},))
        assert label(request, Caller(), config).labels == labels


@given(st.text(max_size=300))
def test_any_text_can_be_read(text: str) -> None:
    detect(text_of(Request(messages=({"role": "user", "content": text},))), DETECTORS)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_can_be_read(value: object) -> None:
    text_of(Request(extra={"x": value}, messages=({"role": "user", "content": json.dumps(value)},)))


@given(st.from_regex(privacy._API_KEY))
def test_no_key_is_lost_by_looking_for_words_first(text: str) -> None:
    assert find(text, "api_key")


@given(st.from_regex(privacy._NAMED_SECRET), st.booleans())
def test_no_named_secret_is_lost_either(text: str, upper: bool) -> None:
    assert find(text, "api_key")
    shouted = text.upper() if upper else text.replace("k", "\u212a").replace("s", "\u017f")
    assert bool(find(shouted, "api_key")) >= bool(privacy._NAMED_SECRET.search(shouted))


@given(st.from_regex(privacy._PHONE) | st.from_regex(privacy._STRONG_PHONE))
def test_whatever_has_the_shape_of_a_number_is_looked_at(text: str) -> None:
    shaped = list(privacy._shaped_phones(text))
    assert set(shaped) <= set(find(text, "phone"))


PIECES = ["4111", "1111", "0", "12", " ", "  ", ".", "-", "_", "/", "\x1c", "GB82", "de", "x", "é", "\u0661", "(", "+"]


@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_looking_for_shapes_first_loses_no_number(text: str) -> None:
    """A text that is not ASCII is looked through by the patterns alone."""
    for detector in ("card", "iban"):
        assert bool(find(text, detector)) >= bool(find(f"{text} é", detector))
    assert privacy._seven_digits(text) == (privacy._SEVEN_DIGITS.search(text) is not None)


@given(st.from_regex(privacy._DIGITS, alphabet=st.characters(max_codepoint=127)))
def test_every_long_number_is_looked_at(text: str) -> None:
    assert b"0" * 12 in text.encode().translate(privacy._SHAPES, privacy._BETWEEN)
