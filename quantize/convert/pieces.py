"""A SentencePiece model file (tokenizer.model), read as the protocol buffer it is, and made a vocabulary."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gguf import TokenType

from foreshore.errors import ModelError
from foreshore.protobuf import fields, message, text
from foreshore.quantize.convert.tokenizer_json import Json, TokenizerJson, unsupported
from foreshore.quantize.convert.vocab import SPACE, Vocab

__all__ = ["Piece", "Pieces", "pieces_vocab", "read_pieces"]

# Field numbers of sentencepiece_model.proto.
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SUFFIX, _BYTE_FALLBACK, _UNK, _BOS, _EOS, _PAD = 3, 24, 35, 40, 41, 42, 43
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_EXTRA = 2, 3, 4
_BPE = 2
_MINUS_ONE = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    text: str
    score: float = 0.0
    type: int = 1  # numbered as `gguf.TokenType`


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Defaults are those of the format: a field that is left out has them."""

    pieces: tuple[Piece, ...]
    bpe: bool = False
    byte_fallback: bool = False
    suffix: bool = False  # the space is put behind the text
    charsmap: bytes = b""
    space_prefix: bool = True
    remove_extra: bool = True
    special: dict[str, int]  # bos, eos, unk, pad


def read_pieces(path: Path) -> Pieces:
    """Raises `ModelError` if the file is no SentencePiece model."""
    try:
        found = _read(memoryview(path.read_bytes()))
    except (ValueError, KeyError, IndexError, TypeError, struct.error) as error:
        raise ModelError(f"{str(path)!r} is not a SentencePiece model: {error}", hint="fetch it again") from error
    if not found.pieces:
        raise ModelError(f"{str(path)!r} is not a SentencePiece model: it has no pieces", hint="fetch it again")
    return found


def pieces_vocab(found: Pieces, config: Json, added: Json, eos_ids: list[int], size: int) -> Vocab:
    """`config` is tokenizer_config.json, `added` added_tokens.json, `size` the number of embedding rows.

    Raises `ModelError` for a kind that llama.cpp could not follow, and for damaged files.
    """
    try:
        return _vocab(found, config, added, eos_ids, size)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = "tokenizer_config.json or added_tokens.json is damaged"
        raise ModelError(f"{what}: {type(error).__name__} {error}") from error


def _vocab(found: Pieces, config: Json, added: Json, eos_ids: list[int], size: int) -> Vocab:
    if not found.bpe or not found.byte_fallback or found.suffix or found.charsmap or found.remove_extra:
        raise unsupported(
            "its tokenizer.model is not a byte-fallback BPE that leaves the text as it is",
            "save tokenizer.json with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)",
        )
    pieces = _with_added(found.pieces, config, added, size)
    words = [piece.text for piece in pieces]
    named = TokenizerJson(data={}, config=config, words=words, ends=eos_ids)
    said = config.get("add_bos_token"), config.get("add_eos_token")
    return Vocab(
        model="llama",
        pre="default",
        tokens=words,
        types=[piece.type for piece in pieces],
        scores=[piece.score for piece in pieces],
        special=named.special_with_end(found.special),
        flags={
            "add_bos_token": said[0] is not False,
            "add_eos_token": said[1] is True,
            "add_space_prefix": found.space_prefix,
        },
    )


def _with_added(pieces: tuple[Piece, ...], config: Json, added: Json, size: int) -> list[Piece]:
    """The pieces by id, those that were added later among them; rows that no token uses are named [PAD...]."""
    texts = {int(i): str(text) for text, i in added.items()}
    special = set()
    for i, token in (config.get("added_tokens_decoder") or {}).items():
        texts[int(i)] = str(token["content"])
        special |= {int(i)} if token.get("special") else set()
    if min(texts, default=0) < 0 or max(texts, default=0) >= size or len(pieces) > size:
        top = max(len(pieces) - 1, *texts, 0)
        raise ModelError(f"the tokenizer has the token id {top}, but the model has only {size} embedding rows")
    unused = [Piece(text=f"[PAD{i}]", type=int(TokenType.UNUSED)) for i in range(len(pieces), size)]
    found = [*map(_shown, pieces), *unused]
    for i, word in texts.items():
        kind = TokenType.CONTROL if i in special else TokenType.USER_DEFINED
        if i >= len(pieces) or found[i].type not in (TokenType.UNKNOWN, TokenType.CONTROL):
            found[i] = _shown(Piece(text=word, score=found[i].score, type=int(kind)))
    return found


def _shown(piece: Piece) -> Piece:
    """llama.cpp writes a user-defined token as it stands, and a normal one with spaces for U+2581."""
    spaced = piece.type == TokenType.USER_DEFINED and SPACE in piece.text
    return replace(piece, type=int(TokenType.NORMAL)) if spaced else piece


def _read(data: memoryview) -> Pieces:
    pieces: list[Piece] = []
    options: dict[int, Any] = {}
    trainer: dict[int, Any] = {}
    for number, value in fields(data):
        if number == _PIECE:
            pieces.append(_piece(dict(fields(message(value)))))
        elif number == _TRAINER:
            trainer = dict(fields(message(value)))
        elif number == _NORMALIZER:
            options = dict(fields(message(value)))
    ids = {"unk": trainer.get(_UNK, 0), "bos": trainer.get(_BOS, 1), "eos": trainer.get(_EOS, 2)}
    ids["pad"] = trainer.get(_PAD, _MINUS_ONE)
    return Pieces(
        pieces=tuple(pieces),
        bpe=trainer.get(_MODEL_TYPE, 1) == _BPE,
        byte_fallback=bool(trainer.get(_BYTE_FALLBACK, 0)),
        suffix=bool(trainer.get(_SUFFIX, 0)),
        charsmap=bytes(options.get(_CHARSMAP, b"")),
        space_prefix=bool(options.get(_DUMMY_PREFIX, 1)),
        remove_extra=bool(options.get(_REMOVE_EXTRA, 1)),
        special={kind: i for kind, i in ids.items() if 0 <= i < len(pieces)},
    )


def _piece(found: dict[int, Any]) -> Piece:
    score = struct.unpack("<f", found[_SCORE])[0] if _SCORE in found else 0.0
    return Piece(text=text(found[_TEXT]), score=score, type=found.get(_TYPE, 1))
