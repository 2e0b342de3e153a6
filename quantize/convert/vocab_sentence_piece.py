"""SentencePiece's BPE, as Llama 2, Gemma and Phi-3 use it: a score for each token, and bytes for what has none."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gguf import TokenType

from foreshore.quantize.convert.tokenizer_json import TokenizerJson, unsupported
from foreshore.quantize.convert.vocab import SPACE, Vocab

__all__ = ["sentence_piece"]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LAST = -1e6  # a score below every merge's: never preferred


def sentence_piece(tokenizer: TokenizerJson) -> Vocab:
    words, merges = tokenizer.words, tokenizer.merges()
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    _check_merges(merges, ranks, words)
    types = [_type(w, t) for w, t in zip(words, tokenizer.types(), strict=True)]
    unk = tokenizer.model.get("unk_token")
    if unk in words:
        types[words.index(unk)] = int(TokenType.UNKNOWN)
    prefix, notes = _space_prefix(tokenizer)
    strips = _phi3_strips(tokenizer)
    # SentencePiece joins the pair with the best score first: minus the rank gives the order of the merges.
    scores = [float(-ranks[w]) if w in ranks else 0.0 if len(w) == 1 or _BYTE.fullmatch(w) else _LAST for w in words]
    return Vocab(
        model="llama",
        pre="default",
        tokens=words,
        types=types,
        scores=scores,
        special=tokenizer.special_with_end(),
        flags={**tokenizer.framed(), "add_space_prefix": prefix},
        strips_after=strips,
        notes=(*notes, *(() if strips else tokenizer.stripping())),
    )


def _type(word: str, kind: int) -> int:
    """llama.cpp writes a user-defined token as it stands, and a normal one with spaces for U+2581."""
    if _BYTE.fullmatch(word):
        return int(TokenType.BYTE)
    return int(TokenType.NORMAL) if kind == TokenType.USER_DEFINED and SPACE in word else kind


def _phi3_strips(tokenizer: TokenizerJson) -> frozenset[str]:
    """The tokens that swallow the white space behind them, if they are those for which llama.cpp has a rule."""
    added = {t["content"]: t for t in tokenizer.added()}
    kept = {"<unk>", "<s>", "<|endoftext|>"}
    as_ruled = all(bool(t.get("rstrip")) == (text not in kept) and not t.get("lstrip") for text, t in added.items())
    return frozenset(set(added) - kept) if as_ruled and {*kept, "</s>"} <= set(added) else frozenset()


def _check_merges(merges: list[tuple[str, str]], ranks: Mapping[str, int], words: list[str]) -> None:
    """SentencePiece may join any two tokens that make a third; BPE only those listed. Equal if all are listed."""
    listed, known = set(merges), set(words)
    for word in ranks:
        for i in range(1, len(word)):
            pair = (word[:i], word[i:])
            if pair not in listed and pair[0] in known and pair[1] in known:
                raise unsupported(f"its byte-fallback BPE has no merge {pair!r}", "SentencePiece's BPE lists them all")


def _space_prefix(tokenizer: TokenizerJson) -> tuple[bool, tuple[str, ...]]:
    kinds, steps = tokenizer.kinds("normalizer"), tokenizer.steps("pre_tokenizer")
    if kinds == ["Replace"] and [s.get("pattern") for s in steps] == [{"String": " "}]:
        return False, ()  # Gemma's: no space is left to cut at
    if kinds in (["Prepend", "Replace"], ["Replace"]) and not steps:
        return kinds[0] == "Prepend", ()
    if not kinds and len(steps) == 1 and steps[0].get("type") == "Metaspace" and not steps[0].get("split", True):
        scheme = steps[0].get("prepend_scheme", "always")
        first = "a space is put before text that follows a special token, not only before the first"
        return scheme != "never", (first,) if scheme == "first" else ()
    raise unsupported(
        f"its byte-fallback BPE normalizes by {kinds} and cuts by {[s.get('type') for s in steps]}",
        "supported are Llama's and Gemma's: Prepend and Replace, Replace alone, or Metaspace without split",
    )
