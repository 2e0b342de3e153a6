"""Estimators that an encoder tells: what they learn of it, their file, and how texts become vectors."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from foreshore.errors import BadRequest, ModelError, NotFound, UpstreamError, UsageError
from foreshore.quality import Estimator, Label, train
from foreshore.quality.confidence_fit import auroc, ece
from foreshore.quality.encoder import EncoderId, embed, shortened
from foreshore.quality.report import judge
from foreshore.quantize import build
from foreshore.router.encoder_identity import fingerprint, pooling
from foreshore.router.local_encoder import LocalEncoder
from foreshore.testing import FakeBackend
from foreshore.types import Chunk
from tests.quality.prompts import labels, prompts
from tests.tiny_model import write_encoder

TEXTS = ("the cat sat", "the dog ran", "hello world")
IDENTITY = EncoderId(model="senses:f32", sha256="0" * 64, pooling="mean", dimension=8)


class Senses:
    """Knows what no word says: of each text a number drawn by its hash, in one of eight columns of noise."""

    identity = IDENTITY

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        drawn = [np.random.default_rng(list(hashlib.sha256(text.encode()).digest())) for text in texts]
        return np.array([rng.standard_normal(8) for rng in drawn], np.float32)


def share(text: str) -> float:
    """How probable it is that target "a" is right."""
    return float(1 / (1 + np.exp(-2 * Senses()([text])[0, 0])))


def labelled(texts: Sequence[str], seed: int) -> list[Label]:
    rng = np.random.default_rng(seed)
    return [Label(text, "a", bool(rng.random() < share(text))) for text in texts]


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return train(labelled(prompts(600, 0)[0], 1), encoder=Senses())


@pytest.fixture
def saved(estimator: Estimator, tmp_path: Path) -> Path:
    estimator.save(tmp_path / "estimator.npz")
    return tmp_path / "estimator.npz"


@pytest.fixture(scope="module")
def encoder(tiny_encoder: Path) -> Iterator[LocalEncoder]:
    with LocalEncoder(str(tiny_encoder)) as found:
        yield found


def test_what_only_the_encoder_knows_is_learnt_and_both_fits_are_calibrated(estimator: Estimator) -> None:
    texts, _ = prompts(1500, 2)
    right = np.random.default_rng(3).random(len(texts)) < [share(text) for text in texts]
    told = np.array([estimator.predict(t, vector=v)["a"] for t, v in zip(texts, Senses()(texts), strict=True)])
    alone = np.array([estimator.predict(text)["a"] for text in texts])
    assert auroc(told, right) > 0.75 > 0.56 > auroc(alone, right)
    assert max(ece(told, right), ece(alone, right)) < 0.06
    assert estimator.scales["embedding"] > 0
    assert estimator.encoder == IDENTITY


def test_without_its_encoder_it_says_what_one_that_knew_none_would(estimator: Estimator) -> None:
    texts, _ = prompts(600, 0)
    plain = train(labelled(texts, 1))
    for text in texts[:5]:
        assert estimator.predict(text)["a"] == pytest.approx(plain.predict(text)["a"], abs=1e-5)
    assert "embedding" not in plain.scales


def test_vectors_of_another_kind_are_refused(estimator: Estimator) -> None:
    with pytest.raises(UsageError, match="vectors of 8 numbers"):
        estimator.predict("x", vector=np.zeros(7, np.float32))
    with pytest.raises(UsageError, match="no vectors"):
        train(labels(300, 0)).predict("x", vector=np.zeros(8, np.float32))


def test_the_report_is_of_the_fit_that_was_judged(estimator: Estimator) -> None:
    held = labelled(prompts(400, 9)[0], 4)
    told, alone = judge(estimator, held, encoder=Senses()).targets["a"], judge(estimator, held).targets["a"]
    assert told.auroc.value > 0.7 > 0.6 > alone.auroc.value


def test_its_file_keeps_both_fits_and_names_the_encoder(estimator: Estimator, saved: Path) -> None:
    found = Estimator.load(saved)
    assert (found.encoder, found.scales, found.plain.scales) == (IDENTITY, estimator.scales, estimator.plain.scales)
    vector = Senses()(TEXTS[:1])[0]
    assert found.predict(TEXTS[0], vector=vector) == estimator.predict(TEXTS[0], vector=vector)
    assert found.predict(TEXTS[0]) == estimator.predict(TEXTS[0])


def rewritten(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(arrays["header"].tobytes())
    change(header)
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **arrays)


def test_a_file_from_before_there_were_encoders_is_read(tmp_path: Path) -> None:
    path, plain = tmp_path / "old.npz", train(labels(300, 0))
    plain.save(path)
    rewritten(path, lambda header: [header.pop(name) for name in ("encoder", "embedded_scales")])
    assert Estimator.load(path).predict("the cat") == plain.predict("the cat")


@pytest.mark.parametrize(
    "encoder",
    [
        None,
        "minilm",
        {"model": "m"},
        IDENTITY.to_json() | {"dimension": 9},
        IDENTITY.to_json() | {"dimension": 10**9},
        IDENTITY.to_json() | {"dimension": "8"},
        IDENTITY.to_json() | {"sha256": 0},
    ],
)
def test_a_file_whose_encoder_makes_no_sense_is_refused(saved: Path, encoder: object) -> None:
    rewritten(saved, lambda header: header.update(encoder=encoder))
    with pytest.raises(ModelError, match="estimator") as refused:
        Estimator.load(saved)
    assert "train it again" in str(refused.value.hint)


def test_a_local_encoder_makes_unit_vectors_each_for_its_own_text(encoder: LocalEncoder, tiny_encoder: Path) -> None:
    many = [f"{TEXTS[i % 3]} {'cat ' * (i % 5)}" for i in range(70)]  # more than a batch, of several lengths
    found = encoder(many)
    assert found.shape == (70, 32)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(70), abs=1e-5)
    for i in (0, 33, 69):
        assert found[i] == pytest.approx(encoder([many[i]])[0], abs=2e-3)
    assert encoder.identity.model == str(tiny_encoder)
    assert (encoder.identity.dimension, encoder.identity.pooling) == (32, "mean")


def test_of_texts_longer_than_the_encoder_reads_the_ends_are_read(encoder: LocalEncoder) -> None:
    """It reads 64 tokens."""
    long, twin, short = "cat " + "dog " * 4000 + "hello", "cat " + "dog " * 3000 + "hello", "the cat"
    found = encoder([long, twin, short])
    assert found[0] == pytest.approx(found[1], abs=2e-3)
    assert found[2] == pytest.approx(encoder([short])[0], abs=2e-3)


@given(st.text(max_size=60), st.integers(1, 50))
def test_what_is_left_out_is_the_middle(text: str, most: int) -> None:
    found = shortened(text, most)
    assert len(found) == min(len(text), most)
    end = most // 3
    assert text.startswith(found[: most - end])
    assert len(text) <= most or text.endswith(found[most - end :])


@pytest.mark.parametrize("vector", [(float("nan"), 1.0), (float("inf"), 1.0), ()])
def test_what_is_no_vector_is_an_error(vector: tuple[float, ...]) -> None:
    backend = FakeBackend([Chunk(embedding=vector), Chunk(finish_reason="stop")])
    if not vector:
        backend.script = [Chunk(finish_reason="stop")]
    with pytest.raises(UpstreamError, match="made no vectors"):
        asyncio.run(embed(backend, ["x"]))


def test_a_model_is_the_same_encoder_in_the_store_and_by_its_path(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORESHORE_HOME", str(tmp_path))
    (variant,) = build(tiny_encoder, None, "enc")
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(next((tmp_path / "models" / "enc").glob("*/*.gguf")).read_bytes())
    assert fingerprint(variant.ref) == fingerprint(str(copy)) != fingerprint(str(other(tmp_path)))
    assert pooling(variant.ref) == "mean"
    with pytest.raises(NotFound):
        fingerprint("none:q8_0")
    with pytest.raises(NotFound):
        fingerprint(str(tmp_path / "none.gguf"))


def other(folder: Path) -> Path:
    return write_encoder(folder / "other.gguf", seed=1)


def test_a_file_that_changed_is_another_encoder(tmp_path: Path) -> None:
    path = other(tmp_path)
    before = fingerprint(str(path))
    write_encoder(path, seed=2)
    assert fingerprint(str(path)) != before


def test_a_model_that_only_ranks_or_is_not_there_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(NotFound), LocalEncoder(str(tmp_path / "none.gguf")):
        pass
    backend = FakeBackend([BadRequest("model 'ranker' only ranks")])
    with pytest.raises(BadRequest, match="only ranks"):
        asyncio.run(embed(backend, ["x"]))


def test_identities_survive_json() -> None:
    found = replace(IDENTITY, model="minilm:q8_0")
    assert EncoderId.from_json(json.loads(json.dumps(found.to_json()))) == found
