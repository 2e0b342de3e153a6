"""Draws the next token from a row of logits: the token that llama.cpp's sampler chain would draw, by less work.

Logits are changed where biases and penalties touch them (`touch`), narrowed to the tokens that can matter (`narrow`),
and only these go through the native samplers (`draw`). Where a grammar is given, a token is drawn first and checked
alone; only if it is refused does the grammar look at the others. docs/sampling.md says what is guaranteed.
"""

from __future__ import annotations

from collections.abc import Sequence

from foreshore.edge.grammar.grammar import Grammar
from foreshore.edge.sampling.candidates import Ids, Logits
from foreshore.edge.sampling.chain import Stage, stages
from foreshore.edge.sampling.draw import Draw, Greedy, Narrowed, Tempered
from foreshore.edge.sampling.dry import dry_prototype
from foreshore.edge.sampling.logprobs import logprobs
from foreshore.edge.sampling.narrow import best, everything, min_p, ranked, top_k, top_n_sigma, top_p
from foreshore.edge.sampling.touch import Touch
from foreshore.edge.sampling.values import resolve, validate
from foreshore.edge.vocab import Vocab
from foreshore.types import Sampling

__all__ = ["Sampler", "logprobs", "resolve", "validate", "warm"]

_TOUCHING = ("penalties", "dry")
_KEEP_THE_BEST = {"top_n_sigma", "top_k", "top_p", "min_p", "temperature", "greedy"}  # so a greedy draw needs no other
_BLIND_TO_MASKED = {"top_k", "top_p", "min_p", "temperature", "dist"}  # a token at minus infinity changes nothing there
_SORT_FIRST = {"typ_p", "dynatemp", "mirostat", "infill"}  # the first that these do is to sort all tokens
_SMALL = 2048  # a vocabulary that is read whole sooner than narrowed
_PORTION = 64  # of the best tokens, that a grammar looks at before all


def warm(sampling: Sampling, vocab: Vocab) -> None:
    """Do beforehand, in any thread, what takes long the first time that such a `Sampler` is made or used."""
    if sampling.grammar is not None and vocab.handle:
        _ = vocab.first_bytes
    if any(stage.name == "dry" for stage in stages(sampling, vocab)):
        dry_prototype(sampling, vocab)


class Sampler:
    """Draws tokens for one sequence. `sampling` must be resolved and valid; `close` frees what is native."""

    def __init__(self, sampling: Sampling, vocab: Vocab, history: Sequence[int] = ()) -> None:
        """`history` is the text so far, the prompt: penalties and DRY look back on its end, as llama-server's do."""
        planned = stages(sampling, vocab)
        touching = _leading(planned)
        window = _window(sampling, touching)
        self._window = _window(sampling, planned)
        self._enough = 0
        self._touch: Touch | None = None
        self._grammar: Grammar | None = None
        if sampling.grammar is not None:
            self._grammar = Grammar(sampling.grammar, vocab)
        if touching or sampling.logit_bias:
            self._touch = Touch(sampling.logit_bias, touching, window)
        self._draw = _drawing(planned[len(touching) :], sampling, vocab.size)
        self._enough = _enough(planned[len(touching) :], sampling)
        self.prime(history)

    def prime(self, tokens: Sequence[int]) -> None:
        """Take `tokens` as text that stands before what is drawn."""
        for token in tokens[-self._window :] if self._window else ():
            self._remember(token)

    def draw(self, row: Logits) -> int:
        """The next token; the history includes it from now on. `row` is read during the call alone, never changed."""
        logits = row if self._touch is None else self._touch.apply(row)
        token = self._draw.pick(logits)
        if self._grammar is not None:
            if not self._grammar.allows(token):
                token = self._draw.pick(self._grammar.mask(logits, self._likely(logits), self._enough))
            self._grammar.accept(token)
        self._remember(token)
        return token

    def close(self) -> None:
        for part in (self._touch, self._grammar, self._draw):
            if part is not None:
                part.close()

    def _remember(self, token: int) -> None:
        if self._touch is not None:
            self._touch.accept(token)
        self._draw.accept(token)

    def _likely(self, logits: Logits) -> Ids | None:
        """Tokens among which the next one surely is, if the grammar allows enough of them."""
        return best(logits, max(_PORTION, 4 * self._enough)) if self._enough else None


def _leading(planned: Sequence[Stage]) -> list[Stage]:
    found = []
    for stage in planned:
        if stage.name not in _TOUCHING:
            break
        found.append(stage)
    return found


def _window(s: Sampling, planned: Sequence[Stage]) -> int:
    sizes = {"penalties": s.repeat_last_n, "dry": s.dry_penalty_last_n}
    return max((sizes.get(stage.name, 0) for stage in planned), default=0)


def _enough(planned: Sequence[Stage], s: Sampling) -> int:
    """How many of the best allowed tokens make all others needless; 0 where none do."""
    if _is_greedy(planned):
        return 1
    return s.top_k or 0 if planned[0].name == "top_k" else 0


def _is_greedy(planned: Sequence[Stage]) -> bool:
    return planned[-1].name == "greedy" and {stage.name for stage in planned} <= _KEEP_THE_BEST


def _drawing(planned: Sequence[Stage], s: Sampling, size: int) -> Draw:
    """The cheapest way that gives what the native samplers `planned` would give for the whole vocabulary."""
    assert s.temperature is not None
    assert s.seed is not None
    names = [stage.name for stage in planned]
    if _is_greedy(planned):
        return Greedy()
    if size <= _SMALL:
        return Narrowed(everything, planned)
    if names == ["temperature", "dist"]:
        return Tempered(s.temperature, s.seed, size)
    if names[0] == "top_k":
        return Narrowed(top_k(s.top_k or 0), planned)
    if names[0] == "min_p":
        return Narrowed(min_p(s.min_p or 0.0, s.min_keep), planned)
    if names[0] == "top_p":
        return Narrowed(top_p(s.top_p or 0.0, s.min_keep), planned[1:], ranked=True)
    if names[0] == "top_n_sigma" and set(names[1:]) <= _BLIND_TO_MASKED:
        return Narrowed(top_n_sigma(s.top_n_sigma), planned[1:])
    if names[names[0] == "temperature"] in _SORT_FIRST:
        return Narrowed(ranked, planned, ranked=True)
    return Narrowed(everything, planned)
