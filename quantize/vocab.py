"""A Hugging Face tokenizer as the GGUF vocabulary that makes llama.cpp cut text into the same tokens.

llama.cpp has its pre-tokenizers compiled in and known by name, so a `tokenizer.json` is taken only if each of
its steps is one of those; anything else would yield other tokens in silence and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf import TokenType

from foreshore.errors import ModelError

__all__ = ["Vocab", "read_vocab"]

Json = Mapping[str, Any]

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = r"[^\r\n\p{L}\p{N}]?"

# (regular expressions that cut the text, one after the other; does a whole word skip the merges) -> llama.cpp's name
_PRE: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((r"\p{N}", _GPT2), False): "smollm",
    ((_CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _REST,), True): "llama-bpe",
    ((_CONTRACTIONS + _WORDS + r"|\p{N}{1,3}" + _REST,), False): "smaug-bpe",
    ((_CONTRACTIONS + _WORDS + r"|\p{N}" + _REST,), False): "qwen2",
    (
        (
            _CONTRACTIONS
            + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        False,
    ): "qwen35",
    ((r"\p{N}{1,3}", _CONTRACTIONS + _WORDS + r"|\p{N}+" + _REST), True): "minicpm5",
    (
        (f"{_CASED}{_UPPER}*{_LOWER}+|{_CASED}{_UPPER}+{_LOWER}*|" + r"\p{N}" + _REST_SLASH,),
        True,
    ): "tekken",
    (
        (
            f"{_CASED}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_CASED}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|"
            + r"\p{N}{1,3}"
            + _REST_SLASH,
        ),
        False,
    ): "gpt-4o",
}
_SPACE = "\u2581"  # stands for a space in SentencePiece vocabularies, and for a word's start in llama.cpp's WordPiece
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPECIALS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_LAST = -1e6  # a score below every merge's: never preferred


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocab:
    """`special` maps bos, eos, eot, ... to token ids; `flags` are further `tokenizer.ggml.` booleans."""

    model: str  # gpt2 (byte-level BPE), llama (SentencePiece BPE) or bert (WordPiece)
    pre: str
    tokens: list[str]
    types: list[int]
    special: dict[str, int]
    flags: dict[str, bool]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    notes: tuple[str, ...] = ()


def read_vocab(tokenizer: Json, config: Json, eos_ids: list[int], size: int) -> Vocab:
    """`tokenizer` is tokenizer.json, `config` tokenizer_config.json, `size` the number of embedding rows.

    `eos_ids` are further ids that end an answer, as generation_config.json lists them. Raises `ModelError`
    if the tokenizer is of a kind that llama.cpp could not follow.
    """
    try:
        return _read(tokenizer, config, eos_ids, size)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"tokenizer.json is damaged: {type(error).__name__} {error}") from error


def _read(tokenizer: Json, config: Json, eos_ids: list[int], size: int) -> Vocab:
    model = tokenizer["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
    if kind not in ("WordPiece", "BPE"):
        raise _unsupported(f"its tokenizer is a {kind} model", "BPE and WordPiece tokenizers are supported")
    words = _words(tokenizer, size)
    if kind == "WordPiece":
        return _word_piece(tokenizer, config, words)
    if model.get("byte_fallback"):
        return _sentence_piece(tokenizer, config, words, eos_ids)
    return _byte_level(tokenizer, config, words, eos_ids)


def _words(tokenizer: Json, size: int) -> list[str]:
    """The token texts by id; rows of the embedding that no token uses are named [PAD...]."""
    vocab = {str(text): int(i) for text, i in tokenizer["model"]["vocab"].items()}
    vocab |= {str(t["content"]): int(t["id"]) for t in tokenizer.get("added_tokens") or ()}
    top = max(vocab.values(), default=-1)
    if min(vocab.values(), default=0) < 0 or top >= size:
        raise ModelError(f"tokenizer.json has the token id {top}, but the model has only {size} embedding rows")
    words = [""] * size
    for text, i in vocab.items():
        words[i] = text
    return [text or f"[PAD{i}]" for i, text in enumerate(words)]


def _types(tokenizer: Json, words: list[str]) -> list[int]:
    used = set(tokenizer["model"]["vocab"].values())
    types = [TokenType.NORMAL if i in used else TokenType.UNUSED for i in range(len(words))]
    for token in tokenizer.get("added_tokens") or ():
        types[token["id"]] = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
    return [int(t) for t in types]


def _byte_level(tokenizer: Json, config: Json, words: list[str], eos_ids: list[int]) -> Vocab:
    model = tokenizer["model"]
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise _unsupported(f"its BPE model sets {key}", "plain byte-level BPE is supported")
    special = _with_end(_special_ids(tokenizer, config, words, eos_ids))
    return Vocab(
        model="gpt2",
        pre=_pre_tokenizer(tokenizer, bool(model.get("ignore_merges"))),
        tokens=words,
        types=_types(tokenizer, words),
        merges=[" ".join(pair) for pair in _merges(model)],
        special=special,
        flags=_added_around(tokenizer, config),
        notes=(*_normal_form(tokenizer), *_stripping(tokenizer)),
    )


def _merges(model: Json) -> list[tuple[str, str]]:
    pairs = [m.split(" ") if isinstance(m, str) else list(m) for m in model.get("merges") or ()]
    bad = next((p for p in pairs if len(p) != 2), None)
    if bad:
        raise ModelError(f"tokenizer.json has the damaged merge {bad!r}")
    return [(left, right) for left, right in pairs]


def _pre_tokenizer(tokenizer: Json, ignore_merges: bool) -> str:
    steps = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        kinds = [s.get("type") for s in steps]
        raise _unsupported(f"its pre-tokenizer is {kinds}", "supported are those that end with a plain ByteLevel step")
    patterns = tuple(p for step in steps if (p := _pattern(step)))
    pre = _PRE.get((patterns, ignore_merges))
    if pre is None:
        raise _unsupported(
            f"its pre-tokenizer cuts text by {patterns!r} (ignore_merges {ignore_merges})",
            f"supported are those of {', '.join(sorted(_PRE.values()))}",
        )
    return pre


def _steps(value: Any, key: str) -> list[Json]:
    if not value:
        return []
    return list(value.get(key, ())) if value.get("type") == "Sequence" else [value]


def _pattern(step: Json) -> str:
    kind = step.get("type")
    if kind == "ByteLevel":
        return _GPT2 if step.get("use_regex", True) else ""
    if kind == "Digits":
        return r"\p{N}" if step.get("individual_digits") else r"\p{N}+"
    regex = (step.get("pattern") or {}).get("Regex")
    cut = (step.get("behavior"), bool(step.get("invert")))
    if kind == "Split" and regex and cut in (("Isolated", False), ("Removed", True)):
        return str(regex)
    return f"<{kind}>"


def _normal_form(tokenizer: Json) -> tuple[str, ...]:
    kinds = [s.get("type") for s in _steps(tokenizer.get("normalizer"), "normalizers")]
    if not kinds:
        return ()
    if kinds == ["NFC"]:
        return ("the tokenizer normalizes text to NFC, llama.cpp does not: send text that is in NFC, as most is",)
    raise _unsupported(f"its tokenizer normalizes text by {kinds}", "byte-level BPE is supported with NFC or nothing")


def _stripping(tokenizer: Json) -> tuple[str, ...]:
    tokens = [t["content"] for t in tokenizer.get("added_tokens") or () if t.get("lstrip") or t.get("rstrip")]
    return (f"spaces beside {', '.join(tokens[:4])} are kept, where the tokenizer would drop them",) if tokens else ()


def _sentence_piece(tokenizer: Json, config: Json, words: list[str], eos_ids: list[int]) -> Vocab:
    merges = _merges(tokenizer["model"])
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    _check_merges(merges, ranks, words)
    types = [
        int(TokenType.BYTE) if _BYTE.fullmatch(w) else t for w, t in zip(words, _types(tokenizer, words), strict=True)
    ]
    special = _with_end(_special_ids(tokenizer, config, words, eos_ids))
    unk = tokenizer["model"].get("unk_token")
    if unk in words:
        types[words.index(unk)] = int(TokenType.UNKNOWN)
    prefix, notes = _space_prefix(tokenizer)
    # SentencePiece joins the pair with the best score first: minus the rank gives the order of the merges.
    scores = [float(-ranks[w]) if w in ranks else 0.0 if len(w) == 1 or _BYTE.fullmatch(w) else _LAST for w in words]
    return Vocab(
        model="llama",
        pre="default",
        tokens=words,
        types=types,
        scores=scores,
        special=special,
        flags={**_added_around(tokenizer, config), "add_space_prefix": prefix},
        notes=(*notes, *_stripping(tokenizer)),
    )


def _check_merges(merges: list[tuple[str, str]], ranks: Mapping[str, int], words: list[str]) -> None:
    """SentencePiece may join any two tokens that make a third; BPE only those listed. Equal if all are listed."""
    listed, known = set(merges), set(words)
    for word in ranks:
        for i in range(1, len(word)):
            pair = (word[:i], word[i:])
            if pair not in listed and pair[0] in known and pair[1] in known:
                raise _unsupported(f"its byte-fallback BPE has no merge {pair!r}", "SentencePiece's BPE lists them all")


def _space_prefix(tokenizer: Json) -> tuple[bool, tuple[str, ...]]:
    normalizers = _steps(tokenizer.get("normalizer"), "normalizers")
    kinds = [s.get("type") for s in normalizers]
    steps = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    if kinds in (["Prepend", "Replace"], ["Replace"]) and not steps:
        return kinds[0] == "Prepend", ()
    if not kinds and len(steps) == 1 and steps[0].get("type") == "Metaspace" and not steps[0].get("split", True):
        scheme = steps[0].get("prepend_scheme", "always")
        first = "a space is put before text that follows a special token, not only before the first"
        return scheme != "never", (first,) if scheme == "first" else ()
    raise _unsupported(
        f"its byte-fallback BPE normalizes by {kinds} and cuts by {[s.get('type') for s in steps]}",
        "supported are Llama's: Prepend and Replace, or Metaspace without split",
    )


def _word_piece(tokenizer: Json, config: Json, words: list[str]) -> Vocab:
    normalizer, model = tokenizer.get("normalizer") or {}, tokenizer["model"]
    ours = normalizer.get("clean_text", True) and normalizer.get("handle_chinese_chars", True)
    if normalizer.get("type") != "BertNormalizer" or not ours or model.get("continuing_subword_prefix", "##") != "##":
        raise _unsupported(f"its WordPiece tokenizer normalizes by {dict(normalizer)}", "BERT's own is supported")
    lowercase = bool(normalizer.get("lowercase", True))
    strip = normalizer.get("strip_accents")
    strip = lowercase if strip is None else bool(strip)
    types = _types(tokenizer, words)
    special = _special_ids(tokenizer, config, words, [])
    if "cls" not in special or "sep" not in special:
        raise ModelError("tokenizer_config.json names no cls_token and sep_token, as BERT's does")
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
        notes=("Korean is cut into other tokens: llama.cpp does not decompose Hangul, BERT does",) if strip else (),
    )


def _phantom(word: str, kind: int) -> str:
    """llama.cpp marks a word's start where BERT marks a word's continuation."""
    if kind in (TokenType.CONTROL, TokenType.UNUSED):
        return word
    return word.removeprefix("##") if word.startswith("##") else _SPACE + word


def _special_ids(tokenizer: Json, config: Json, words: list[str], eos_ids: list[int]) -> dict[str, int]:
    ids = {text: i for i, text in enumerate(words)}
    found = {}
    for kind in _SPECIALS:
        entry = config.get(f"{kind}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(text, str) and text in ids:
            found[kind] = ids[text]
    for kind, text in zip(("bos", "eos"), _template(tokenizer), strict=True):
        if kind not in found and text in ids:
            found[kind] = ids[text]
    others = [i for i in dict.fromkeys(eos_ids) if 0 <= i < len(words) and i != found.get("eos")]
    for kind in ("eos", "eot", "eom"):  # llama.cpp knows three ends
        if kind not in found and others:
            found[kind] = others.pop(0)
    return found


def _with_end(special: dict[str, int]) -> dict[str, int]:
    if "eos" not in special:  # llama.cpp would take token 11
        raise ModelError(
            "the tokenizer has no end-of-text token",
            hint="set eos_token in tokenizer_config.json, or eos_token_id in config.json",
        )
    return special


def _template(tokenizer: Json) -> tuple[str, str]:
    """The special tokens that encoding puts before and after a text, empty if none."""
    first = last = ""
    for step in _steps(tokenizer.get("post_processor"), "processors"):
        single = list(step.get("single") or []) if step.get("type") == "TemplateProcessing" else []
        if len(single) > 1:
            first = (single[0].get("SpecialToken") or {}).get("id", "")
            last = (single[-1].get("SpecialToken") or {}).get("id", "")
    return first, last


def _added_around(tokenizer: Json, config: Json) -> dict[str, bool]:
    """Whether encoding puts bos before and eos after the text: tokenizer_config.json's word, else the template's."""
    around = dict(zip(("bos", "eos"), map(bool, _template(tokenizer)), strict=True))
    said = {kind: config.get(f"add_{kind}_token") for kind in around}
    return {f"add_{k}_token": v if isinstance(v := said[k], bool) else around[k] for k in around}


def _unsupported(what: str, supported: str) -> ModelError:
    return ModelError(f"this model cannot be converted faithfully: {what}", hint=supported)
