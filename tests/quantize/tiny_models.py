"""Tiny random models of each family, in Hugging Face layout, for the conversion tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import processors

from tests.quantize.tiny_tokenizers import CORPUS, TOKENIZERS, byte_level, pieces, save_tokenizer, word_piece

__all__ = [
    "CORPUS",
    "bert",
    "byte_level",
    "decoder",
    "distil_bert",
    "edited",
    "gemma3_vision",
    "modern_bert",
    "roberta",
    "save_tokenizer",
    "xlm_roberta",
]

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
GRANITE4 = {
    "layer_types": ["attention"] * 2,
    "num_local_experts": 0,
    "position_embedding_type": "rope",
    "shared_intermediate_size": 96,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}


def decoder(
    folder: Path,
    family: str,
    *,
    dtype: torch.dtype = torch.float32,
    tokens: str = "qwen2",
    shard: str = "1GB",
    **extra: Any,
) -> Path:
    """Save a random model of `family` (Llama, Qwen2, Gemma3, ...) with the tokenizer `tokens`; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    end = TOKENIZERS[tokens](folder)
    settings = {**SIZES, "vocab_size": 640, "num_key_value_heads": 2, "eos_token_id": end, "bos_token_id": None}
    settings |= {"pad_token_id": None}
    kind = {"Gemma3": "Gemma3Text"}.get(family, family)
    config = getattr(transformers, f"{kind}Config")(**{**settings, **_rope_as_spoken_here(extra)})
    return _random(getattr(transformers, f"{family}ForCausalLM"), config, folder, dtype, shard)


def edited(folder: Path, changes: dict[str, Any], file: str = "config.json") -> Path:
    """The folder, with some entries of a JSON file changed."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def _rope_as_spoken_here(options: dict[str, Any]) -> dict[str, Any]:
    """transformers before 5 takes `rope_theta` and `rope_scaling` instead of `rope_parameters`, and ignores these."""
    if "rope_parameters" not in options or int(transformers.__version__.partition(".")[0]) >= 5:
        return options
    rope = dict(options["rope_parameters"])
    rest = {name: value for name, value in options.items() if name != "rope_parameters"}
    return {**rest, "rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}


def gemma3_vision(folder: Path, dtype: torch.dtype = torch.float32, **extra: Any) -> Path:
    """Gemma 3 with its image encoder, as the 4B and larger are saved."""
    folder.mkdir(parents=True, exist_ok=True)
    end = TOKENIZERS["gemma"](folder)
    text = {**SIZES, "vocab_size": 640, "num_key_value_heads": 2, "eos_token_id": end, **extra}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    return _random(transformers.Gemma3ForConditionalGeneration, config, folder, dtype)


def bert(folder: Path, *, lowercase: bool = True, architecture: str = "BertModel") -> Path:
    tokenizer = word_piece(lowercase)
    save_tokenizer(tokenizer, folder, **BERT_NAMES)
    return _encoder(folder, architecture, {**SIZES, "vocab_size": tokenizer.get_vocab_size()})


def distil_bert(folder: Path, architecture: str = "DistilBertModel") -> Path:
    tokenizer = word_piece(lowercase=True)
    save_tokenizer(tokenizer, folder, **BERT_NAMES)
    sizes = {"dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 256}
    return _encoder(folder, architecture, {**sizes, "vocab_size": tokenizer.get_vocab_size()})


def roberta(folder: Path, architecture: str = "RobertaModel") -> Path:
    """Byte-level BPE, positions counted from the padding token's id on, one token type."""
    tokenizer = byte_level("gpt-2")
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>", "<mask>"])
    ends = [(text, tokenizer.token_to_id(text)) for text in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    save_tokenizer(tokenizer, folder, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>")
    return _encoder(folder, architecture, {**SIZES, **ROBERTA, "vocab_size": 640})


def xlm_roberta(folder: Path, architecture: str = "XLMRobertaModel") -> Path:
    """SentencePiece's Unigram with its compiled normalization."""
    file = pieces(folder / "sentencepiece.bpe.model", "unigram", vocab_size=260, normalization_rule_name="nmt_nfkc")
    tokenizer = transformers.XLMRobertaTokenizerFast(vocab_file=str(file))
    tokenizer.save_pretrained(folder)
    return _encoder(folder, architecture, {**SIZES, **ROBERTA, "vocab_size": len(tokenizer)})


def modern_bert(folder: Path, architecture: str = "ModernBertModel") -> Path:
    """Byte-level BPE between BERT's marks; a window smaller than the tests' texts."""
    tokenizer = byte_level("gpt-2")
    tokenizer.add_special_tokens(list(BERT_NAMES.values()))
    ends = [(text, tokenizer.token_to_id(text)) for text in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    save_tokenizer(tokenizer, folder, **BERT_NAMES)
    marks = {f"{name}_id": tokenizer.token_to_id(text) for name, text in BERT_NAMES.items()}
    rest = {"vocab_size": 640, "local_attention": 16, "global_rope_theta": 5000.0, "local_rope_theta": 100.0}
    return _encoder(folder, architecture, {**SIZES, **marks, **rest, "num_hidden_layers": 4})


BERT_NAMES = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}
ROBERTA = {"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5}


def _encoder(folder: Path, architecture: str, settings: dict[str, Any]) -> Path:
    kind = architecture.removesuffix("Model").removesuffix("ForMaskedLM").removesuffix("ForSequenceClassification")
    config = getattr(transformers, f"{kind}Config")(**settings, num_labels=1)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.parent.mkdir(parents=True)
    pooling.write_text(json.dumps({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}))
    return _random(getattr(transformers, architecture), config, folder)


def _random(model: Any, config: Any, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "1GB") -> Path:
    """Every weight is moved, norms and biases too: their defaults would hide a mix-up."""
    torch.manual_seed(1)
    made = model(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    made.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder
