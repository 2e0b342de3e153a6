"""Each family that is claimed computes what it computes in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreshore.errors import ModelError
from foreshore.quantize.convert.convert import convert, open_folder
from tests.quantize.llama_check import logits
from tests.quantize.tiny_models import GRANITE4, LLAMA3_ROPE, decoder, edited
from tests.quantize.transformers_check import IDS, converted, reference

LOCAL: dict[str, Any] = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 32}
GEMMA2: dict[str, Any] = {**LOCAL, "num_hidden_layers": 3}
GEMMA3: dict[str, Any] = {**LOCAL, "num_hidden_layers": 7, "rope_theta": 1000000.0, "rope_local_base_freq": 5000.0}
FACTORS = {"short_factor": [1.0, 1.5, 2, 2.5, 3, 3.5, 4, 4.5], "long_factor": [1.0, 2, 4, 8, 16, 16, 32, 32]}
LONGROPE: dict[str, Any] = {"rope_scaling": {"type": "longrope", **FACTORS}}
GRANITE: dict[str, Any] = {
    "attention_multiplier": 0.3,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Gemma2", GEMMA2),
        ("Gemma2", {**GEMMA2, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
        ("Gemma3", GEMMA3),
        ("Gemma3", {**GEMMA3, "num_hidden_layers": 3, "layer_types": ["full_attention", *["sliding_attention"] * 2]}),
        ("Gemma3", {**GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("Phi3", {"sliding_window": None}),
        ("Phi3", {**LONGROPE, "original_max_position_embeddings": 64}),
        ("Phi3", {**LONGROPE, "original_max_position_embeddings": 1024, "max_position_embeddings": 2048}),
        (
            "Phi3",
            {
                "partial_rotary_factor": 0.75,
                "rope_scaling": {"type": "longrope", **{k: v[:6] for k, v in FACTORS.items()}},
                "original_max_position_embeddings": 64,
                "tie_word_embeddings": True,
            },
        ),
        ("Granite", GRANITE),
        ("Granite", {**GRANITE, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        ("SmolLM3", {"num_hidden_layers": 5}),
        ("SmolLM3", {"num_hidden_layers": 4, "tie_word_embeddings": False, "head_dim": 32}),
        ("Llama", {"tie_word_embeddings": True, "num_attention_heads": 2}),  # as SmolLM and SmolLM2
        ("Qwen2", {"rope_theta": 1000000.0, "use_sliding_window": False, "sliding_window": 32}),  # as Qwen 2.5
    ],
)
def test_logits_equal_those_of_transformers(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", family, **options)
    info = converted(folder, tmp_path)
    expected = reference(folder, IDS)
    error = np.abs(logits(info.path, IDS) - expected).max() / np.abs(expected).max()
    # ggml reads GELU from a table of f16, so Gemma is as exact as that.
    assert error < (4e-3 if family.startswith("Gemma") else 1e-3)


def test_the_window_and_both_rotations_matter_in_that_comparison(tmp_path: Path) -> None:
    """Else a converter that forgot them would pass it."""
    folder = decoder(tmp_path / "hf", "Gemma3", **GEMMA3)
    ours = logits(converted(folder, tmp_path).path, IDS)
    for changes in ({"sliding_window": 128}, {"rope_local_base_freq": 1000000.0}, {"rope_theta": 5000.0}):
        other = tmp_path / "other"
        edited(decoder(other, "Gemma3", **GEMMA3), changes)
        expected = reference(other, IDS)
        assert np.abs(ours - expected).max() / np.abs(expected).max() > 2e-2, changes


def test_the_text_part_of_a_vision_model_is_converted(tmp_path: Path) -> None:
    plain = decoder(tmp_path / "plain", "Gemma3", **GEMMA3)
    expected = converted(plain, tmp_path).path.read_bytes()
    config = json.loads((plain / "config.json").read_text())
    wrapped = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": config}
    (plain / "config.json").write_text(json.dumps({**wrapped, "eos_token_id": config["eos_token_id"]}))
    rename_weights(plain / "model.safetensors", "model.", "language_model.model.", add="vision_tower.patch.weight")
    source = open_folder(plain)
    assert any("no images" in note for note in source.notes)
    convert(source, tmp_path / "vision.gguf", "tiny", lambda done: None)
    assert (tmp_path / "vision.gguf").read_bytes() == expected


def test_longrope_says_where_it_differs(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Phi3", **LONGROPE, original_max_position_embeddings=64)
    assert any("more than 64 tokens" in note for note in open_folder(folder).notes)


@pytest.mark.parametrize(
    ("family", "options", "changes", "said"),
    [
        ("Gemma2", GEMMA2, {"query_pre_attn_scalar": 100}, "query_pre_attn_scalar 100"),
        ("Gemma2", GEMMA2, {"final_logit_softcapping": None}, "final_logit_softcapping None"),
        ("Gemma2", GEMMA2, {"tie_word_embeddings": False}, "tie_word_embeddings False"),
        ("Gemma2", GEMMA2, {"hidden_activation": "silu"}, "hidden_activation 'silu'"),
        ("Gemma3", GEMMA3, {"layer_types": ["full_attention"]}, "layer_types"),
        ("Gemma3", GEMMA3, {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ("Gemma3", GEMMA3, {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
        (
            "Phi3",
            LONGROPE,
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "1 val",
        ),
        ("Phi3", {}, {"head_dim": 32}, "hidden size"),
        ("Granite", GRANITE, {"logits_scaling": 0}, "logits_scaling 0"),
        ("Granite", GRANITE, {"residual_multiplier": "much"}, "residual_multiplier 'much'"),
        ("GraniteMoeHybrid", GRANITE4, {"layer_types": ["attention", "mamba"]}, "attention and mamba with 0 experts"),
        ("GraniteMoeHybrid", GRANITE4, {"num_local_experts": 4}, "with 4 experts"),
        ("GraniteMoeHybrid", GRANITE4, {"position_embedding_type": "nope"}, "position_embedding_type 'nope'"),
        ("SmolLM3", {}, {"no_rope_layers": [1, 0]}, "no_rope_layers"),
        ("Llama", {}, {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ("Qwen2", {}, {"rope_parameters": LLAMA3_ROPE}, "llama3"),
    ],
)
def test_what_llama_cpp_could_not_follow_is_refused(
    family: str, options: dict[str, Any], changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = edited(decoder(tmp_path / "hf", family, **options), changes)
    with pytest.raises(ModelError, match=said):
        open_folder(folder)


def rename_weights(path: Path, prefix: str, new: str, add: str) -> None:
    """Rewrite the header of a safetensors file, with one more tensor that shares another's bytes."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    renamed = {k.replace(prefix, new, 1) if k.startswith(prefix) else k: v for k, v in header.items()}
    renamed[add] = next(v for k, v in header.items() if k != "__metadata__")
    text = json.dumps(renamed).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
