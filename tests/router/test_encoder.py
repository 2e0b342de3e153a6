"""The encoder behind quality estimates in a gateway: whose requests it sees, and what if it does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from foreshore.backend import Backend
from foreshore.config import Config
from foreshore.errors import ConfigError, NotFound, Unavailable
from foreshore.quality import Estimator, Label, train
from foreshore.router.decide import Decision
from foreshore.router.label import Caller
from foreshore.router.loaded import Compiled
from foreshore.router.local_encoder import LocalEncoder
from foreshore.router.policy import Policy
from foreshore.router.router import Router
from foreshore.router.situation import Stage
from foreshore.testing import FakeBackend
from foreshore.types import Chunk, Request
from tests.router.serving import config_of
from tests.tiny_model import write_encoder

CAT, DOG = "the cat ran 7 times", "the dog ran 7 times"
RULES = "rules: [{name: good, prefer: [small, big], where: target.quality >= 0.6}]"
STOP = Chunk(finish_reason="stop")


def asks(text: str, *, tenant: str = "default", model: str = "", deadline: float | None = None) -> Request:
    return Request(messages=({"role": "user", "content": text},), tenant=tenant, model=model, deadline=deadline)


def labels() -> list[Label]:
    """`small` is right about cats, `big` nearly always."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(160):
        animal = ("cat", "dog")[i % 2]
        text = f"the {animal} {' '.join(rng.choice(['ran', 'sat'], 2))} {i} times"
        found += [Label(text, "small", bool(rng.random() < (0.9, 0.15)[i % 2])), Label(text, "big", i % 7 > 0)]
    return found


@pytest.fixture(scope="module")
def told(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an estimator that was trained with the encoder."""
    path = tmp_path_factory.mktemp("quality") / "told.npz"
    with LocalEncoder(str(tiny_encoder)) as encoder:
        train(labels(), encoder=encoder).save(path)
    return path


def config(folder: Path, estimator: Path, encoder: Path, rest: str = RULES, *, quality: str = "") -> Config:
    text = f"""
targets:
  small: {{kind: local, model: small}}
  big: {{kind: openai, model: big, base_url: "http://127.0.0.1:9/v1"}}
  senses: {{kind: local, model: "{encoder}", tasks: [embedding]}}
quality: {{estimator: "{estimator}", {quality or "encoder: senses, encoder_timeout: 60"}}}
default: [small, big]
{rest}
"""
    return config_of(text, folder / "ledger.sqlite")


def decisions(
    config: Config, requests: Sequence[Request], backends: Mapping[str, Backend] | None = None
) -> tuple[list[Decision], dict[str, float]]:
    """Each decided on by a gateway's router, and how often the encoder had which outcome."""

    async def run() -> tuple[list[Decision], dict[str, float]]:
        router = Router(config, backends={"small": FakeBackend(), "big": FakeBackend(), **(backends or {})})
        await router.start()
        found = []
        try:
            for request in requests:
                exchange = await router.open(request, Caller(tenant=request.tenant))
                exchange.close()
                found.append(exchange.decision)
            return found, _outcomes(router)
        finally:
            await router.close()

    return asyncio.run(run())


def _outcomes(router: Router) -> dict[str, float]:
    (metric,) = router.metrics.encoder.collect()
    return {s.labels["outcome"]: s.value for s in metric.samples if s.name.endswith("_total")}


def quality(decision: Decision) -> tuple[float, float]:
    return decision.estimates["small"].quality, decision.estimates["big"].quality


def test_quality_is_told_by_the_encoder_and_equal_texts_are_embedded_once(
    told: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    estimator = Estimator.load(told)
    again = asks(CAT, tenant="other")
    requests = [asks(CAT), asks(DOG), asks(CAT), again, asks("mail me at a.b@example.com about the cat")]
    found, outcomes = decisions(config(tmp_path, told, tiny_encoder), requests)
    with LocalEncoder(str(tiny_encoder)) as encoder:
        for decision, text in zip(found, (CAT, DOG), strict=False):
            expected = estimator.predict(text, vector=encoder([text])[0])
            assert quality(decision) == pytest.approx((expected["small"], expected["big"]), abs=1e-3)
            assert expected["small"] != pytest.approx(estimator.predict(text)["small"], abs=1e-3)
    cat, dog, *_, private = found
    assert (cat.targets[0], dog.targets[0], quality(found[2])) == ("small", "big", quality(cat))
    assert private.targets == ("small",)
    # The same words of another tenant are embedded again, so that no time taken tells what others ask.
    assert outcomes == {"embedded": 4, "cached": 1}


def test_where_nobody_needs_a_vector_none_is_made(told: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    pinned, blank = asks(CAT, model="big"), asks("  ")
    assert decisions(config(tmp_path, told, tiny_encoder), [pinned, blank])[1] == {}
    assert decisions(config(tmp_path, told, tiny_encoder, rest=""), [asks(CAT)])[1] == {}


@pytest.mark.parametrize(
    ("outcome", "script", "why"),
    [
        ("late", [asyncio.Event()], "took longer than 0.01 s"),
        ("failed", [Unavailable("it is on fire", target="senses")], "it is on fire"),
        ("failed", [Chunk(embedding=(0.6, 0.8)), STOP], "made 2 numbers, not 32"),
        ("failed", [STOP], "made no vectors"),
    ],
)
def test_without_an_answer_of_the_encoder_the_estimate_is_the_other_fits(
    outcome: str,
    script: list[object],
    why: str,
    told: Path,
    tiny_encoder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = FakeBackend(script, name="senses")  # type: ignore[arg-type]
    settings = config(tmp_path, told, tiny_encoder, quality="encoder: senses, encoder_timeout: 0.01")
    if outcome == "failed":  # nothing is to be late on a slow machine
        settings = config(tmp_path, told, tiny_encoder)
    found, outcomes = decisions(settings, [asks(f"{CAT} {i}") for i in range(5)], {"senses": fake})
    expected = Estimator.load(told).predict(f"{CAT} 0")
    assert quality(found[0]) == pytest.approx((expected["small"], expected["big"]))
    assert [r for r in found[0].reasons if "quality judged without encoder 'senses'" in r and why in r]
    # After three in a row it rests, and no request waits for it.
    assert outcomes == {outcome: 3, "resting": 2}
    assert len(fake.requests) == 3
    assert [why in record.message for record in caplog.records if "judged without" in record.message] == [True]
    assert "rests" in found[4].reasons[-1]


def test_a_request_in_a_hurry_does_not_wait_and_is_not_held_against_the_encoder(
    told: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    """It has 90 s, more than the encoder may take, but not twice as many."""
    hurried = [asks(f"{CAT} {i}", deadline=time.monotonic() + 90) for i in range(4)]
    found, outcomes = decisions(config(tmp_path, told, tiny_encoder), [*hurried, asks(CAT)])
    assert outcomes == {"late": 4, "embedded": 1}
    assert "too few to wait for it" in found[0].reasons[-1]


def test_another_encoder_than_the_one_that_was_learnt_from_is_refused(
    told: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    stranger = write_encoder(tmp_path / "stranger.gguf", seed=5)
    with pytest.raises(ConfigError, match=r"trained with .*, and target 'senses' is another encoder, .*stranger"):
        Compiled.of(config(tmp_path, told, stranger))
    with pytest.raises(NotFound):
        Compiled.of(config(tmp_path, told, tmp_path / "none.gguf"))


def test_an_encoder_and_an_estimator_that_knows_none_do_not_go_together(
    told: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.npz"
    train(labels()).save(plain)
    with pytest.raises(ConfigError, match="trained without an encoder"):
        Compiled.of(config(tmp_path, plain, tiny_encoder))
    (decision,), outcomes = decisions(config(tmp_path, told, tiny_encoder, quality="floor: 0.5"), [asks(CAT)])
    expected = Estimator.load(told).predict(CAT)
    assert quality(decision) == pytest.approx((expected["small"], expected["big"]))
    assert outcomes == {}


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ("encoder: sense", "there is no target 'sense'; did you mean 'senses'"),
        ("encoder: big", "'big' is not on this machine"),
        ("encoder: small", "'small' has tasks without 'embedding'"),
        ("encoder_timeout: 0", "greater than 0"),
    ],
)
def test_what_cannot_be_an_encoder_is_refused_with_its_line(quality: str, said: str, tmp_path: Path) -> None:
    text = f"""
targets:
  small: {{kind: local, model: small, tasks: [chat]}}
  big: {{kind: openai, model: big, base_url: "http://127.0.0.1:9/v1"}}
  senses: {{kind: local, model: senses}}
quality:
  estimator: e.npz
  {quality}
"""
    with pytest.raises(ConfigError, match=said) as refused:
        config_of(text, tmp_path / "l.sqlite")
    assert "foreshore.yaml:8:" in refused.value.message
    with pytest.raises(ConfigError, match="encoder means nothing without an estimator"):
        config_of("targets: {a: {kind: local, model: a}}\nquality: {encoder: a}", tmp_path / "l.sqlite")


def test_commands_that_decide_without_a_gateway_are_told_by_the_encoder_too(
    told: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    settings = config(tmp_path, told, tiny_encoder)
    situation = Stage(settings, Policy(settings)).situation(asks(CAT), Caller())
    (decision,), _ = decisions(settings, [asks(CAT)])
    assert [t.quality for t in situation.targets][:2] == pytest.approx(quality(decision), abs=1e-3)


def test_no_more_vectors_are_kept_than_there_is_room_for(
    told: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foreshore.router.encoder.KEPT", 2)
    requests = [asks(text) for text in (CAT, DOG, CAT, "the third", DOG, CAT)]
    assert decisions(config(tmp_path, told, tiny_encoder), requests)[1] == {"embedded": 5, "cached": 1}
