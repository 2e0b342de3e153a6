"""Writes small GGUF files with random weights: real architecture, real tokenizer, no skill."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

CONTROL, NORMAL, USER_DEFINED, UNKNOWN = 3, 1, 4, 2
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
MERGES = ("h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "Ġ Ġ", "i n", "t h", "th e")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_decoder(
    path: Path,
    *,
    seed: int = 0,
    template: str | None = TEMPLATE,
    context: int = 1024,
    layers: int = 2,
    width: int = 64,
    never: tuple[str, ...] = (),
) -> Path:
    """A Qwen2-shaped decoder over byte-level BPE with ChatML tokens; greedily it writes none of `never`."""
    rng = np.random.default_rng(seed)
    heads, kv_heads, inner = 4, 2, 2 * width
    writer, tokens = _generator(path, "qwen2", context=context, width=width, layers=layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    if template is not None:
        writer.add_chat_template(template)

    def weight(*shape: int) -> np.ndarray:
        return rng.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32)

    kv = width * kv_heads // heads
    writer.add_tensor("token_embd.weight", weight(len(tokens), width))
    output = 4 * weight(len(tokens), width)
    output[[tokens.index(t) for t in never]] = 0
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for i in range(layers):
        for name, shape in {
            "attn_q.weight": (width, width),
            "attn_k.weight": (kv, width),
            "attn_v.weight": (kv, width),
            "attn_output.weight": (width, width),
            "ffn_gate.weight": (inner, width),
            "ffn_up.weight": (inner, width),
            "ffn_down.weight": (width, inner),
        }.items():
            writer.add_tensor(f"blk.{i}.{name}", weight(*shape))
        for name, size in {"attn_q.bias": width, "attn_k.bias": kv, "attn_v.bias": kv}.items():
            writer.add_tensor(f"blk.{i}.{name}", np.zeros(size, np.float32))
        for name in ("attn_norm.weight", "ffn_norm.weight"):
            writer.add_tensor(f"blk.{i}.{name}", np.ones(width, np.float32))
    return _finish(writer, path)


def write_recurrent(path: Path, *, seed: int = 0, context: int = 1024, layers: int = 2, width: int = 64) -> Path:
    """A Mamba over the same tokens: of all that it read it keeps one state."""
    rng = np.random.default_rng(seed)
    inner, state, kernel, rank = 2 * width, 16, 4, 4
    writer, tokens = _generator(path, "mamba", context=context, width=width, layers=layers)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-6)

    def weight(*shape: int) -> np.ndarray:
        return rng.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32)

    writer.add_tensor("token_embd.weight", weight(len(tokens), width))
    writer.add_tensor("output.weight", 4 * weight(len(tokens), width))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for i in range(layers):
        for name, tensor in {
            "attn_norm.weight": np.ones(width, np.float32),
            "ssm_in.weight": weight(2 * inner, width),
            "ssm_conv1d.weight": weight(inner, kernel),
            "ssm_conv1d.bias": np.zeros(inner, np.float32),
            "ssm_x.weight": weight(rank + 2 * state, inner),
            "ssm_dt.weight": weight(inner, rank),
            "ssm_dt.bias": np.zeros(inner, np.float32),
            "ssm_a": -np.tile(np.arange(1, state + 1, dtype=np.float32), (inner, 1)),
            "ssm_d": np.ones(inner, np.float32),
            "ssm_out.weight": weight(width, inner),
        }.items():
            writer.add_tensor(f"blk.{i}.{name}", tensor)
    return _finish(writer, path)


def write_parallel(path: Path, *, seed: int = 0, context: int = 1024, layers: int = 2, width: int = 64) -> Path:
    """A Phi-2 over the same tokens: attention and feed-forward of a layer read the same, and are added side by side."""
    rng = np.random.default_rng(seed)
    inner = 2 * width
    writer, tokens = _generator(path, "phi2", context=context, width=width, layers=layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_eps(1e-5)
    writer.add_rope_dimension_count(8)

    def linear(name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        values = rng.normal(0, scale / np.sqrt(columns), (rows, columns))
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(rows, np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(width, np.float32))

    writer.add_tensor("token_embd.weight", rng.normal(0, 1 / np.sqrt(width), (len(tokens), width)).astype(np.float32))
    linear("output", len(tokens), width, 4.0)
    norm("output_norm")
    for i in range(layers):
        norm(f"blk.{i}.attn_norm")
        linear(f"blk.{i}.attn_qkv", 3 * width, width)
        linear(f"blk.{i}.attn_output", width, width)
        linear(f"blk.{i}.ffn_up", inner, width)
        linear(f"blk.{i}.ffn_down", width, inner)
    return _finish(writer, path)


def write_adapter(path: Path, *, seed: int = 1, layers: int = 2, width: int = 64, rank: int = 4) -> Path:
    """A LoRA adapter with random weights for `write_decoder`'s model."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for i in range(layers):
        writer.add_tensor(f"blk.{i}.attn_q.weight.lora_a", rng.normal(0, 1, (rank, width)).astype(np.float32))
        writer.add_tensor(f"blk.{i}.attn_q.weight.lora_b", rng.normal(0, 1, (width, rank)).astype(np.float32))
    return _finish(writer, path)


def write_encoder(path: Path, *, seed: int = 0) -> Path:
    """A BERT-shaped encoder over WordPiece with mean pooling."""
    rng = np.random.default_rng(seed)
    words = ["hello", "world", "the", "cat", "sat", "dog", "ran"]
    letters = [chr(c) for c in range(97, 123)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # llama.cpp keeps WordPiece's word starts as "▁word" and continuations bare.
    tokens += ["▁" + t for t in (*words, *letters)] + letters
    types = [CONTROL, UNKNOWN, CONTROL, CONTROL, CONTROL] + [NORMAL] * (len(tokens) - 5)
    width, inner, layers = 32, 64, 2
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("tiny-encoder")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(4)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_file_type(0)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_type_count(2)
    for name, index in {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "bos": 2, "eos": 3}.items():
        writer.add_uint32(
            f"tokenizer.ggml.{name if name not in ('unk', 'pad', 'sep') else _LONG[name]}_token_id", index
        )

    def weight(*shape: int) -> np.ndarray:
        return rng.normal(0, 1 / np.sqrt(shape[-1]), shape).astype(np.float32)

    writer.add_tensor("token_embd.weight", weight(len(tokens), width))
    writer.add_tensor("token_types.weight", weight(2, width))
    writer.add_tensor("position_embd.weight", weight(64, width))
    writer.add_tensor("token_embd_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("token_embd_norm.bias", np.zeros(width, np.float32))
    for i in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{i}.{name}.weight", weight(width, width))
            writer.add_tensor(f"blk.{i}.{name}.bias", np.zeros(width, np.float32))
        writer.add_tensor(f"blk.{i}.ffn_up.weight", weight(inner, width))
        writer.add_tensor(f"blk.{i}.ffn_up.bias", np.zeros(inner, np.float32))
        writer.add_tensor(f"blk.{i}.ffn_down.weight", weight(width, inner))
        writer.add_tensor(f"blk.{i}.ffn_down.bias", np.zeros(width, np.float32))
        for name in ("attn_output_norm", "layer_output_norm"):
            writer.add_tensor(f"blk.{i}.{name}.weight", np.ones(width, np.float32))
            writer.add_tensor(f"blk.{i}.{name}.bias", np.zeros(width, np.float32))
    return _finish(writer, path)


_LONG = {"unk": "unknown", "pad": "padding", "sep": "seperator"}  # the last as GGUF spells it


def _generator(
    path: Path, architecture: str, *, context: int, width: int, layers: int
) -> tuple[gguf.GGUFWriter, list[str]]:
    """A header with byte-level BPE and ChatML tokens, to be filled up, and the tokens."""
    tokens, types = _bpe_vocab()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_file_type(0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(MERGES))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    return writer, tokens


def _bpe_vocab() -> tuple[list[str], list[int]]:
    tokens = [*_byte_letters(), *(m.replace(" ", "") for m in MERGES), *SPECIALS, *TAGS]
    types = [NORMAL] * (256 + len(MERGES)) + [CONTROL] * len(SPECIALS) + [USER_DEFINED] * len(TAGS)
    return tokens, types


def _byte_letters() -> list[str]:
    """GPT-2's printable letter for each byte: itself where it prints, else the next free from 256."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(spare)) for b in range(256)]


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
