"""How a cross-encoder reads a query and a document: as one sequence of tokens."""

from __future__ import annotations

import re

import llama_cpp.llama_cpp as native

from foreshore.edge.vocab import Vocab

__all__ = ["Pairing"]

_BLANK = re.compile(r"(\{query\}|\{document\})")


class Pairing:
    """Tokens of one pair, after `template` (the file's `tokenizer.chat_template.rerank`) where there is one.

    Otherwise `[BOS] query [EOS] [SEP] document [EOS]`, each mark only where the vocabulary asks for it. BERT has no
    EOS: `[CLS] query [SEP] document [SEP]`, as such models were trained (llama-server leaves the last one out).
    Text of the caller makes no control tokens.
    """

    def __init__(self, vocab: Vocab, template: str | None = None) -> None:
        self._vocab, self._template = vocab, template
        handle = vocab.handle
        sep = int(native.llama_vocab_sep(handle))
        end = int(native.llama_vocab_eos(handle))
        end = sep if end < 0 else end
        self._begin = [int(native.llama_vocab_bos(handle))] if native.llama_vocab_get_add_bos(handle) else []
        ends = [end] if native.llama_vocab_get_add_eos(handle) else []
        separates = [sep] if native.llama_vocab_get_add_sep(handle) else []
        self._between = ends + separates
        self._end = ends or separates

    def tokens(self, query: str, document: str) -> list[int]:
        if self._template is not None:
            return self._filled(self._template, {"{query}": query, "{document}": document})
        return [*self._begin, *self._text(query), *self._between, *self._text(document), *self._end]

    def _filled(self, template: str, texts: dict[str, str]) -> list[int]:
        tokens: list[int] = []
        for part in _BLANK.split(template):
            tokens += self._text(texts[part]) if part in texts else self._vocab.tokenize(part, special=True)
        return tokens

    def _text(self, text: str) -> list[int]:
        return self._vocab.tokenize(text, special=False)
