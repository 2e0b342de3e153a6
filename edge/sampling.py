"""Draws the next token from a row of logits: llama.cpp's sampler chain, and short cuts that give the same token."""

from __future__ import annotations

import ctypes
import math
import random
from dataclasses import replace
from typing import Any

import llama_cpp.llama_cpp as native
import numpy as np
from numpy.typing import NDArray

from foreshore.edge.vocab import Vocab
from foreshore.errors import BadRequest, UpstreamError
from foreshore.types import Sampling, TokenLogprob

__all__ = ["Sampler", "logprobs", "resolve", "validate"]

PENALTY_WINDOW = 64  # tokens that repeat penalties look back on, llama.cpp's default
MAX_LOGPROBS = 20  # OpenAI's limit
MAX_GRAMMAR = 128 * 1024
MAX_NESTING = 64  # llama.cpp parses groups recursively
_SEEDS = 0xFFFFFFFF  # the last 32-bit value means "random" to llama.cpp
_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def validate(sampling: Sampling, vocab_size: int) -> None:
    """Raise `BadRequest`, naming the parameter, unless every value makes sense for this vocabulary."""
    s = sampling
    _whole("max_tokens", s.max_tokens, 1, None)
    _number("temperature", s.temperature, 0.0, 100.0)
    _number("top_p", s.top_p, 0.0, 1.0)
    _number("min_p", s.min_p, 0.0, 1.0)
    _whole("top_k", s.top_k, 0, None)
    _number("presence_penalty", s.presence_penalty, -2.0, 2.0)
    _number("frequency_penalty", s.frequency_penalty, -2.0, 2.0)
    _number("repeat_penalty", s.repeat_penalty, 0.01, 100.0)
    _whole("seed", s.seed, None, None)
    _whole("logprobs", s.logprobs, 0, MAX_LOGPROBS)
    if any(not isinstance(text, str) or not text for text in s.stop):
        raise BadRequest(f"stop is {list(s.stop)!r}; each must be a string of at least one character", param="stop")
    if not isinstance(s.grammar, str | None):
        raise BadRequest(f"grammar is {s.grammar!r:.80}; it must be text in GBNF", param="grammar")
    for token, bias in s.logit_bias.items():
        if not 0 <= token < vocab_size:
            raise BadRequest(
                f"logit_bias names token {token!r}, but the vocabulary has {vocab_size}", param="logit_bias"
            )
        _number("logit_bias", bias, -100.0, 100.0)


def resolve(sampling: Sampling, defaults: dict[str, float]) -> Sampling:
    """`sampling` with no `None` left: the model's own `defaults`, else what `Sampling` says; a seed is drawn."""
    s = sampling
    return replace(
        s,
        temperature=s.temperature if s.temperature is not None else defaults.get("temperature", 1.0),
        top_p=s.top_p if s.top_p is not None else defaults.get("top_p", 1.0),
        top_k=s.top_k if s.top_k is not None else int(defaults.get("top_k", 0)),
        min_p=s.min_p if s.min_p is not None else defaults.get("min_p", 0.0),
        seed=s.seed % _SEEDS if s.seed is not None else random.SystemRandom().randrange(_SEEDS),
    )


def logprobs(row: NDArray[np.float32], token: int, count: int, vocab: Vocab) -> TokenLogprob:
    """Natural-log probabilities of `token` and of the `count` likeliest, from the model's untouched logits."""
    peak = float(row.max())
    total = peak + math.log(float(np.exp(row - peak, dtype=np.float32).sum(dtype=np.float64)))
    best = np.argpartition(row, -count)[-count:] if 0 < count < len(row) else np.arange(len(row))[: count or 0]
    ranked = sorted((int(t) for t in best), key=lambda t: (-float(row[t]), t))

    def entry(t: int, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = vocab.piece(t)
        text = raw.decode("utf-8", "replace") if raw else vocab.text(t)
        return TokenLogprob(token=text, bytes=raw, logprob=float(row[t]) - total, top=top)

    return entry(token, tuple(entry(t) for t in ranked))


class Sampler:
    """Draws tokens for one sequence. `sampling` must be resolved and valid; `close` frees the native chain."""

    def __init__(self, sampling: Sampling, vocab: Vocab) -> None:
        self._greedy = _is_plain_greedy(sampling)
        self._chain: Any = None
        self._grammar: Any = None
        self._candidates: NDArray[Any] | None = None
        self._vocab = vocab
        if sampling.grammar is not None:
            self._grammar = _grammar(sampling.grammar, vocab)
        if not self._greedy:
            self._chain = _chain(sampling, vocab)

    def draw(self, row: NDArray[np.float32]) -> int:
        """The next token; the sampler's history includes it from now on."""
        token = self._pick(row)
        if self._grammar is not None:
            if not self._allowed(token):
                token = self._pick_within_grammar(row)
            native.llama_sampler_accept(self._grammar, token)
        if self._chain is not None:
            native.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        for sampler in (self._chain, self._grammar):
            if sampler is not None:
                native.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def _pick(self, row: NDArray[np.float32]) -> int:
        if self._chain is None:
            return int(row.argmax())
        array = self._fill(row)
        native.llama_sampler_apply(self._chain, ctypes.byref(array))
        return _selected(array)

    def _allowed(self, token: int) -> bool:
        """Whether the grammar lets `token` come next: asked of one candidate, not of the vocabulary."""
        one = np.array([(token, 1.0, 0.0)], _CANDIDATE)
        native.llama_sampler_apply(self._grammar, ctypes.byref(_array(one)))
        return bool(np.isfinite(one["logit"][0]))

    def _pick_within_grammar(self, row: NDArray[np.float32]) -> int:
        array = self._fill(row)
        assert self._candidates is not None
        native.llama_sampler_apply(self._grammar, ctypes.byref(array))
        if not np.isfinite(self._candidates["logit"]).any():
            raise UpstreamError(
                "no token of this model can continue the grammar", hint="relax the grammar or the JSON schema"
            )
        if self._chain is None:
            return int(self._candidates["id"][int(self._candidates["logit"].argmax())])
        native.llama_sampler_apply(self._chain, ctypes.byref(array))
        return _selected(array)

    def _fill(self, row: NDArray[np.float32]) -> Any:
        if self._candidates is None:
            self._candidates = np.zeros(len(row), _CANDIDATE)
            self._ids = np.arange(len(row), dtype=np.int32)
        self._candidates["id"] = self._ids
        self._candidates["logit"] = row
        return _array(self._candidates)


def _is_plain_greedy(s: Sampling) -> bool:
    penalised = (s.presence_penalty, s.frequency_penalty, s.repeat_penalty) != (0.0, 0.0, 1.0)
    return s.temperature == 0 and not penalised and not s.logit_bias


def _chain(s: Sampling, vocab: Vocab) -> Any:
    """Bias and penalties, then what narrows, then temperature, then the draw: llama.cpp's own order."""
    assert s.temperature is not None
    assert s.top_p is not None
    assert s.min_p is not None
    params = native.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = native.llama_sampler_chain_init(params)

    def add(sampler: Any) -> None:
        native.llama_sampler_chain_add(chain, sampler)

    if s.logit_bias:
        biases = (native.llama_logit_bias * len(s.logit_bias))(*s.logit_bias.items())
        add(native.llama_sampler_init_logit_bias(vocab.size, len(biases), biases))
    if (s.presence_penalty, s.frequency_penalty, s.repeat_penalty) != (0.0, 0.0, 1.0):
        penalties = (s.repeat_penalty, s.frequency_penalty, s.presence_penalty)
        add(native.llama_sampler_init_penalties(vocab.size, PENALTY_WINDOW, *penalties))
    if s.temperature == 0:
        add(native.llama_sampler_init_greedy())
        return chain
    if s.top_k:
        add(native.llama_sampler_init_top_k(s.top_k))
    if s.top_p < 1.0:
        add(native.llama_sampler_init_top_p(s.top_p, 1))
    if s.min_p > 0.0:
        add(native.llama_sampler_init_min_p(s.min_p, 1))
    add(native.llama_sampler_init_temp(s.temperature))
    add(native.llama_sampler_init_dist(s.seed))
    return chain


def _grammar(text: str, vocab: Vocab) -> Any:
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


def _array(candidates: NDArray[Any]) -> Any:
    data = candidates.ctypes.data_as(native.llama_token_data_p)
    return native.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)


def _selected(array: Any) -> int:
    if array.selected < 0:
        raise UpstreamError("the sampler chose no token: the model's logits are not numbers")
    return int(array.data[array.selected].id)


def _number(name: str, value: float | None, low: float, high: float) -> None:
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequest(f"{name} is {value!r}; it must be a number from {low:g} to {high:g}", param=name)


def _whole(name: str, value: int | None, low: int | None, high: int | None) -> None:
    if value is None:
        return
    wrong = not isinstance(value, int) or isinstance(value, bool)
    if wrong or (low is not None and value < low) or (high is not None and value > high):
        bounds = "" if low is None else f" from {low}" + ("" if high is None else f" to {high}")
        raise BadRequest(f"{name} is {value!r}; it must be a whole number{bounds}", param=name)
