"""BERT's WordPiece."""

from __future__ import annotations

from gguf import TokenType

from foreshore.errors import ModelError
from foreshore.quantize.convert.tokenizer_json import TokenizerJson, unsupported
from foreshore.quantize.convert.vocab import SPACE, Vocab

__all__ = ["word_piece"]

_STRIPPED_NOTE = (
    "Korean, and the vowel signs of Hindi and its kin, are cut into other tokens: llama.cpp does not decompose Hangul,"
    " and drops all marks, where BERT drops only those that take no space"
)


def word_piece(tokenizer: TokenizerJson) -> Vocab:
    normalizer, model, words = tokenizer.data.get("normalizer") or {}, tokenizer.model, tokenizer.words
    ours = normalizer.get("clean_text", True) and normalizer.get("handle_chinese_chars", True)
    if normalizer.get("type") != "BertNormalizer" or not ours or model.get("continuing_subword_prefix", "##") != "##":
        raise unsupported(f"its WordPiece tokenizer normalizes by {dict(normalizer)}", "BERT's own is supported")
    lowercase = bool(normalizer.get("lowercase", True))
    strip = normalizer.get("strip_accents")
    strip = lowercase if strip is None else bool(strip)
    types, special = tokenizer.types(), tokenizer.special()
    if "cls" not in special or "sep" not in special:
        raise ModelError("tokenizer_config.json names no cls_token and sep_token, as BERT's does")
    if tokenizer.frame() != (words[special["cls"]], words[special["sep"]]):
        raise unsupported(f"its tokenizer puts {tokenizer.frame()} around a text", "BERT's is supported: CLS and SEP")
    special["bos"] = special.pop("cls")  # llama.cpp opens with bos and closes with sep
    return Vocab(
        model="bert",
        pre="default",
        tokens=[_phantom(w, t) for w, t in zip(words, types, strict=True)],
        types=types,
        special=special,
        flags={
            "add_bos_token": True,
            "add_sep_token": True,
            "normalizer.lowercase": lowercase,
            "normalizer.strip_accents": strip,
        },
        notes=(_STRIPPED_NOTE,) if strip else (),
    )


def _phantom(word: str, kind: int) -> str:
    """llama.cpp marks a word's start where BERT marks a word's continuation."""
    if kind in (TokenType.CONTROL, TokenType.UNUSED):
        return word
    return word.removeprefix("##") if word.startswith("##") else SPACE + word
