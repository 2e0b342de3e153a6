"""BERT and its kin: RoBERTa and XLM-R, which count positions from the padding on, and DistilBERT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gguf import MODEL_ARCH, GGUFWriter

from foreshore.errors import ModelError
from foreshore.quantize.convert.family import Family
from foreshore.quantize.convert.hf_config import Config, Shape, blocks, must, number

__all__ = ["BERT", "DISTILBERT", "ROBERTA", "ROBERTA_RANKER", "encoder_header"]


def _header(writer: GGUFWriter, config: Config) -> tuple[str, ...]:
    must(config, "hidden_act", ("gelu",), "gelu")
    must(config, "position_embedding_type", ("absolute",), "absolute")
    must(config, "is_decoder", (False,), False)
    encoder_header(writer, config, float(config.get("layer_norm_eps", 1e-12)))
    writer.add_context_length(_positions(config))
    writer.add_token_type_count(number(config, "type_vocab_size", 2))
    return ()


def encoder_header(writer: GGUFWriter, config: Config, epsilon: float) -> None:
    """What every encoder has."""
    writer.add_embedding_length(number(config, "hidden_size"))
    writer.add_block_count(number(config, "num_hidden_layers"))
    writer.add_feed_forward_length(number(config, "intermediate_size"))
    writer.add_head_count(number(config, "num_attention_heads"))
    writer.add_layer_norm_eps(epsilon)
    writer.add_causal_attention(False)


def _required(config: Config) -> dict[str, Shape]:
    hidden, ff = number(config, "hidden_size"), number(config, "intermediate_size")
    shapes: dict[str, Shape] = {
        "token_embd.weight": (-1, hidden),
        "position_embd.weight": (number(config, "max_position_embeddings"), hidden),
        "token_types.weight": (number(config, "type_vocab_size", 2), hidden),
        **_with_bias("token_embd_norm", (hidden,)),
    }
    for block in blocks(config):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= _with_bias(f"{block}.{name}", (hidden, hidden))
        for name in ("attn_output_norm", "layer_output_norm"):
            shapes |= _with_bias(f"{block}.{name}", (hidden,))
        shapes |= _with_bias(f"{block}.ffn_up", (ff, hidden)) | _with_bias(f"{block}.ffn_down", (hidden, ff))
    return shapes


def _with_bias(name: str, shape: Shape) -> dict[str, Shape]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _rename(name: str) -> tuple[str, ...]:
    """Old BERT names a norm's weight gamma and its bias beta; a model saved with a head puts its own name before."""
    for prefix in ("bert.", "roberta.", "distilbert."):
        name = name.removeprefix(prefix)
    if name.startswith(("pooler.", "cls.", "lm_head.", "vocab_")) or name.endswith("position_ids"):
        return ()
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return (name,)


def _padding(config: Config) -> int:
    """RoBERTa gives its first token the position after the padding token's id."""
    pad = config.get("pad_token_id", 1)
    if type(pad) is not int or not 0 <= pad < number(config, "max_position_embeddings") - 1:
        raise ModelError(f"config.json has pad_token_id {pad!r}, from which the positions are counted")
    return pad + 1


def _positions(config: Config) -> int:
    return number(config, "max_position_embeddings") - int(config.get("positions_from", 0))


def _roberta_settings(config: Config) -> Config:
    return {**config, "positions_from": _padding(config)}


def _skipped_positions(config: Config) -> Mapping[str, int]:
    return {"position_embd.weight": config["positions_from"]}


def _ranker_required(config: Config) -> dict[str, Shape]:
    """RoBERTa's head: a dense layer, tanh, and one score."""
    hidden = number(config, "hidden_size")
    labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
    if labels != 1:
        raise ModelError(f"the model gives a text {labels} labels; supported are rankers, which give one score")
    return _required(config) | _with_bias("cls", (hidden, hidden)) | _with_bias("cls.output", (1, hidden))


def _distilbert_settings(config: Config) -> Config:
    ours = {
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "hidden_act": "activation",
    }
    return {**config, **{key: config[theirs] for key, theirs in ours.items() if theirs in config}, "type_vocab_size": 1}


def _distilbert_required(config: Config) -> dict[str, Shape]:
    return {name: shape for name, shape in _required(config).items() if name != "token_types.weight"}


BERT = Family(arch=MODEL_ARCH.BERT, header=_header, required=_required, rename=_rename)
ROBERTA = Family(
    arch=MODEL_ARCH.BERT,
    header=_header,
    required=_required,
    rename=_rename,
    settings=_roberta_settings,
    first_row=_skipped_positions,
)
ROBERTA_RANKER = replace(ROBERTA, required=_ranker_required, ranks=True)
DISTILBERT = Family(
    arch=MODEL_ARCH.BERT,
    header=_header,
    required=_distilbert_required,
    rename=_rename,
    settings=_distilbert_settings,
)
