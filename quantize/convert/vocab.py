"""The vocabulary of a GGUF file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["SPACE", "Vocab"]

SPACE = "\u2581"  # stands for a space in SentencePiece vocabularies, and for a word's start in llama.cpp's WordPiece


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
