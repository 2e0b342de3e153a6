"""The gate: what a rule says, and that nothing passes which was not measured well enough."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshore.card import Accuracy, Card, Divergence, Interval, Segment, Similarity
from foreshore.errors import ModelError, NotFound, UsageError
from foreshore.manifest import Calibration, FileRecord, Manifest, Parent, Source, quality_sha256
from foreshore.quantize.gate import DEFAULT, ENCODER, Gate, promote
from foreshore.store import Store

DATE = "2026-01-02T03:04:05+00:00"


def around(value: float, half: float) -> Interval:
    return Interval(value=value, low=value - half, high=value + half)


def divergence(kl: float = 0.03, half: float = 0.005, p99: float = 0.4, same_top: float = 0.93) -> Divergence:
    return Divergence(
        parent_sha256="aa" * 32,
        text_sha256="bb" * 32,
        documents=50,
        tokens=5000,
        perplexity=around(10.2, 0.3),
        parent_perplexity=around(10, 0.3),
        kl_mean=around(kl, half),
        kl_p99=around(p99, 0.1),
        same_top=around(same_top, 0.01),
    )


def accuracy(**changes: float | None) -> Accuracy:
    """By segment the change of the share, each 0.01 sure."""
    segments = {
        name: Segment(
            count=100,
            correct=90,
            share=around(0.9, 0.05),
            parent_correct=None if change is None else 90,
            change=None if change is None else around(change, 0.01),
        )
        for name, change in changes.items()
    }
    return Accuracy(tasks_sha256="cc" * 32, segments=segments)


GOOD = Card(divergence=divergence(), accuracy=accuracy(sums=0.0, tools=0.0))


def reasons(card: Card | None, rule: str = DEFAULT) -> tuple[str, ...]:
    decision = Gate.parse(rule).judge(card, "Ada", date=DATE)
    assert decision.passed == (not decision.reasons)
    return decision.reasons


def test_a_good_card_passes() -> None:
    decision = Gate.parse(DEFAULT).judge(GOOD, " Ada ", date=DATE)
    assert decision.passed
    assert (decision.owner, decision.date, decision.reasons) == ("Ada", DATE, ())
    assert decision.rule == DEFAULT


@pytest.mark.parametrize(
    ("card", "said"),
    [
        (replace(GOOD, divergence=divergence(kl=0.048)), "upper bound of kl is, against the rule, 0.053; at most 0.05"),
        (replace(GOOD, divergence=divergence(p99=0.55)), "kl_p99"),
        (replace(GOOD, divergence=divergence(same_top=0.905)), "lower bound of same_top"),
        (replace(GOOD, accuracy=accuracy(sums=0.0, tools=-0.15)), "accuracy of 'tools'"),
        (replace(GOOD, accuracy=accuracy(sums=0.0, tools=None)), "accuracy of 'tools' was not compared"),
        (replace(GOOD, accuracy=accuracy()), "accuracy was not measured"),
        (replace(GOOD, accuracy=None), "accuracy was not measured"),
        (replace(GOOD, divergence=divergence(kl=float("nan"))), "kl was not measured"),
        (replace(GOOD, divergence=divergence(kl=float("inf"))), "upper bound of kl"),
    ],
)
def test_the_end_of_the_interval_that_speaks_against_it_counts(card: Card, said: str) -> None:
    (reason,) = reasons(card)
    assert said in reason


def test_what_was_not_measured_does_not_pass() -> None:
    for card in (None, Card()):
        assert [r.split()[0] for r in reasons(card)] == ["kl", "kl_p99", "same_top", "accuracy"]


def test_each_segment_counts_for_itself() -> None:
    card = Card(accuracy=accuracy(sums=0.5, tools=-0.2, dates=-0.1))
    assert len(reasons(card, "accuracy>=-5%")) == 2


def test_an_encoder_is_judged_by_its_vectors() -> None:
    similar = Similarity(
        parent_sha256="aa" * 32, text_sha256="bb" * 32, documents=9, cosine_mean=around(0.995, 0.001), cosine_min=0.9
    )
    assert str(Gate.default(Card(similarity=similar))) == ENCODER
    assert str(Gate.default(GOOD)) == str(Gate.default(None)) == DEFAULT
    assert not reasons(Card(similarity=similar), ENCODER)
    assert reasons(Card(similarity=replace(similar, cosine_mean=around(0.99, 0.001))), ENCODER)


def test_what_was_measured_of_something_else_does_not_count() -> None:
    gate = Gate.parse("kl<=1")
    own = Parent(sha256="aa" * 32)
    apart = Calibration(imatrix_sha256="dd" * 32, text_sha256="ee" * 32)
    assert gate.judge(GOOD, "Ada", parent=own, calibration=apart).passed
    assert gate.judge(GOOD, "Ada", calibration=replace(apart, text_sha256=None)).passed
    other = gate.judge(GOOD, "Ada", parent=Parent(sha256="ff" * 32))
    assert "another parent" in other.reasons[0]
    same = gate.judge(GOOD, "Ada", calibration=replace(apart, text_sha256="bb" * 32))
    assert "the text that calibrated" in same.reasons[0]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("", "no condition"),
        ("kl<=0.1,", "no condition"),
        ("kl<0.1", "no condition"),
        ("kl<=nan", "no condition"),
        ("kl<=0.1.2", "no condition"),
        ("kl<=1_0", "no condition"),
        ("speed>=3", "kl, kl_p99, same_top, accuracy, cosine"),
        ("kl>=0.1", "kl<="),
        ("accuracy<=-2%", "accuracy>="),
        ("kl<=5%", "nats"),
        ("kl<=-1", "from 0"),
        ("kl<=1e999", "from 0"),
        ("same_top>=90", "from 0 to 1"),
        ("kl<=0.1,kl<=0.2", "two conditions for 'kl'"),
    ],
)
def test_a_malformed_rule_is_refused_with_what_would_do(rule: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Gate.parse(rule)
    assert said in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("owner", ["", "  ", "a\nb", "x" * 201])
def test_a_decision_has_an_owner(owner: str) -> None:
    with pytest.raises(UsageError, match="owner"):
        Gate.parse(DEFAULT).judge(GOOD, owner)


LIMITS = {
    "kl": (0.0, 1e6),
    "kl_p99": (0.0, 1e6),
    "same_top": (0.0, 1.0),
    "accuracy": (-1.0, 1.0),
    "cosine": (-1.0, 1.0),
}
RULES = st.lists(st.sampled_from(sorted(LIMITS)), min_size=1, unique=True).flatmap(
    lambda names: st.tuples(*(st.tuples(st.just(n), st.floats(*LIMITS[n])) for n in names))
)


@given(RULES)
def test_a_rule_says_what_it_was_read_from(rule: tuple[tuple[str, float], ...]) -> None:
    text = " , ".join(f"{name} {'<=' if name.startswith('kl') else '>='} {limit!r}" for name, limit in rule)
    gate = Gate.parse(text)
    assert [(c.metric, c.limit) for c in gate.conditions] == list(rule)
    assert Gate.parse(str(gate)) == gate


@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(-1, 1))
def test_a_stricter_limit_never_lets_more_pass(change: float, half: float, limit: float) -> None:
    card = Card(divergence=divergence(kl=abs(change), half=half))
    loose, strict = Gate.parse(f"kl<={abs(limit)!r}"), Gate.parse(f"kl<={abs(limit) / 2!r}")
    assert loose.judge(card, "Ada").passed or not strict.judge(card, "Ada").passed
    assert loose.judge(card, "Ada").passed == (abs(change) + half <= abs(limit))


def add(store: Store, card: Card | None = None, variant: str = "q4_k_m") -> Manifest:
    made = Manifest(
        name="m",
        variant=variant,
        created=DATE,
        source=Source(kind="folder", id="/models/m"),
        files={
            "model.gguf": FileRecord(sha256="9834876dcfb05cb167a5c24953eba58c4ac89b1adf57f28f2f9d09af107ee8f0", bytes=3)
        },
        recipe={"type": variant},
        tools={},
        architecture="llama",
        parameters=10,
        bits_per_weight=8.5,
        context_length=128,
        seconds=1.5,
        parent=Parent(sha256="aa" * 32),
        card=card,
    )
    with store.lock("m", variant), store.draft() as folder:
        (folder / "files").mkdir()
        (folder / "files" / "model.gguf").write_bytes(b"aaa")
        return store.add(made, folder / "files")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def test_a_variant_is_promoted_and_the_decision_stays(store: Store) -> None:
    add(store, GOOD)
    made = promote(store, "m:q4_k_m", "Ada")
    assert made.state == "ready"
    assert store.get("m:q4_k_m") == made
    assert made.decision
    assert (made.decision.rule, made.decision.owner) == (DEFAULT, "Ada")


def test_a_variant_that_does_not_pass_is_a_candidate_with_its_reasons(store: Store) -> None:
    add(store, Card(divergence=divergence()))
    made = promote(store, "m", "Ada")
    assert made.state == "candidate"
    assert made.decision
    assert made.decision.reasons == ("accuracy was not measured",)
    made = promote(store, "m", "Ada", Gate.parse("kl<=0.05"))
    assert made.state == "ready"
    again = promote(store, "m", "Bob", Gate.parse("kl<=0.01"))
    assert again.state == "candidate"
    assert [d.owner for d in again.gate] == ["Ada", "Ada", "Bob"]


def test_what_came_quantized_is_no_measure_of_itself(store: Store) -> None:
    own = FileRecord(sha256="aa" * 32, bytes=3)
    add(store, Card(divergence=divergence(kl=0, half=0, p99=0, same_top=1)))
    made = replace(store.get("m"), files={"model.gguf": own})
    assert made.came_quantized
    assert made.state == "candidate"
    full = replace(made, recipe={"type": "bf16"})
    assert not full.came_quantized
    assert full.state == "ready"
    decision = Gate.parse("kl<=0.05").judge(made.card, "Ada", parent=made.parent, parent_quantized=True)
    assert not decision.passed
    assert decision.reasons[0].startswith("its source came quantized")
    passed = Gate.parse("kl<=0.05").judge(made.card, "Ada", parent=made.parent)
    assert passed.passed
    assert replace(made, gate=(passed,)).state == "candidate", "whoever passed it before this was asked"


@pytest.mark.parametrize(
    ("ref", "state"),
    [("m:f16", "ready"), ("m:onnx-f32", "ready"), ("", "ready"), ("m:unknown", "ready"), ("m:q8_0", "candidate")],
)
def test_nothing_made_of_what_came_quantized_is_ready(store: Store, ref: str, state: str) -> None:
    add(store, GOOD)
    made = store.get("m")
    passed = Gate.parse("kl<=0.05").judge(GOOD, "Ada")
    assert replace(made, parent=Parent(sha256="aa" * 32, ref=ref), gate=(passed,)).state == state


def test_a_decision_outlives_the_fields_that_cards_had_not() -> None:
    old = divergence()
    assert old.perplexity_ratio is None
    card = Card.from_json({"divergence": {k: v for k, v in asdict(old).items() if k != "perplexity_ratio"}})
    assert card.divergence
    kept = {key: value for key, value in asdict(card.divergence).items() if key != "perplexity_ratio"}
    measured = {"divergence": kept, "accuracy": None, "similarity": None, "speeds": ()}
    text = json.dumps(measured, sort_keys=True, separators=(",", ":"))
    assert quality_sha256(card) == hashlib.sha256(text.encode()).hexdigest()
    assert quality_sha256(Card(divergence=replace(old, perplexity_ratio=around(1, 0.1)))) != quality_sha256(card)


def test_new_measurements_need_a_new_decision(store: Store) -> None:
    add(store, GOOD)
    made = promote(store, "m", "Ada")
    worse = store.update("m", lambda m: replace(m, card=Card(divergence=divergence(kl=3))))
    assert (made.state, worse.state) == ("ready", "candidate")
    assert store.update("m", lambda m: replace(m, card=GOOD)).state == "ready"


def test_a_damaged_or_unknown_variant_is_not_promoted(store: Store) -> None:
    made = add(store, GOOD)
    store.path(made).write_bytes(b"aab")
    with pytest.raises(ModelError, match="SHA-256"):
        promote(store, "m", "Ada")
    with pytest.raises(NotFound):
        promote(store, "n", "Ada")
    assert store.get("m").gate == ()
