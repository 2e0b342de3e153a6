"""Text to tokens and back."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from foreshore.edge.text import utf8
from foreshore.edge.tools.formats import TAGS
from foreshore.errors import ModelError

__all__ = ["FirstBytes", "Vocab"]

SHOWN_TAGS = TAGS | {"<think>", "</think>"}
_PIECE_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBytes:
    """Tokens by the first byte of their text as a grammar reads it. `groups` has those of each byte value, and last
    those without; `probes` those that are one byte alone, of the value that stands at their place in `values`."""

    groups: tuple[NDArray[np.intp], ...]
    probes: NDArray[np.intp]
    values: NDArray[np.intp]


class Vocab:
    """Reads a model's vocabulary. All methods may be called from any thread."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._vocab = native.llama_model_get_vocab(model)
        self.size: int = native.llama_vocab_n_tokens(self._vocab)
        self._pieces: dict[int, bytes] = {}
        self._ends = frozenset(t for t in range(self.size) if native.llama_vocab_is_eog(self._vocab, t))

    @property
    def handle(self) -> Any:
        return self._vocab

    def tokenize(self, text: str, *, special: bool, begin: bool = False) -> list[int]:
        """Token ids of `text`.

        `special` reads control tokens out of the text; `begin` adds what the model wants at the start (BOS).
        Raises `BadRequest` where `text` is not Unicode (lone surrogates).
        """
        raw = utf8(text)
        room = len(raw) + 8
        buffer = (ctypes.c_int32 * room)()
        count = native.llama_tokenize(self._vocab, raw, len(raw), buffer, room, begin, special)
        if count < 0:  # never more tokens than bytes plus BOS, EOS and the like, save in odd vocabularies
            buffer = (ctypes.c_int32 * -count)()
            count = native.llama_tokenize(self._vocab, raw, len(raw), buffer, -count, begin, special)
        return list(buffer[:count])

    def piece(self, token: int) -> bytes:
        """The bytes that `token` stands for in an answer: none for control tokens, save reasoning and tool tags."""
        known = self._pieces.get(token)
        if known is None:
            text = self._read(token, special=True)
            shown = not self.is_control(token) or text.decode("utf-8", "replace") in SHOWN_TAGS
            known = self._pieces[token] = text if shown else b""
        return known

    def text(self, token: int) -> str:
        """`token` as one writes it, control tokens included: `<|im_end|>`."""
        return self._read(token, special=True).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        return token in self._ends

    def is_control(self, token: int) -> bool:
        return bool(native.llama_vocab_is_control(self._vocab, token))

    def named(self, name: str) -> str:
        """The text of the file's `bos`, `eos` or other named token; "" where the file names none.

        llama.cpp would make up a default for some tokenizers, which templates must not see.
        """
        buffer = ctypes.create_string_buffer(32)
        key = f"tokenizer.ggml.{name}_token_id".encode()
        found = native.llama_model_meta_val_str(self._model, key, buffer, len(buffer))
        return self.text(int(buffer.value)) if found > 0 else ""

    def first_token(self) -> int:
        """A token that any sequence may begin with."""
        bos = native.llama_vocab_bos(self._vocab)
        return int(bos) if bos >= 0 else 0

    @cached_property
    def first_bytes(self) -> FirstBytes:
        """Takes a fifth of a second for 150,000 tokens, so ask for it where nothing waits."""
        groups: list[list[int]] = [[] for _ in range(257)]
        alone: dict[int, int] = {}
        for token in range(self.size):
            raw = b"" if token in self._ends else self._read(token, special=True)
            groups[raw[0] if raw else 256].append(token)
            if len(raw) == 1:
                alone.setdefault(raw[0], token)
        return FirstBytes(
            groups=tuple(np.array(group, np.intp) for group in groups),
            probes=np.array(list(alone.values()), np.intp),
            values=np.array(list(alone), np.intp),
        )

    @cached_property
    def control_pattern(self) -> re.Pattern[str] | None:
        """Matches the text of any control token, the longest first; `None`: the model has none."""
        texts = {self.text(t) for t in range(self.size) if self.is_control(t)} - {""}
        if not texts:
            return None
        return re.compile("|".join(re.escape(t) for t in sorted(texts, key=lambda t: (-len(t), t))))

    def _read(self, token: int, *, special: bool) -> bytes:
        room = _PIECE_BYTES
        buffer = ctypes.create_string_buffer(room)
        count = native.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
        if count < 0:
            room = -count
            buffer = ctypes.create_string_buffer(room)
            count = native.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
        if count < 0:
            raise ModelError(f"token {token!r} has no text in this vocabulary")
        return buffer.raw[:count]
