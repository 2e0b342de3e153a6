"""SentencePiece's Unigram, as XLM-R and its sentence encoders use it."""

from __future__ import annotations

import base64
import binascii

from gguf import TokenType

from foreshore.quantize.convert.tokenizer_json import TokenizerJson, unsupported
from foreshore.quantize.convert.vocab import Vocab

__all__ = ["unigram"]


def unigram(tokenizer: TokenizerJson) -> Vocab:
    model, words = tokenizer.model, tokenizer.words
    if model.get("byte_fallback"):
        raise unsupported("its Unigram model falls back to bytes", "Unigram is supported as in XLM-R")
    _check_cuts(tokenizer)
    types = tokenizer.types()
    types[model["unk_id"]] = int(TokenType.UNKNOWN)
    scores = [float(score) for _, score in model["vocab"]]
    return Vocab(
        model="t5",
        pre="default",
        tokens=words,
        types=types,
        scores=[*scores, *[0.0] * (len(words) - len(scores))],
        special=tokenizer.special_with_end(),
        flags={
            **tokenizer.framed(),
            "add_space_prefix": True,
            "remove_extra_whitespaces": True,
        },
        charsmap=_charsmap(tokenizer),
        notes=tokenizer.stripping(),
    )


def _charsmap(tokenizer: TokenizerJson) -> bytes:
    """The compiled map; what stands beside it must only join and strip spaces, as llama.cpp does."""
    found = b""
    for step in tokenizer.steps("normalizer"):
        kind = step.get("type")
        if kind == "Precompiled" and not found:
            try:
                found = base64.b64decode(step["precompiled_charsmap"], validate=True)
            except binascii.Error as error:
                raise ValueError(f"precompiled_charsmap: {error}") from error
        elif kind == "Replace" and step.get("pattern") in ({"Regex": " {2,}"}, {"Regex": r"\s+"}):
            continue
        elif kind != "Strip":
            raise unsupported(f"its Unigram tokenizer normalizes by {kind!r}", "supported is XLM-R's: a compiled map")
    return found


def _check_cuts(tokenizer: TokenizerJson) -> None:
    steps = tokenizer.steps("pre_tokenizer")
    kinds = [s.get("type") for s in steps if s.get("type") != "WhitespaceSplit"]
    prefixed = steps and steps[-1].get("prepend_scheme", "always") in ("always", "first")
    if kinds != ["Metaspace"] or not prefixed or steps[-1].get("add_prefix_space") is False:
        raise unsupported(f"its Unigram tokenizer cuts by {[s.get('type') for s in steps]}", "supported is XLM-R's")
