"""The vocabulary of a GGUF file, and what its kinds read alike from tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf import TokenType

from foreshore.errors import ModelError

__all__ = [
    "SPACE",
    "Json",
    "Vocab",
    "added_around",
    "merges_of",
    "special_ids",
    "steps_of",
    "stripping",
    "template",
    "token_types",
    "unsupported",
    "with_end",
    "words_of",
]

Json = Mapping[str, Any]

SPACE = "\u2581"  # stands for a space in SentencePiece vocabularies, and for a word's start in llama.cpp's WordPiece
_SPECIALS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocab:
    """`special` maps bos, eos, eot, ... to token ids; `flags` are further `tokenizer.ggml.` booleans."""

    model: str  # gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (Unigram) or bert (WordPiece)
    pre: str
    tokens: list[str]
    types: list[int]
    special: dict[str, int]
    flags: dict[str, bool]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    charsmap: bytes = b""  # SentencePiece's compiled rules of normalization
    strips_after: frozenset[str] = frozenset()  # the tokens that swallow the white space behind them
    notes: tuple[str, ...] = ()

    def heard_as(self, name: str) -> str:
        """`name`, changed so that llama.cpp's rule for Phi-3 applies to this vocabulary or stays away.

        llama.cpp lets special tokens swallow white space if the model's name has phi-3 or phi3 in it, and fails
        to load such a file whose vocabulary is another.
        """
        named = re.search(r"phi-?3", name.lower()) is not None
        if self.strips_after and not named:
            return f"{name} (phi-3)"
        return name if self.strips_after or not named else re.sub(r"(?i)phi-?3", "phi 3", name)


def words_of(tokenizer: Json, size: int) -> list[str]:
    """The token texts by id; rows of the embedding that no token uses are named [PAD...]."""
    texts = {i: text for text, i in _ids(tokenizer).items()}
    texts |= {int(t["id"]): str(t["content"]) for t in tokenizer.get("added_tokens") or ()}
    if min(texts, default=0) < 0 or max(texts, default=-1) >= size:
        raise ModelError(f"tokenizer.json has the token id {max(texts)}, but the model has only {size} embedding rows")
    return [texts.get(i) or f"[PAD{i}]" for i in range(size)]


def _ids(tokenizer: Json) -> dict[str, int]:
    """Unigram lists its tokens with their scores, the others map them to their ids."""
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, list):
        return {str(text): i for i, (text, _) in enumerate(vocab)}
    return {str(text): int(i) for text, i in vocab.items()}


def token_types(tokenizer: Json, words: list[str]) -> list[int]:
    used = set(_ids(tokenizer).values())
    types = [TokenType.NORMAL if i in used else TokenType.UNUSED for i in range(len(words))]
    for token in tokenizer.get("added_tokens") or ():
        types[token["id"]] = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
    return [int(t) for t in types]


def steps_of(value: Any, key: str) -> list[Json]:
    """The steps of a normalizer, pre-tokenizer or post-processor, which are a sequence or one alone."""
    if not value:
        return []
    return list(value.get(key, ())) if value.get("type") == "Sequence" else [value]


def stripping(tokenizer: Json) -> tuple[str, ...]:
    tokens = [t["content"] for t in tokenizer.get("added_tokens") or () if t.get("lstrip") or t.get("rstrip")]
    return (f"spaces beside {', '.join(tokens[:4])} are kept, where the tokenizer would drop them",) if tokens else ()


def special_ids(tokenizer: Json, config: Json, words: list[str], eos_ids: list[int]) -> dict[str, int]:
    ids = {text: i for i, text in enumerate(words)}
    found = {}
    for kind in _SPECIALS:
        entry = config.get(f"{kind}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(text, str) and text in ids:
            found[kind] = ids[text]
    said = [found["eos"]] if "eos" in found else []
    for kind, text in zip(("bos", "eos"), template(tokenizer), strict=True):
        if text in ids:
            found[kind] = ids[text]  # what encoding does, whatever tokenizer_config.json calls it
    others = [i for i in dict.fromkeys([*said, *eos_ids]) if 0 <= i < len(words) and i != found.get("eos")]
    for kind in ("eos", "eot", "eom"):  # llama.cpp knows three ends
        if kind not in found and others:
            found[kind] = others.pop(0)
    return found


def with_end(special: dict[str, int]) -> dict[str, int]:
    if "eos" not in special:  # llama.cpp would take token 11
        raise ModelError(
            "the tokenizer has no end-of-text token",
            hint="set eos_token in tokenizer_config.json, or eos_token_id in config.json",
        )
    return special


def template(tokenizer: Json) -> tuple[str, str]:
    """The special tokens that encoding puts before and after a text, empty if none."""
    first = last = ""
    for step in steps_of(tokenizer.get("post_processor"), "processors"):
        if step.get("type") in ("RobertaProcessing", "BertProcessing"):
            first, last = step["cls"][0], step["sep"][0]
        elif step.get("type") == "TemplateProcessing":
            first, last = _around(step["single"])
    return first, last


def _around(single: list[Json]) -> tuple[str, str]:
    names = [str((piece.get("SpecialToken") or {}).get("id", "")) for piece in single]  # the text itself has none
    at = names.index("")
    before, after = names[:at], names[at + 1 :]
    if len(before) > 1 or len(after) > 1:
        raise unsupported(
            f"its tokenizer puts {before} before and {after} after a text", "one token is supported on either side"
        )
    return "".join(before), "".join(after)


def added_around(tokenizer: Json, config: Json) -> dict[str, bool]:
    """Whether encoding puts bos before and eos after the text: tokenizer_config.json's word, else the template's."""
    around = dict(zip(("bos", "eos"), map(bool, template(tokenizer)), strict=True))
    said = {kind: config.get(f"add_{kind}_token") for kind in around}
    return {f"add_{k}_token": v if isinstance(v := said[k], bool) else around[k] for k in around}


def unsupported(what: str, supported: str) -> ModelError:
    return ModelError(f"this model cannot be converted faithfully: {what}", hint=supported)


def merges_of(model: Json) -> list[tuple[str, str]]:
    pairs = [m.split(" ") if isinstance(m, str) else list(m) for m in model.get("merges") or ()]
    bad = next((p for p in pairs if len(p) != 2), None)
    if bad:
        raise ModelError(f"tokenizer.json has the damaged merge {bad!r}")
    return [(left, right) for left, right in pairs]
