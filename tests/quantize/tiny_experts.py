"""Writes a small mixture-of-experts GGUF with random weights: Llama-shaped, some experts asked for each token."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from tests import tiny_model


def write_experts(
    path: Path, *, seed: int = 0, width: int = 64, inner: int = 32, experts: int = 6, used: int = 2
) -> Path:
    rng = np.random.default_rng(seed)
    tokens, types = tiny_model._bpe_vocab()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-experts")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(used)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(tiny_model.MERGES))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(True)
    for name, shape in {
        "token_embd": (len(tokens), width),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width, width),
        "blk.0.attn_v": (width, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate_inp": (experts, width),
        "blk.0.ffn_gate_exps": (experts, inner, width),
        "blk.0.ffn_up_exps": (experts, inner, width),
        "blk.0.ffn_down_exps": (experts, width, inner),
    }.items():
        writer.add_tensor(f"{name}.weight", rng.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    return tiny_model._finish(writer, path)
