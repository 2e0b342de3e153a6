"""What is particular to encoders: positions, heads, and what llama.cpp could not follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foreshore.errors import ModelError
from foreshore.quantize.convert.convert import open_folder
from tests.quantize.tiny_models import bert, edited, modern_bert, roberta
from tests.quantize.transformers_check import converted


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """ModernBERT's code asks torch for a compiler when it is imported, which takes longer than all its tests."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def test_roberta_counts_positions_from_the_padding_on(tmp_path: Path) -> None:
    info = converted(roberta(tmp_path / "hf"), tmp_path)
    assert info.context_length == 254
    assert next(t.shape for t in info.tensors if t.name == "position_embd.weight") == (64, 254)


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        (roberta, {"pad_token_id": None}, "pad_token_id"),
        (roberta, {"pad_token_id": 400}, "pad_token_id"),
        (roberta, {"is_decoder": True}, "is_decoder"),
        (bert, {"position_embedding_type": "relative_key"}, "relative_key"),
        (bert, {"architectures": ["BertForSequenceClassification"]}, "BertForSequenceClassification"),
        (modern_bert, {"hidden_activation": "silu"}, "silu"),
        (modern_bert, {"norm_bias": True}, "norm_bias True"),
    ],
)
def test_what_llama_cpp_could_not_follow_is_refused(
    model: Callable[[Path], Path], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = edited(model(tmp_path / "hf"), changes)
    with pytest.raises(ModelError, match=said):
        open_folder(folder)


def test_a_head_that_gives_several_labels_is_refused(tmp_path: Path) -> None:
    folder = roberta(tmp_path / "hf", architecture="RobertaForSequenceClassification")
    edited(folder, {"id2label": {"0": "no", "1": "maybe", "2": "yes"}})
    with pytest.raises(ModelError, match="3 labels"):
        open_folder(folder)


def test_marks_other_than_berts_are_refused(tmp_path: Path) -> None:
    folder = edited(bert(tmp_path / "hf"), {"post_processor": None}, "tokenizer.json")
    with pytest.raises(ModelError, match="around a text"):
        open_folder(folder)
