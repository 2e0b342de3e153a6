"""Every architecture that is claimed, in F16 and with the tokenizers its models come with: the same tokens as in
transformers, and the same logits or embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foreshore.edge import EngineOptions, LocalBackend
from foreshore.quantize.convert.convert import open_folder
from foreshore.quantize.convert.families import FAMILIES
from foreshore.quantize.source import bundled
from foreshore.types import Request
from tests.quantize.llama_check import logits
from tests.quantize.tiny_models import (
    GRANITE4,
    LLAMA3_ROPE,
    bert,
    decoder,
    distil_bert,
    gemma3_vision,
    modern_bert,
    roberta,
    xlm_roberta,
)
from tests.quantize.tiny_tokenizers import CONTROLS, HOSTILE, MARKS, WORDS
from tests.quantize.transformers_check import IDS, check_embeddings, check_tokens, converted, fast, reference, scores

LONG = "The quick brown fox jumps over the lazy dog, " * 3  # more tokens than a window has
TOLERANCE = 1e-2  # of the largest logit; llama.cpp rounds what it multiplies F16 weights by to F16 too
GEMMA: dict[str, Any] = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 32}
GRANITE = {
    "attention_multiplier": 0.3,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0 + i / 2 for i in range(8)],
    "long_factor": [2.0**i for i in range(8)],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    model: str  # as people call it
    architecture: str
    tokens: str
    options: dict[str, Any]

    def make(self, folder: Path) -> Path:
        family = self.architecture.removesuffix("ForCausalLM")
        if self.architecture == "Gemma3ForConditionalGeneration":
            return gemma3_vision(folder, torch.float16, **self.options)
        return decoder(folder, family, dtype=torch.float16, tokens=self.tokens, **self.options)

    def __str__(self) -> str:
        return f"{self.model}-{self.tokens}"


def case(model: str, architecture: str, tokens: str, **options: Any) -> Case:
    return Case(model=model, architecture=architecture, tokens=tokens, options=options)


DECODERS = [
    case("Llama 2", "LlamaForCausalLM", "llama"),
    case("Llama 3", "LlamaForCausalLM", "llama-bpe", rope_parameters=LLAMA3_ROPE, head_dim=32),
    case("SmolLM", "LlamaForCausalLM", "smollm", tie_word_embeddings=True),
    case("MiniCPM5", "LlamaForCausalLM", "minicpm5"),
    case("GPT-2's", "LlamaForCausalLM", "gpt-2"),
    case("Mistral", "MistralForCausalLM", "llama", sliding_window=None),
    case("Mistral Nemo", "MistralForCausalLM", "tekken", sliding_window=None, head_dim=32),
    case("Qwen2", "Qwen2ForCausalLM", "qwen2"),
    case("Qwen2.5", "Qwen2ForCausalLM", "qwen2", tie_word_embeddings=True, rope_theta=1000000.0),
    case("Qwen3", "Qwen3ForCausalLM", "qwen2", head_dim=32, tie_word_embeddings=True),
    case("Qwen3's, marks in words", "Qwen3ForCausalLM", "qwen35", head_dim=32),
    case("Gemma 2", "Gemma2ForCausalLM", "gemma", **GEMMA),
    case("Gemma 3", "Gemma3ForCausalLM", "gemma", **GEMMA, num_hidden_layers=7),
    case("Gemma 3 with images", "Gemma3ForConditionalGeneration", "gemma", **GEMMA, num_hidden_layers=7),
    case("Phi-3", "Phi3ForCausalLM", "phi3", rope_scaling=LONGROPE, original_max_position_embeddings=64),
    case("Phi-4", "Phi3ForCausalLM", "smaug-bpe", sliding_window=None),
    case("Phi-4-mini", "Phi3ForCausalLM", "gpt-4o", tie_word_embeddings=True),
    case("Granite", "GraniteForCausalLM", "smollm", **GRANITE),
    case("Granite 4", "GraniteMoeHybridForCausalLM", "smollm", **GRANITE, **GRANITE4, tie_word_embeddings=True),
    case("SmolLM3", "SmolLM3ForCausalLM", "llama-bpe", num_hidden_layers=5),
]
ENCODERS: dict[str, tuple[Callable[..., Path], str]] = {
    "BertModel": (bert, "bert"),
    "BertForMaskedLM": (bert, "bert"),
    "DistilBertModel": (distil_bert, "bert"),
    "DistilBertForMaskedLM": (distil_bert, "bert"),
    "ModernBertModel": (modern_bert, "modern-bert"),
    "ModernBertForMaskedLM": (modern_bert, "modern-bert"),
    "RobertaModel": (roberta, "roberta"),
    "RobertaForMaskedLM": (roberta, "roberta"),
    "XLMRobertaModel": (xlm_roberta, "xlm-roberta"),
    "XLMRobertaForMaskedLM": (xlm_roberta, "xlm-roberta"),
}
RANKERS: dict[str, Callable[..., Path]] = {
    "RobertaForSequenceClassification": roberta,
    "XLMRobertaForSequenceClassification": xlm_roberta,
}


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """ModernBERT's code asks torch for a compiler when it is imported, which takes longer than all its tests."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


def test_every_architecture_that_is_claimed_is_tested() -> None:
    assert {c.architecture for c in DECODERS} | set(ENCODERS) | set(RANKERS) == set(FAMILIES)


@pytest.mark.parametrize("model", DECODERS, ids=str)
def test_a_decoder_reads_and_answers_as_in_transformers(model: Case, tmp_path: Path) -> None:
    folder = model.make(tmp_path / "hf")
    info = converted(folder, tmp_path)
    texts = [*HOSTILE, *CONTROLS.get(model.tokens, ())]
    check_tokens(info.path, fast(folder), [t for t in texts if model.tokens != "tekken" or t not in MARKS])
    expected = reference(folder, IDS)
    assert np.abs(logits(info.path, IDS) - expected).max() < TOLERANCE * np.abs(expected).max()


def test_where_llama_cpp_cuts_by_a_simpler_rule_it_is_said(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "hf", "Mistral", tokens="tekken", sliding_window=None)
    assert any("marks" in note for note in open_folder(folder).notes)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_an_encoder_reads_and_embeds_as_in_transformers(architecture: str, tmp_path: Path) -> None:
    make, tokens = ENCODERS[architecture]
    folder = make(tmp_path / "hf", architecture=architecture)
    info = converted(folder, tmp_path)
    check_tokens(info.path, fast(folder), [*(WORDS if tokens == "bert" else HOSTILE), *CONTROLS[tokens]])
    check_embeddings(
        folder, info.path, ["Hello, quick brown World!", "naïve café 12", "def f(x):\n    return x**2", LONG]
    )


@pytest.mark.parametrize("architecture", RANKERS)
def test_a_ranker_scores_as_in_transformers(architecture: str, tmp_path: Path) -> None:
    folder = RANKERS[architecture](tmp_path / "hf", architecture=architecture)
    info = converted(folder, tmp_path)
    query, documents = "the quick fox", ("jumps over the lazy dog", "1234567890 times", "def f(x): return x")
    assert asyncio.run(ranked(info.path, query, documents)) == pytest.approx(scores(folder, query, documents), abs=0.01)


async def ranked(model: Path, query: str, documents: tuple[str, ...]) -> list[float]:
    backend = LocalBackend(model, options=EngineOptions(threads=1))
    try:
        chunks = [chunk async for chunk in backend.stream(Request(task="rerank", query=query, inputs=documents))]
    finally:
        await backend.close()
    found = {chunk.index: chunk.score for chunk in chunks if chunk.score is not None}
    return [found[i] for i in range(len(documents))]


@pytest.mark.parametrize("name", sorted(bundled()))
def test_a_starter_reads_and_answers_as_in_transformers(name: str, tmp_path: Path) -> None:
    folder = bundled()[name]
    info = converted(folder, tmp_path)
    check_tokens(info.path, fast(folder), HOSTILE)
    ids = list(fast(folder)("Who sailed in the harbour on Tuesday? <|im_start|>12 + 30<|im_end|>")["input_ids"])
    expected = reference(folder, ids)
    assert np.abs(logits(info.path, ids) - expected).max() < TOLERANCE * np.abs(expected).max()
