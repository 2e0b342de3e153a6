"""Text to tokens and back by a `tokenizer.json`: what `Vocab` is for a GGUF file."""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any, Literal

from foreshore.edge.onnx.folder import OnnxFolder
from foreshore.edge.text import utf8
from foreshore.edge.vocab import SHOWN_TAGS
from foreshore.errors import BadRequest, ModelError, SetupError

__all__ = ["OnnxVocab"]

Style = Literal["bytes", "sentencepiece", "wordpiece"]
_STYLES: dict[str, Style] = {
    "ByteLevel": "bytes",
    "ByteFallback": "sentencepiece",
    "Metaspace": "sentencepiece",
    "WordPiece": "wordpiece",
}
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class OnnxVocab:
    """`size` is the model's, which may have more rows than the tokenizer has tokens. Methods run in any thread."""

    def __init__(self, folder: OnnxFolder, size: int) -> None:
        self.size = size
        self._folder = folder
        source = _read(folder)
        self._trusting = _tokenizer(source)
        self._plain = _tokenizer(source)
        self._plain.encode_special_tokens = True  # tokenizers' word for: read them as the text that they are
        added = self._trusting.get_added_tokens_decoder()
        self._added = {number: token.content for number, token in added.items()}
        self._control = frozenset(number for number, token in added.items() if token.special)
        self._style = _style(json.loads(source))
        named = self._trusting.token_to_id(folder.named("eos"))
        self._ends = folder.ends | ({named} if named is not None else set())
        self._pieces: dict[int, bytes] = {}
        if (most := max(self._trusting.get_vocab().values(), default=0)) >= size:
            raise ModelError(f"tokenizer.json has token {most}, but the model's vocabulary {size}", hint=_AGAIN)

    @property
    def handle(self) -> Any:
        """llama.cpp's vocabulary, which its grammars read."""
        raise BadRequest("an ONNX model takes no grammar", hint="load a GGUF variant for that", param="grammar")

    def tokenize(self, text: str, *, special: bool, begin: bool = False) -> list[int]:
        """As `Vocab.tokenize`; `begin` adds all that the tokenizer's post-processor wants, at the end too."""
        utf8(text)
        tokenizer = self._trusting if special else self._plain
        return list(tokenizer.encode(text, add_special_tokens=begin).ids)

    def piece(self, token: int) -> bytes:
        """The bytes that `token` stands for in an answer: none for control tokens, save reasoning and tool tags."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read(token)
        return known

    def text(self, token: int) -> str:
        """`token` as one writes it, control tokens included; "" for a row of the model that no token has."""
        return self._added.get(token) or self.piece(token).decode("utf-8", "replace")

    def is_end(self, token: int) -> bool:
        return token in self._ends

    def is_control(self, token: int) -> bool:
        return token in self._control

    def named(self, name: str) -> str:
        return self._folder.named(name)

    def first_token(self) -> int:
        """A token that any sequence may begin with."""
        return self._trusting.token_to_id(self.named("bos")) or 0

    @cached_property
    def control_pattern(self) -> re.Pattern[str] | None:
        """Matches the text of any control token, the longest first; `None`: the tokenizer has none."""
        texts = {self._added[token] for token in self._control} - {""}
        if not texts:
            return None
        return re.compile("|".join(re.escape(t) for t in sorted(texts, key=lambda t: (-len(t), t))))

    def _read(self, token: int) -> bytes:
        if token in self._added:
            text = self._added[token]
            return text.encode() if token not in self._control or text in SHOWN_TAGS else b""
        text = self._trusting.id_to_token(token)
        return b"" if text is None else _bytes(text, self._style)


_AGAIN = "export the model and its tokenizer again"


def _read(folder: OnnxFolder) -> str:
    try:
        return (folder.home / "tokenizer.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"tokenizer.json cannot be read: {error}", hint=_AGAIN) from error


def _tokenizer(source: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise SetupError("ONNX models need tokenizers", hint="pip install 'foreshore[onnx]'") from error
    try:
        tokenizer = Tokenizer.from_str(source)
    except Exception as error:  # the binding raises bare exceptions
        raise ModelError(f"tokenizer.json is damaged: {error}", hint=_AGAIN) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _style(source: dict[str, Any]) -> Style:
    """How tokens are written, by the decoder; some tokenizers have none, but cut and join by the same rule."""
    kinds = [*_kinds(source.get("decoder")), *_kinds(source.get("pre_tokenizer")), *_kinds(source.get("model"))]
    style = next((_STYLES[kind] for kind in kinds if kind in _STYLES), None)
    if style is None:
        raise ModelError(f"tokenizer.json is made of {kinds}, none of which is known", hint=f"known: {[*_STYLES]}")
    return style


def _kinds(part: Any) -> list[str]:
    if not isinstance(part, dict):
        return []
    steps = part.get("decoders") or part.get("pretokenizers") or [part]
    return [str(step.get("type")) for step in steps if isinstance(step, dict)]


def _bytes(text: str, style: Style) -> bytes:
    if style == "bytes":
        return b"".join(_LETTERS[c] if c in _LETTERS else c.encode() for c in text)
    if style == "sentencepiece":
        byte = _BYTE.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()
    return text[2:].encode() if text.startswith("##") else b" " + text.encode()


def _byte_letters() -> dict[str, bytes]:
    """GPT-2's printable letter for each byte: itself where it prints, else the next free from 256."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return {chr(b) if b in shown else chr(next(spare)): bytes([b]) for b in range(256)}


_LETTERS = _byte_letters()
