"""Byte-level BPE, as GPT-2 began it. llama.cpp has the expressions that cut the text compiled in and known by name."""

from __future__ import annotations

from foreshore.quantize.convert.tokenizer_json import Json, TokenizerJson, unsupported
from foreshore.quantize.convert.vocab import Vocab

__all__ = ["byte_level"]

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST_SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = r"[^\r\n\p{L}\p{N}]?"
_TEKKEN = f"{_CASED}{_UPPER}*{_LOWER}+|{_CASED}{_UPPER}+{_LOWER}*|" + r"\p{N}" + _REST_SLASH
_GPT4O = (
    f"{_CASED}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_CASED}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|"
    + r"\p{N}{1,3}"
    + _REST_SLASH
)

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
    ((_TEKKEN,), True): "tekken",
    # Here llama.cpp skips the merges of a word that is a token, asked or not; it changes nothing, as each token of
    # such vocabularies is what its merges make. What it calls gpt-4o would leave marks out of words.
    ((_TEKKEN,), False): "tekken",
    ((_GPT4O,), True): "granite-embed-multi-97m",
    ((_GPT4O,), False): "granite-embed-multi-97m",
}
_MARKS_NOTE = "letters with marks, as in Hindi and Thai, are cut into smaller tokens: llama.cpp has a simpler rule"


def byte_level(tokenizer: TokenizerJson) -> Vocab:
    model = tokenizer.model
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise unsupported(f"its BPE model sets {key}", "plain byte-level BPE is supported")
    pre = _pre_tokenizer(tokenizer, bool(model.get("ignore_merges")))
    return Vocab(
        model="gpt2",
        pre=pre,
        tokens=tokenizer.words,
        types=tokenizer.types(),
        merges=[" ".join(pair) for pair in tokenizer.merges()],
        special=tokenizer.special_with_end(),
        flags=tokenizer.framed(),
        notes=(*_normal_form(tokenizer), *tokenizer.stripping(), *((_MARKS_NOTE,) if pre == "tekken" else ())),
    )


def _pre_tokenizer(tokenizer: TokenizerJson, ignore_merges: bool) -> str:
    steps = tokenizer.steps("pre_tokenizer")
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        kinds = tokenizer.kinds("pre_tokenizer")
        raise unsupported(f"its pre-tokenizer is {kinds}", "supported are those that end with a plain ByteLevel step")
    patterns = tuple(p for step in steps if (p := _pattern(step)))
    pre = _PRE.get((patterns, ignore_merges))
    if pre is None:
        raise unsupported(
            f"its pre-tokenizer cuts text by {patterns!r} (ignore_merges {ignore_merges})",
            f"supported are those of {', '.join(sorted(set(_PRE.values())))}",
        )
    return pre


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


def _normal_form(tokenizer: TokenizerJson) -> tuple[str, ...]:
    kinds = tokenizer.kinds("normalizer")
    if not kinds:
        return ()
    if kinds == ["NFC"]:
        return ("the tokenizer normalizes text to NFC, llama.cpp does not: send text that is in NFC, as most is",)
    raise unsupported(f"its tokenizer normalizes text by {kinds}", "byte-level BPE is supported with NFC or nothing")
