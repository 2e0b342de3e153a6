"""BERT's kin embed, and cut text, as they do in transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from foreshore.errors import ModelError
from foreshore.quantize.convert import open_folder
from tests.quantize.tiny_models import HOSTILE, distil_bert, roberta, xlm_roberta
from tests.quantize.transformers_check import check_embeddings, check_tokens, converted, fast

TEXTS = ["Hello, quick brown World!", "naïve café 12", "def f(x):\n    return x**2"]


@pytest.mark.parametrize("model", [roberta, distil_bert, xlm_roberta])
def test_embeddings_equal_those_of_transformers(model: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = model(tmp_path / "hf")
    info = converted(folder, tmp_path)
    check_embeddings(folder, info.path, TEXTS)


def test_roberta_counts_positions_from_the_padding_on(tmp_path: Path) -> None:
    info = converted(roberta(tmp_path / "hf"), tmp_path)
    assert info.context_length == 254
    assert next(t.shape for t in info.tensors if t.name == "position_embd.weight") == (64, 254)


def test_roberta_tokens_equal_those_of_tokenizers(tmp_path: Path) -> None:
    folder = roberta(tmp_path / "hf")
    check_tokens(converted(folder, tmp_path).path, fast(folder), HOSTILE)


def test_xlm_roberta_tokens_equal_those_of_tokenizers(tmp_path: Path) -> None:
    folder = xlm_roberta(tmp_path / "hf")
    check_tokens(converted(folder, tmp_path).path, fast(folder), HOSTILE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"pad_token_id": None}, "pad_token_id"), ({"pad_token_id": 400}, "pad_token_id"), ({"is_decoder": True}, "deco")],
)
def test_what_cannot_be_read_is_refused(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    folder = roberta(tmp_path / "hf")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=said):
        open_folder(folder)
