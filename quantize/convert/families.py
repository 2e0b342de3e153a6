"""The model families that can be converted, by the architecture that config.json names."""

from __future__ import annotations

from collections.abc import Mapping

from foreshore.errors import ModelError
from foreshore.quantize.convert.family import Family
from foreshore.quantize.convert.family_bert import BERT, DISTILBERT, ROBERTA, ROBERTA_RANKER
from foreshore.quantize.convert.family_gemma import GEMMA2, GEMMA3, GEMMA3_VISION
from foreshore.quantize.convert.family_llama import GRANITE, GRANITE4, LLAMA, QWEN2, QWEN3, SMOLLM3
from foreshore.quantize.convert.family_modern_bert import MODERN_BERT
from foreshore.quantize.convert.family_phi import PHI3
from foreshore.quantize.convert.hf_config import Config

__all__ = ["FAMILIES", "family_of"]

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
    "Gemma2ForCausalLM": GEMMA2,
    "Gemma3ForCausalLM": GEMMA3,
    "Gemma3ForConditionalGeneration": GEMMA3_VISION,
    "Phi3ForCausalLM": PHI3,
    "GraniteForCausalLM": GRANITE,
    "GraniteMoeHybridForCausalLM": GRANITE4,
    "SmolLM3ForCausalLM": SMOLLM3,
    "BertModel": BERT,
    "BertForMaskedLM": BERT,
    "RobertaModel": ROBERTA,
    "RobertaForMaskedLM": ROBERTA,
    "RobertaForSequenceClassification": ROBERTA_RANKER,
    "XLMRobertaModel": ROBERTA,
    "XLMRobertaForMaskedLM": ROBERTA,
    "XLMRobertaForSequenceClassification": ROBERTA_RANKER,
    "DistilBertModel": DISTILBERT,
    "DistilBertForMaskedLM": DISTILBERT,
    "ModernBertModel": MODERN_BERT,
    "ModernBertForMaskedLM": MODERN_BERT,
}


def family_of(config: Config) -> Family:
    """Raises `ModelError` that lists what is supported."""
    name = str(next(iter(config.get("architectures") or ()), "unknown"))
    if name not in FAMILIES:
        raise ModelError(
            f"models of the architecture {name!r} cannot be converted",
            hint=f"supported are {', '.join(FAMILIES)}; any architecture that llama.cpp runs can be given as .gguf",
        )
    return FAMILIES[name]
