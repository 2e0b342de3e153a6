"""A GBNF grammar that an answer follows: one token is checked cheaply, and the whole vocabulary rarely."""

from __future__ import annotations

import re

import llama_cpp.llama_cpp as native
import numpy as np

from foreshore.edge.grammar.time_limit import TimeLimit
from foreshore.edge.sampling.candidates import Candidates, Ids, Logits
from foreshore.edge.sampling.chain import Chain, Stage
from foreshore.edge.sampling.scratch import scratch
from foreshore.edge.vocab import Vocab
from foreshore.errors import BadRequest

__all__ = ["Grammar"]

MAX_GRAMMAR = 128 * 1024
FEW = 1  # tokens that are checked first, and then eight times as many each time, while that is quick
QUICK_S = 0.01
MAX_NESTING = 64  # llama.cpp parses groups recursively
# What stands between quotes or brackets; a `<` outside of both names a token, whose bytes say nothing about it.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|#[^\n]*')


class Grammar:
    """Where a text stands in the grammar `text`, whose root rule is `root`. `close` frees it."""

    def __init__(self, text: str, vocab: Vocab) -> None:
        """Raises `BadRequest` where `text` is no grammar, or a larger one than can be read safely; later methods too,
        where it takes too long."""
        self._vocab = vocab
        self._limit = TimeLimit()
        self._by_bytes = "<" not in _QUOTED.sub("", text)
        with self._limit:
            self._chain = Chain([Stage(name="grammar", make=lambda: _read(text, vocab))])
        self._one = np.zeros(1, np.intp)
        self._zero = np.zeros(1, np.float32)

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""
        self._one[0] = token
        return len(self._allowed(self._one, self._zero)) > 0

    def mask(self, row: Logits, best: Ids | None, enough: int) -> Logits:
        """`row` with minus infinity for what may not come next. Raises `BadRequest` where nothing may.

        If `enough` of the tokens `best` may, the others count as forbidden.
        """
        ids = np.empty(0, np.intp) if best is None else self._allowed(best, row[best])
        if not len(ids) or len(ids) < enough:
            everyone = self._possible()
            ids = self._allowed(everyone, row[everyone])
        if not len(ids):
            raise BadRequest(
                "no token of this model can continue the grammar",
                hint="relax the grammar or the JSON schema",
                param="grammar",
            )
        masked = scratch("masked", len(row))
        masked.fill(-np.inf)
        masked[ids] = row[ids]
        return masked

    def accept(self, token: int) -> None:
        with self._limit:
            self._chain.accept(token)
        self._limit.next_token()

    def close(self) -> None:
        self._chain.close()

    def _allowed(self, ids: Ids, logits: Logits) -> Ids:
        """Few at first: a grammar that takes too long is found out before all of a vocabulary was tried."""
        candidates, found = Candidates.shared(), list[Ids]()
        at, size = 0, FEW
        while at < len(ids):
            part = slice(at, at + size)
            with self._limit:
                self._chain.apply(candidates.fill(ids[part], logits[part]))
            found.append(ids[part][np.isfinite(candidates.logits(len(ids[part])))])
            at, size = at + size, 8 * size if self._limit.spent < QUICK_S else size
        return found[0] if len(found) == 1 else np.concatenate(found) if found else ids

    def _possible(self) -> Ids:
        """All tokens but those whose first byte already breaks the grammar, which the byte's own token tells."""
        if not self._by_bytes:
            return np.arange(self._vocab.size)
        first = self._vocab.first_bytes
        with self._limit:
            self._chain.apply(Candidates.shared().fill(first.probes, np.zeros(len(first.probes), np.float32)))
        barred = ~np.isfinite(Candidates.shared().logits(len(first.probes)))
        shut = set(first.values[barred].tolist())
        return np.concatenate([group for byte, group in enumerate(first.groups) if byte not in shut])


def _read(text: str, vocab: Vocab) -> object:
    if len(text) > MAX_GRAMMAR:
        raise BadRequest(f"the grammar has {len(text)} characters; at most {MAX_GRAMMAR}", param="grammar")
    if _nesting(text) > MAX_NESTING:
        raise BadRequest(f"the grammar nests more than {MAX_NESTING} groups", param="grammar")
    sampler = native.llama_sampler_init_grammar(vocab.handle, text.encode("utf-8", "replace"), b"root")
    if not sampler:
        raise BadRequest(
            f"the grammar cannot be read: {text[:80]!r}", hint="GBNF with a rule named `root`", param="grammar"
        )
    return sampler


def _nesting(text: str) -> int:
    depth = deepest = 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        deepest = max(deepest, depth)
    return deepest
