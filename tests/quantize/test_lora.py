"""A converted adapter does in llama.cpp what PEFT's does: the logits are those of the merged model."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from foreshore.errors import ModelError, UsageError
from foreshore.quantize.convert.convert import convert, open_folder
from foreshore.quantize.convert.lora import convert_lora
from tests.quantize.llama_check import opened
from tests.quantize.tiny_adapters import MATRICES, PREFIX, adapter, merged, merged_logits
from tests.quantize.tiny_models import GRANITE4, bert, decoder
from tests.quantize.transformers_check import IDS, converted, fast

GEMMA3 = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 32}


def adapted(model: Path, lora: Path | None) -> NDArray[np.float32]:
    with opened(model, logits_all=True) as llama:
        if lora is not None:
            applied(llama, lora)
        llama.eval(IDS)
        return np.array(llama.scores[: len(IDS)], dtype=np.float32)


def applied(llama: llama_cpp.Llama, lora: Path) -> None:
    loaded = llama_cpp.llama_adapter_lora_init(llama.model, os.fsencode(lora))
    assert loaded
    llama_cpp.llama_set_adapters_lora(llama.ctx, (type(loaded) * 1)(loaded), 1, (ctypes.c_float * 1)(1.0))


def distance(ours: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    ("family", "options", "modules", "settings"),
    [
        ("Llama", {}, MATRICES, {}),
        ("Llama", {}, ["q_proj", "k_proj", "lm_head"], {"rank": 1}),
        ("Llama", {"head_dim": 32}, ["q_proj", "v_proj"], {"use_rslora": True}),
        ("Llama", {}, MATRICES, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3, "k_proj": 5}}),
        ("Llama", {}, MATRICES, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True}),
        ("Llama", {}, MATRICES, {"dtype": torch.bfloat16}),
        ("Qwen2", {}, MATRICES, {}),
        ("Qwen3", {"head_dim": 32}, MATRICES, {}),
        ("Gemma2", GEMMA3, MATRICES, {}),
        ("Gemma3", GEMMA3, MATRICES, {}),
        ("Phi3", {}, ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], {}),
        ("Granite", {"residual_multiplier": 0.5}, MATRICES, {}),
        ("GraniteMoeHybrid", GRANITE4, ["q_proj", "input_linear", "output_linear"], {}),
        ("SmolLM3", {}, MATRICES, {}),
    ],
)
def test_logits_equal_those_of_the_merged_model(
    family: str, options: dict[str, Any], modules: list[str], settings: dict[str, Any], tmp_path: Path
) -> None:
    base = decoder(tmp_path / "hf", family, **options)
    folder = adapter(tmp_path / "lora", base, modules, **settings)
    made = convert_lora(folder, base, tmp_path / "lora.gguf")
    model = tmp_path / "base.gguf"
    convert(open_folder(base), model, "tiny", lambda done: None)
    expected = merged_logits(base, folder, IDS)
    # llama.cpp rounds what it multiplies BF16 matrices by to BF16 too.
    assert distance(adapted(model, made.path), expected) < (2e-2 if "dtype" in settings else 4e-3)
    assert distance(adapted(model, None), expected) > 5e-2  # the adapter does change the model
    again = convert_lora(folder, model, tmp_path / "from_gguf.gguf")
    assert again.path.read_bytes() == made.path.read_bytes()


def test_an_adapted_encoder_embeds_as_the_merged_model(tmp_path: Path) -> None:
    base = bert(tmp_path / "hf")
    folder = adapter(tmp_path / "lora", base, ["query", "key", "value"])
    model = converted(base, tmp_path).path
    made = convert_lora(folder, base, tmp_path / "lora.gguf")
    text = "Hello, quick brown World!"
    with torch.no_grad():
        hidden = merged(base, folder)(torch.tensor([fast(base)(text)["input_ids"]])).last_hidden_state[0]
    expected = hidden.mean(dim=0).numpy()
    with opened(model, embedding=True) as llama:
        plain = np.array(llama.embed(text), dtype=np.float32)
        applied(llama, made.path)
        ours = np.array(llama.embed(text), dtype=np.float32)
    assert cosine(ours, expected) > 0.9995 > cosine(plain, expected)


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_precision_is_kept(tmp_path: Path) -> None:
    base = decoder(tmp_path / "hf", "Llama")
    folder = adapter(tmp_path / "lora", base, ["q_proj"], dtype=torch.float16)
    made = convert_lora(folder, base, tmp_path / "lora.gguf")
    assert {t.type for t in made.tensors} == {"f16"}
    assert made.get("adapter.lora.alpha") == 16


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"use_dora": True}, "use_dora True"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out True"),
        ({"bias": "all"}, "bias 'all'"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"lora_alpha": 0}, "alpha 0"),
        ({"lora_alpha": "many"}, "'many'"),
        ({"r": None}, "None"),
        ({"alpha_pattern": {"q_proj": -1}}, "-1"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
        ({"alpha_pattern": {"(": 1}}, "damaged pattern"),
        ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16"),
        ({"init_lora_weights": "olora"}, "changes the weights of its base"),
    ],
)
def test_what_is_not_a_plain_lora_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    base = decoder(tmp_path / "hf", "Llama")
    folder = adapter(tmp_path / "lora", base, ["q_proj"], **changes)
    with pytest.raises(ModelError, match=said):
        convert_lora(folder, base, tmp_path / "lora.gguf")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"0.self_attn.q_proj.lora_A.weight": (4, 64)}, "lora_A alone"),
        ({"9.self_attn.q_proj.lora_A.weight": (4, 64), "9.self_attn.q_proj.lora_B.weight": (64, 4)}, "does not have"),
        ({"0.self_attn.q_proj.lora_A.weight": (4, 32), "0.self_attn.q_proj.lora_B.weight": (64, 4)}, "the base's"),
        ({"0.self_attn.q_proj.lora_A.weight": (4, 64), "0.self_attn.q_proj.lora_B.weight": (64, 2)}, "the base's"),
        ({"0.self_attn.q_proj.lora_A.weight": (4,)}, "not a matrix"),
        ({"0.embed_tokens.lora_embedding_A": (4, 640)}, "no part of a plain LoRA"),
        ({"0.self_attn.q_proj.lora_magnitude_vector.weight": (64,)}, "no part of a plain LoRA"),
        ({}, "no tensors"),
    ],
)
def test_tensors_that_fit_nowhere_are_named(tensors: dict[str, tuple[int, ...]], said: str, tmp_path: Path) -> None:
    base = decoder(tmp_path / "hf", "Llama")
    folder = adapter(tmp_path / "lora", base, ["q_proj"])
    made = {f"{PREFIX}model.layers.{name}": torch.zeros(shape) for name, shape in tensors.items()}
    save_file(made, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=said):
        convert_lora(folder, base, tmp_path / "lora.gguf")


def test_a_head_that_shares_the_embedding_takes_no_adapter(tmp_path: Path) -> None:
    untied = decoder(tmp_path / "untied", "Llama")
    folder = adapter(tmp_path / "lora", untied, ["lm_head"])
    tied = decoder(tmp_path / "tied", "Llama", tie_word_embeddings=True)
    with pytest.raises(ModelError, match="lm_head"):
        convert_lora(folder, tied, tmp_path / "lora.gguf")


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    base = decoder(tmp_path / "hf", "Llama")
    folder = adapter(tmp_path / "lora", base, ["q_proj"])
    half = PREFIX + "model.layers.0.self_attn.q_proj.lora_"
    bad = {f"{half}A.weight": torch.full((4, 64), float("nan")), f"{half}B.weight": torch.zeros(64, 4)}
    save_file(bad, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"q_proj\.lora_A\.weight"):
        convert_lora(folder, base, tmp_path / "lora.gguf")


def test_missing_files_are_named(tmp_path: Path) -> None:
    base = decoder(tmp_path / "hf", "Llama")
    folder = adapter(tmp_path / "lora", base, ["q_proj"])
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        convert_lora(folder, base, tmp_path / "lora.gguf")
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        convert_lora(folder, base, tmp_path / "lora.gguf")


@pytest.mark.parametrize("how", [True, "gaussian", "eva"])
def test_beginnings_that_leave_the_base_alone_are_taken(how: bool | str, tmp_path: Path) -> None:
    base = decoder(tmp_path / "hf", "Llama")
    folder = adapter(tmp_path / "lora", base, ["q_proj"], init_lora_weights=how)
    assert convert_lora(folder, base, tmp_path / "lora.gguf").tensors


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    base = decoder(tmp_path / "hf", "Llama")
    folder = adapter(tmp_path / "lora", base, ["q_proj"])
    made = convert_lora(folder, base, tmp_path / "out" / "lora.gguf").path
    before = made.read_bytes()
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("inf")
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="NaN or infinite"):
        convert_lora(folder, base, made)
    assert made.read_bytes() == before
    assert [p.name for p in made.parent.iterdir()] == ["lora.gguf"]
    with pytest.raises(UsageError, match="is a folder"):
        convert_lora(folder, base, tmp_path)
