"""A variant's card says how far its confidence can be trusted, and keeps the answers that say so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foreshore.card import Card, ConfidenceCard
from foreshore.errors import ModelError, NotFound
from foreshore.manifest import Manifest, quality_sha256
from foreshore.quality.confidence import Confidence
from foreshore.quality.labels import Label
from foreshore.quality.token_features import features
from foreshore.quality.variants import confidence_of, labels_of
from foreshore.quantize import build
from foreshore.quantize.accuracy import Answered, Task, answered, starter_tasks
from foreshore.quantize.confidences import confidence_card
from foreshore.store import LABELS, Store
from foreshore.types import TokenLogprob

VARIANTS = ("q2_k", "q6_k")
KINDS = ("sum", "subtract", "story", "intent", "sentiment")  # of short answers, many right and many wrong


def simulated(count: int, *, sharpness: float) -> tuple[list[Task], list[Answered]]:
    """Answers of one token whose probability says more of their being right the sharper it is."""
    rng = np.random.default_rng(1)
    tasks, said = [], []
    for number in range(count):
        share = float(rng.uniform(0.05, 0.99))
        token = TokenLogprob(token="x", bytes=b"x", logprob=float(np.log(share)))
        right = bool(rng.random() < 0.5 + sharpness * (share - 0.5))
        tasks.append(Task(prompt=f"prompt {number}", answer="x"))
        said.append(Answered(right=right, text=f"answer {number}", features=features([token])))
    return tasks, said


def test_a_card_has_the_curve_of_what_a_threshold_keeps() -> None:
    tasks, said = simulated(600, sharpness=0.9)
    card, labels = confidence_card(tasks, said)
    assert card.auroc is not None
    assert card.auroc.low > 0.7
    assert (card.count, card.correct) == (600, sum(a.right for a in said))
    shares = [t.local_share for t in card.thresholds]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0
    assert shares[-1] == pytest.approx(0.05, abs=0.01)
    assert card.thresholds[-1].accuracy.value > card.thresholds[0].accuracy.value + 0.2
    kept = [json.loads(line) for line in labels.splitlines()]
    half = next(t for t in card.thresholds if t.local_share <= 0.5)
    assert sum(row["confidence"] >= half.confidence for row in kept) / 600 == pytest.approx(half.local_share)


def test_a_card_survives_json_and_no_gate_judges_it() -> None:
    card = Card(confidence=confidence_card(*simulated(200, sharpness=0.9))[0])
    again = Card.from_json(json.loads(json.dumps(card.to_json())))
    assert again.confidence is not None
    assert again.confidence.model is not None
    assert again.confidence.thresholds == (card.confidence and card.confidence.thresholds)
    assert Confidence.from_json(again.confidence.model).calibrated
    assert quality_sha256(again) == quality_sha256(Card()) == quality_sha256(None)


def test_an_answer_without_a_token_inspires_no_confidence() -> None:
    tasks, said = simulated(200, sharpness=0.9)
    said[7] = Answered(right=False, text="")
    _, labels = confidence_card(tasks, said)
    assert json.loads(labels.splitlines()[7])["confidence"] == 0.0


def test_where_nothing_is_wrong_there_is_no_model_but_there_are_labels() -> None:
    tasks, said = simulated(50, sharpness=0.0)
    card, labels = confidence_card(tasks, [replace(a, right=True) for a in said])
    assert (card.model, card.auroc, card.thresholds) == (None, None, ())
    assert {json.loads(line)["confidence"] for line in labels.splitlines()} == {None}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Sequence[ConfidenceCard]]:
    """Two variants of a starter with the cards of what they answered to the same tasks."""
    store, cards = Store(tmp_path_factory.mktemp("store")), []
    tasks = [task for task in starter_tasks(24) if task.segment in KINDS]
    for manifest in build("starter-s", VARIANTS, store=store):
        card, labels = confidence_card(tasks, answered(store.path(manifest), tasks))

        def filled(found: Manifest, card: ConfidenceCard = card) -> Manifest:
            return replace(found, card=Card(confidence=card))

        store.update(manifest.ref, filled, labels=labels)
        cards.append(card)
    return store, cards


def test_two_variants_of_a_model_have_curves_of_their_own(measured: tuple[Store, Sequence[ConfidenceCard]]) -> None:
    store, cards = measured
    coarse, fine = cards
    assert coarse.auroc is not None
    assert fine.auroc is not None
    assert min(coarse.auroc.value, fine.auroc.value) > 0.75
    assert coarse.thresholds != fine.thresholds
    models = [confidence_of(f"starter-s:{name}", store) for name in VARIANTS]
    assert models[0] != models[1]
    assert all(model.calibrated for model in models)


def test_labels_come_back_from_the_store(measured: tuple[Store, Sequence[ConfidenceCard]]) -> None:
    store, cards = measured
    for name, card in zip(VARIANTS, cards, strict=True):
        manifest = store.get(f"starter-s:{name}")
        found = list(labels_of(store.folder(manifest)))
        assert found == list(labels_of(store.path(manifest)))
        assert len(found) == card.count
        assert sum(label.correct for label in found) == card.correct
        assert {label.target for label in found} == {f"starter-s:{name}"}
        assert all(isinstance(label, Label) and label.prompt for label in found)
        assert store.verify(manifest) == ()


def test_damaged_labels_are_noticed(measured: tuple[Store, Sequence[ConfidenceCard]], tmp_path: Path) -> None:
    store, _ = measured
    manifest = store.get("starter-s:q6_k")
    path = store.folder(manifest) / LABELS
    before = path.read_text()
    path.write_text(before + "{}\n")
    try:
        assert store.verify(manifest) == (f"{LABELS!r} is missing or has another SHA-256",)
        with pytest.raises(ModelError, match=f"line {len(before.splitlines()) + 1}: not a label"):
            list(labels_of(path.parent))
    finally:
        path.write_text(before)
    with pytest.raises(NotFound, match="has not been measured on tasks"):
        list(labels_of(tmp_path / "name" / "variant"))


def test_what_was_not_measured_gets_the_default(tmp_path: Path) -> None:
    assert confidence_of("nothing:here", Store(tmp_path)) == Confidence.default()
    assert confidence_of("gpt-4o", Store(tmp_path)) == Confidence.default()
    assert confidence_of("../../etc/passwd", Store(tmp_path)) == Confidence.default()
