"""tokenizer.json and tokenizer_config.json: what all kinds of tokenizers say alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from gguf import TokenType

from foreshore.errors import ModelError

__all__ = ["Json", "TokenizerJson", "unsupported"]

Json = Mapping[str, Any]

_SPECIALS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_STEPS = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "post_processor": "processors"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerJson:
    """`data` is tokenizer.json, empty where the words come from elsewhere, `config` tokenizer_config.json.

    Whatever reads a damaged file may raise `KeyError`, `TypeError`, `ValueError`, `AttributeError` or `IndexError`.
    """

    data: Json
    config: Json
    words: list[str]  # the token texts by id
    ends: Sequence[int]  # further ids that end an answer, as generation_config.json lists them

    @classmethod
    def read(cls, data: Json, config: Json, ends: Sequence[int], size: int) -> TokenizerJson:
        """Rows of the embedding, `size` in all, that no token uses are named [PAD...]."""
        texts = {i: text for text, i in _ids(data).items()}
        texts |= {int(t["id"]): str(t["content"]) for t in data.get("added_tokens") or ()}
        if min(texts, default=0) < 0 or max(texts, default=-1) >= size:
            raise ModelError(f"tokenizer.json has the token id {max(texts)}, but the model has only {size} rows")
        words = [texts.get(i) or f"[PAD{i}]" for i in range(size)]
        return cls(data=data, config=config, words=words, ends=ends)

    @property
    def model(self) -> Json:
        found: Json = self.data["model"]
        return found

    def steps(self, part: str) -> list[Json]:
        """The steps of a normalizer, pre_tokenizer or post_processor, which are a sequence or one alone."""
        value = self.data.get(part)
        if not value:
            return []
        return list(value.get(_STEPS[part], ())) if value.get("type") == "Sequence" else [value]

    def kinds(self, part: str) -> list[str]:
        return [str(step.get("type")) for step in self.steps(part)]

    def added(self) -> list[Json]:
        return list(self.data.get("added_tokens") or ())

    def types(self) -> list[int]:
        used = set(_ids(self.data).values())
        types = [TokenType.NORMAL if i in used else TokenType.UNUSED for i in range(len(self.words))]
        for token in self.added():
            types[token["id"]] = TokenType.CONTROL if token.get("special") else TokenType.USER_DEFINED
        return [int(t) for t in types]

    def merges(self) -> list[tuple[str, str]]:
        pairs = [m.split(" ") if isinstance(m, str) else list(m) for m in self.model.get("merges") or ()]
        bad = next((p for p in pairs if len(p) != 2), None)
        if bad:
            raise ModelError(f"tokenizer.json has the damaged merge {bad!r}")
        return [(left, right) for left, right in pairs]

    def special(self) -> dict[str, int]:
        """The ids of bos, eos, unk, ...; what encoding puts around a text wins over what the config calls so."""
        ids = {text: i for i, text in enumerate(self.words)}
        found = {kind: ids[text] for kind in _SPECIALS if (text := self._named(kind)) in ids}
        said = [found["eos"]] if "eos" in found else []
        for kind, text in zip(("bos", "eos"), self.frame(), strict=True):
            if text in ids:
                found[kind] = ids[text]
        others = [i for i in dict.fromkeys([*said, *self.ends]) if 0 <= i < len(ids) and i != found.get("eos")]
        for kind in ("eos", "eot", "eom"):  # llama.cpp knows three ends
            if kind not in found and others:
                found[kind] = others.pop(0)
        return found

    def special_with_end(self, known: Mapping[str, int] = MappingProxyType({})) -> dict[str, int]:
        """As `special`, over those that are `known` already. Raises `ModelError` where nothing ends a text."""
        found = {**known, **self.special()}
        if "eos" not in found:  # llama.cpp would take token 11
            raise ModelError(
                "the tokenizer has no end-of-text token",
                hint="set eos_token in tokenizer_config.json, or eos_token_id in config.json",
            )
        return found

    def frame(self) -> tuple[str, str]:
        """The special tokens that encoding puts before and after a text, empty if none."""
        first = last = ""
        for step in self.steps("post_processor"):
            if step.get("type") in ("RobertaProcessing", "BertProcessing"):
                first, last = step["cls"][0], step["sep"][0]
            elif step.get("type") == "TemplateProcessing":
                first, last = _around(step["single"])
        return first, last

    def framed(self) -> dict[str, bool]:
        """Whether encoding puts bos before and eos after a text: tokenizer_config.json's word, else the template's."""
        found = {}
        for kind, text in zip(("bos", "eos"), self.frame(), strict=True):
            said = self.config.get(f"add_{kind}_token")
            found[f"add_{kind}_token"] = said if isinstance(said, bool) else bool(text)
        return found

    def stripping(self) -> tuple[str, ...]:
        """A note on tokens that drop the spaces beside them."""
        tokens = [t["content"] for t in self.added() if t.get("lstrip") or t.get("rstrip")]
        return (f"spaces beside {', '.join(tokens[:4])} are kept, the tokenizer would drop them",) if tokens else ()

    def _named(self, kind: str) -> str | None:
        entry = self.config.get(f"{kind}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        return text if isinstance(text, str) else None


def unsupported(what: str, supported: str) -> ModelError:
    return ModelError(f"this model cannot be converted faithfully: {what}", hint=supported)


def _ids(data: Json) -> dict[str, int]:
    """Unigram lists its tokens with their scores, the others map them to their ids."""
    vocab = data["model"]["vocab"]
    if isinstance(vocab, list):
        return {str(text): i for i, (text, _) in enumerate(vocab)}
    return {str(text): int(i) for text, i in vocab.items()}


def _around(single: list[Json]) -> tuple[str, str]:
    names = [str((piece.get("SpecialToken") or {}).get("id", "")) for piece in single]  # the text itself has none
    at = names.index("")
    before, after = names[:at], names[at + 1 :]
    if len(before) > 1 or len(after) > 1:
        raise unsupported(
            f"its tokenizer puts {before} before and {after} after a text", "one token is supported on either side"
        )
    return "".join(before), "".join(after)
