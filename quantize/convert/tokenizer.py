"""A Hugging Face tokenizer as the GGUF vocabulary that makes llama.cpp cut text into the same tokens.

llama.cpp has its pre-tokenizers compiled in and known by name, so a `tokenizer.json` is taken only if each of
its steps is one of those; anything else would yield other tokens in silence and is refused.
"""

from __future__ import annotations

from foreshore.errors import ModelError
from foreshore.quantize.convert.tokenizer_json import Json, TokenizerJson, unsupported
from foreshore.quantize.convert.vocab import Vocab
from foreshore.quantize.convert.vocab_byte_level import byte_level
from foreshore.quantize.convert.vocab_sentence_piece import sentence_piece
from foreshore.quantize.convert.vocab_unigram import unigram
from foreshore.quantize.convert.vocab_word_piece import word_piece

__all__ = ["read_vocab"]


def read_vocab(tokenizer: Json, config: Json, eos_ids: list[int], size: int) -> Vocab:
    """`tokenizer` is tokenizer.json, `config` tokenizer_config.json, `size` the number of embedding rows.

    `eos_ids` are further ids that end an answer, as generation_config.json lists them. Raises `ModelError`
    if the tokenizer is of a kind that llama.cpp could not follow.
    """
    try:
        return _read(tokenizer, config, eos_ids, size)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"tokenizer.json is damaged: {type(error).__name__} {error}") from error


def _read(data: Json, config: Json, eos_ids: list[int], size: int) -> Vocab:
    model = data["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
    if kind not in ("WordPiece", "BPE", "Unigram"):
        raise unsupported(f"its tokenizer is a {kind} model", "BPE, WordPiece and Unigram tokenizers are supported")
    tokenizer = TokenizerJson.read(data, config, eos_ids, size)
    if kind == "WordPiece":
        return word_piece(tokenizer)
    if kind == "Unigram":
        return unigram(tokenizer)
    return sentence_piece(tokenizer) if model.get("byte_fallback") else byte_level(tokenizer)
