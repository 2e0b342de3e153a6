"""llama.cpp's samplers for one request, in order, and a native chain of some of them.

Order, names and the rules for mirostat and adaptive-p are those of llama-server; a sampler whose settings make it do
nothing is left out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as native

from foreshore.edge.sampling.dry import dry_sampler
from foreshore.edge.vocab import Vocab
from foreshore.types import Sampling

__all__ = ["ALIASES", "ORDER", "SAMPLERS", "Chain", "Stage", "order", "stages"]

# llama.cpp's default order (common/common.h).
ORDER = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
SAMPLERS = (*ORDER, "infill", "adaptive_p")
ALIASES = {"typical_p": "typ_p", "temp": "temperature", "nucleus": "top_p"}
MIROSTAT_M = 100  # tokens that Mirostat 1 estimates from, llama.cpp's value


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One sampler: its name, and what makes a native one of it."""

    name: str
    make: Callable[[], Any]


def order(s: Sampling) -> tuple[str, ...]:
    """The names of `s.samplers` as llama.cpp's own, or its default order."""
    return ORDER if s.samplers is None else tuple(ALIASES.get(name, name) for name in s.samplers)


def stages(s: Sampling, vocab: Vocab) -> list[Stage]:
    """The active samplers of resolved and valid `s`, in order; the last one draws. Logit bias is no part of it."""
    assert s.temperature is not None
    assert s.seed is not None
    if s.mirostat:
        return [_temperature(s), _mirostat(s, s.seed, vocab)]
    makers = _makers(s, vocab)
    found = [makers[name] for name in order(s) if name in makers]
    if s.temperature == 0:
        return [*found, Stage(name="greedy", make=native.llama_sampler_init_greedy)]
    if s.adaptive_target >= 0:
        target, decay, seed = s.adaptive_target, s.adaptive_decay, s.seed
        return [
            *found,
            Stage(name="adaptive_p", make=lambda: native.llama_sampler_init_adaptive_p(target, decay, seed)),
        ]
    seed = s.seed
    return [*found, Stage(name="dist", make=lambda: native.llama_sampler_init_dist(seed))]


def _makers(s: Sampling, vocab: Vocab) -> dict[str, Stage]:
    """Each sampler that does something, by the name that `samplers` has for it."""
    penalties = (s.repeat_penalty, s.frequency_penalty, s.presence_penalty)
    makers: dict[str, Callable[[], Any]] = {"infill": lambda: native.llama_sampler_init_infill(vocab.handle)}
    if s.repeat_last_n and penalties != (1.0, 0.0, 0.0):
        makers["penalties"] = lambda: native.llama_sampler_init_penalties(vocab.size, s.repeat_last_n, *penalties)
    if s.dry_multiplier and s.dry_penalty_last_n:
        makers["dry"] = lambda: dry_sampler(s, vocab)
    if s.top_n_sigma > 0:
        makers["top_n_sigma"] = lambda: native.llama_sampler_init_top_n_sigma(s.top_n_sigma)
    if s.top_k:
        makers["top_k"] = lambda: native.llama_sampler_init_top_k(min(s.top_k or 0, vocab.size))
    if s.typical_p < 1:
        makers["typ_p"] = lambda: native.llama_sampler_init_typical(s.typical_p, s.min_keep)
    if s.top_p is not None and s.top_p < 1:
        makers["top_p"] = lambda: native.llama_sampler_init_top_p(s.top_p, s.min_keep)
    if s.min_p:
        makers["min_p"] = lambda: native.llama_sampler_init_min_p(s.min_p, s.min_keep)
    if s.xtc_probability and s.xtc_threshold <= 0.5:
        xtc = (s.xtc_probability, s.xtc_threshold, s.min_keep, s.seed)
        makers["xtc"] = lambda: native.llama_sampler_init_xtc(*xtc)
    found = {name: Stage(name=name, make=make) for name, make in makers.items()}
    return {**found, "temperature": _temperature(s)}


def _temperature(s: Sampling) -> Stage:
    if s.dynatemp_range:
        dynamic = (s.temperature, s.dynatemp_range, s.dynatemp_exponent)
        return Stage(name="dynatemp", make=lambda: native.llama_sampler_init_temp_ext(*dynamic))
    return Stage(name="temperature", make=lambda: native.llama_sampler_init_temp(s.temperature))


def _mirostat(s: Sampling, seed: int, vocab: Vocab) -> Stage:
    tau, eta = s.mirostat_tau, s.mirostat_eta
    if s.mirostat == 1:
        make = lambda: native.llama_sampler_init_mirostat(vocab.size, seed, tau, eta, MIROSTAT_M)  # noqa: E731
    else:
        make = lambda: native.llama_sampler_init_mirostat_v2(seed, tau, eta)  # noqa: E731
    return Stage(name="mirostat", make=make)


class Chain:
    """A native chain of `stages`. `close` frees it."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        params = native.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = native.llama_sampler_chain_init(params)
        try:
            for stage in stages:
                native.llama_sampler_chain_add(self._chain, stage.make())
        except BaseException:
            self.close()
            raise

    def apply(self, candidates: Any) -> None:
        """Change a `llama_token_data_array`, which must hold at least one token."""
        native.llama_sampler_apply(self._chain, ctypes.byref(candidates))

    def accept(self, token: int) -> None:
        native.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        native.llama_sampler_free(self._chain)
        self._chain = None
