"""Sources that are broken, incomplete or unusual: what is wrong is named, and what is only unusual works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreshore.errors import ModelError
from foreshore.quantize.convert.convert import convert, open_folder
from foreshore.quantize.convert.weights import unbounded, weight_files
from tests.quantize.llama_check import logits
from tests.quantize.tiny_models import bert, decoder
from tests.quantize.transformers_check import IDS, check_tokens, converted, fast, reference

WIDTH = {"F32": 4, "F16": 2, "BF16": 2}  # bytes
NAN = {"F32": 0x7FC00000, "F16": 0x7E00, "BF16": 0x7FC0}
INFINITY = {"F32": 0xFF800000, "F16": 0xFC00, "BF16": 0xFF80}


def poison(folder: Path, name: str, index: int, bits: dict[str, int]) -> None:
    """Put one value into a weight, in whatever type it has."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + size])[name]
    width = WIDTH[entry["dtype"]]
    at = 8 + size + entry["data_offsets"][0] + (index % np.prod(entry["shape"])) * width
    data[at : at + width] = bits[entry["dtype"]].to_bytes(width, "little")
    path.write_bytes(data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [NAN, INFINITY])
@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("model.embed_tokens.weight", 0),
        ("model.layers.1.mlp.down_proj.weight", -1),
        ("model.layers.0.input_layernorm.weight", 5),  # becomes float32
        ("model.layers.0.self_attn.q_proj.weight", 77),  # is permuted
    ],
)
def test_a_value_that_is_not_finite_is_named(
    dtype: torch.dtype, bits: dict[str, int], name: str, index: int, tmp_path: Path
) -> None:
    folder = decoder(tmp_path / "hf", "Llama", dtype=dtype)
    poison(folder, name, index, bits)
    source = open_folder(folder)
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        convert(source, tmp_path / "out.gguf", "tiny", lambda done: None)


@given(st.lists(st.floats(width=16), min_size=1, max_size=50))
def test_unbounded_agrees_with_numpy(values: list[float]) -> None:
    halves = np.array(values, dtype=np.float16)
    expected = not np.isfinite(halves).all()
    assert unbounded(halves) == expected
    singles = halves.astype(np.float32)
    assert unbounded(singles) == expected
    assert unbounded((singles.view(np.uint32) >> 16).astype(np.uint16)) == expected  # as BF16


def test_shared_weights_that_were_saved_twice_are_written_once(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama", tie_word_embeddings=True)
    once = converted(folder, tmp_path).path.read_bytes()
    add_head(folder / "model.safetensors")
    assert converted(folder, tmp_path).path.read_bytes() == once


def add_head(path: Path) -> None:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["lm_head.weight"] = header["model.embed_tokens.weight"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def test_a_head_that_is_missing_is_explained(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama", tie_word_embeddings=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(ModelError, match=r"output\.weight") as caught:
        open_folder(folder)
    assert "tie_word_embeddings" in str(caught.value.hint)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["Llama", "Gemma3", "Phi3", "Granite", "SmolLM3", "Qwen3"])
def test_shards_with_and_without_shared_weights_are_joined(family: str, tied: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"query_pre_attn_scalar": 16, "head_dim": 16} if family == "Gemma3" else {}
    folder = decoder(tmp_path / "hf", family, shard="60KB", tie_word_embeddings=tied, **options)
    assert len(list(folder.glob("*.safetensors"))) > 2
    expected = reference(folder, IDS[:20])
    ours = logits(converted(folder, tmp_path).path, IDS[:20])
    assert np.abs(ours - expected).max() < 4e-3 * np.abs(expected).max()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama", shard="100KB")
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ModelError, match=gone.name):
        open_folder(folder)


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama", shard="100KB")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(ModelError, match=r"index\.json"):
        open_folder(folder)


def test_a_source_without_a_tokenizer_says_what_is_needed(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"neither tokenizer\.json nor tokenizer\.model") as caught:
        open_folder(folder)
    assert "save_pretrained" in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["WordLevel", "Unknown", None])
def test_an_unknown_tokenizer_is_named(kind: str | None, tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama")
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "model": {"type": kind, "vocab": {}}}))
    with pytest.raises(ModelError, match=f"a {kind or 'unknown'} model"):
        open_folder(folder)


def test_an_index_of_nothing_is_named(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(ModelError, match="lists no files"):
        open_folder(folder)


def test_the_same_weights_in_another_layout_are_left_alone(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama")
    (folder / "consolidated.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert [p.name for p in weight_files(folder)] == ["model.safetensors"]
    assert open_folder(folder).weights


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"type": "sentence_transformers.models.Pooling"}, {"type": "sentence_transformers.models.Dense"}]', "Dense"),
        ('{"type": "x"}', "no list of steps"),
        ("[1]", "no list of steps"),
        ("[", "not JSON"),
    ],
)
def test_a_step_after_the_encoder_that_would_be_lost_is_named(content: str, said: str, tmp_path: Path) -> None:
    folder = bert(tmp_path / "hf")
    (folder / "modules.json").write_text(content)
    with pytest.raises(ModelError, match=said):
        open_folder(folder)


def test_a_chat_template_that_is_no_text_is_named(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama")
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"chat_template\.jinja"):
        open_folder(folder)


def added_ids(folder: Path) -> dict[str, int]:
    return {t["content"]: t["id"] for t in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}


def framed(folder: Path, *names: str) -> Path:
    """Have encoding put `names` around a text; TEXT stands for it."""
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    ids = added_ids(folder)
    text = {"Sequence": {"id": "A", "type_id": 0}}
    single = [text if name == "TEXT" else {"SpecialToken": {"id": name, "type_id": 0}} for name in names]
    tokens = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in names if name != "TEXT"}
    value["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": tokens}
    path.write_text(json.dumps(value))
    return folder


def test_two_tokens_before_a_text_are_refused(tmp_path: Path) -> None:
    folder = framed(decoder(tmp_path / "hf", "Qwen3", head_dim=32), "<|im_start|>", "<|endoftext|>", "TEXT")
    with pytest.raises(ModelError, match="before"):
        open_folder(folder)


def test_the_token_behind_a_text_is_the_end_and_the_other_ends_an_answer_too(tmp_path: Path) -> None:
    """As in Qwen3's embedding models, whose texts end with another token than their answers."""
    folder = framed(decoder(tmp_path / "hf", "Qwen3", head_dim=32), "TEXT", "<|endoftext|>")
    info = converted(folder, tmp_path)
    check_tokens(info.path, fast(folder), ["Hello, world!", "<|im_start|>a<|im_end|>"])
    ids = added_ids(folder)
    assert info.get("tokenizer.ggml.eos_token_id") == ids["<|endoftext|>"]
    assert info.get("tokenizer.ggml.eot_token_id") == ids["<|im_end|>"]
