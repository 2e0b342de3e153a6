"""A cross-encoder with random weights, once as transformers' own and once as a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

WORDS = ["hello", "world", "the", "cat", "sat", "dog", "ran"]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *("▁" + word for word in WORDS)]
CLS, SEP = 2, 3
WIDTH, INNER, LAYERS, HEADS, CONTEXT = 32, 64, 2, 4, 64
CONTROL, UNKNOWN, NORMAL = 3, 2, 1


def token(word: str) -> int:
    return TOKENS.index("▁" + word)


def torch_ranker(seed: int = 0) -> Any:
    """transformers' `BertForSequenceClassification` with one label."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(TOKENS), hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=INNER, max_position_embeddings=CONTEXT, num_labels=1, hidden_act="gelu_pytorch_tanh",
        initializer_range=0.5,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def torch_score(model: Any, query: list[str], document: list[str]) -> float:
    import torch

    tokens = [CLS, *map(token, query), SEP, *map(token, document), SEP]
    with torch.no_grad():
        return float(model(input_ids=torch.tensor([tokens])).logits[0, 0])


def write_ranker(path: Path, model: Any) -> Path:
    """`model` as llama.cpp reads it: architecture bert, pooling type rank, the head as `cls`."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("tiny-ranker")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_file_type(0)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(TOKENS)
    writer.add_token_types([CONTROL, UNKNOWN, CONTROL, CONTROL, CONTROL] + [NORMAL] * len(WORDS))
    writer.add_token_type_count(2)
    for name, index in {"padding": 0, "unknown": 1, "cls": CLS, "seperator": SEP, "mask": 4, "bos": CLS}.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", index)
    for name, value in model.state_dict().items():
        if (known := _name(name)) is not None:
            writer.add_tensor(known, value.numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_NAMES = {
    "bert.embeddings.word_embeddings": "token_embd",
    "bert.embeddings.position_embeddings": "position_embd",
    "bert.embeddings.token_type_embeddings": "token_types",
    "bert.embeddings.LayerNorm": "token_embd_norm",
    "bert.pooler.dense": "cls",
    "classifier": "cls.output",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def _name(name: str) -> str | None:
    stem, _, kind = name.rpartition(".")
    if stem.startswith("bert.encoder.layer."):
        number, _, rest = stem.removeprefix("bert.encoder.layer.").partition(".")
        return f"blk.{number}.{_NAMES[rest]}.{kind}"
    return f"{_NAMES[stem]}.{kind}" if stem in _NAMES else None
