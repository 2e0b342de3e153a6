"""Which values of `Sampling` make sense, alone and together, and what stands for those that are not given."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from foreshore.edge.sampling.chain import ALIASES, SAMPLERS, order
from foreshore.errors import BadRequest
from foreshore.types import Sampling

__all__ = ["resolve", "validate"]

MAX_LOGPROBS = 20  # OpenAI's limit
MAX_WINDOW = 1 << 18  # tokens to look back on: llama.cpp reserves memory for all of them
MAX_BREAKERS, MAX_BREAKER_BYTES = 16, 40  # llama.cpp cuts longer ones
_SEEDS = 0xFFFFFFFF  # the last 32-bit value means "random" to llama.cpp
_OFF = Sampling()

# Bounds of each number, the last inclusive. Where llama-server has bounds these are they.
_NUMBERS: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "top_n_sigma": (-1.0, 100.0),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "dynatemp_range": (0.0, 100.0),
    "dynatemp_exponent": (0.0, 100.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repeat_penalty": (0.01, 100.0),
    "dry_multiplier": (0.0, 100.0),
    "dry_base": (1.0, 100.0),
    "mirostat_tau": (0.0, 100.0),
    "mirostat_eta": (0.0, 1.0),
    "adaptive_target": (-1.0, 1.0),
    "adaptive_decay": (0.0, 0.99),
}
_WHOLES: dict[str, tuple[int | None, int | None]] = {
    "max_tokens": (1, None),
    "top_k": (0, None),
    "seed": (None, None),
    "logprobs": (0, MAX_LOGPROBS),
    "repeat_last_n": (0, MAX_WINDOW),
    "dry_allowed_length": (0, MAX_WINDOW),
    "dry_penalty_last_n": (0, MAX_WINDOW),
    "mirostat": (0, 2),
    "min_keep": (0, None),
}
# What switches each sampler on: field, then what the value must differ from.
_SWITCHES: dict[str, tuple[str, ...]] = {
    "penalties": ("repeat_penalty", "presence_penalty", "frequency_penalty"),
    "dry": ("dry_multiplier",),
    "top_n_sigma": ("top_n_sigma",),
    "top_k": ("top_k",),
    "typ_p": ("typical_p",),
    "top_p": ("top_p",),
    "min_p": ("min_p",),
    "xtc": ("xtc_probability",),
    "temperature": ("temperature", "dynatemp_range"),
    "adaptive_p": ("adaptive_target",),
}


def validate(sampling: Sampling, vocab_size: int) -> None:
    """Raise `BadRequest`, naming the parameter, unless every value makes sense here and beside the others."""
    for name, (low, high) in _NUMBERS.items():
        _number(name, getattr(sampling, name), low, high)
    for name, (least, most) in _WHOLES.items():
        _whole(name, getattr(sampling, name), least, most)
    if any(not isinstance(text, str) or not text for text in sampling.stop):
        raise BadRequest(
            f"stop is {list(sampling.stop)!r}; each must be a string of at least one character", param="stop"
        )
    if not isinstance(sampling.grammar, str | None):
        raise BadRequest(f"grammar is {sampling.grammar!r:.80}; it must be text in GBNF", param="grammar")
    _check_bias(sampling, vocab_size)
    _check_breakers(sampling)
    _check_samplers(sampling)
    _check_together(sampling)


def resolve(sampling: Sampling, defaults: dict[str, float]) -> Sampling:
    """`sampling` with no `None` left but `samplers`: the model's own `defaults`, else what `Sampling` says.

    A seed is drawn. With mirostat, which no narrowing precedes, the model's defaults for narrowing are not used.
    """
    s = sampling
    model = {k: v for k, v in defaults.items() if not s.mirostat or k == "temperature"}
    temperature = s.temperature if s.temperature is not None else model.get("temperature", 1.0)
    return replace(
        s,
        temperature=temperature,
        top_p=s.top_p if s.top_p is not None else model.get("top_p", 1.0),
        top_k=s.top_k if s.top_k is not None else int(model.get("top_k", 0)),
        min_p=s.min_p if s.min_p is not None else model.get("min_p", 0.0),
        seed=s.seed % _SEEDS if s.seed is not None else random.SystemRandom().randrange(_SEEDS),
    )


def _check_bias(s: Sampling, vocab_size: int) -> None:
    for token, bias in s.logit_bias.items():
        if not 0 <= token < vocab_size:
            raise BadRequest(
                f"logit_bias names token {token!r}, but the vocabulary has {vocab_size}", param="logit_bias"
            )
        _number("logit_bias", bias, -100.0, 100.0)


def _check_breakers(s: Sampling) -> None:
    breakers = s.dry_sequence_breakers
    if not isinstance(breakers, (tuple, list)) or len(breakers) > MAX_BREAKERS or not all(map(_breaker, breakers)):
        raise BadRequest(
            f"dry_sequence_breakers is {breakers!r:.200}; up to {MAX_BREAKERS} texts of 1 to {MAX_BREAKER_BYTES} bytes",
            param="dry_sequence_breakers",
        )


def _breaker(text: Any) -> bool:
    return isinstance(text, str) and "\0" not in text and 0 < len(text.encode("utf-8", "replace")) <= MAX_BREAKER_BYTES


def _check_samplers(s: Sampling) -> None:
    if s.samplers is None:
        return
    names = s.samplers
    if not isinstance(names, (tuple, list)) or not all(isinstance(n, str) for n in names):
        raise BadRequest(f"samplers is {names!r:.200}; it must be a list of names", param="samplers")
    wrong = [n for n in names if ALIASES.get(n, n) not in SAMPLERS]
    if wrong:
        raise BadRequest(f"samplers names {wrong[0]!r}", hint="there are " + ", ".join(SAMPLERS), param="samplers")
    if len(set(order(s))) < len(names):
        raise BadRequest(f"samplers is {list(names)!r}; each may stand there once", param="samplers")
    for name, switches in _SWITCHES.items():
        for field in switches if name not in order(s) else ():
            if _is_set(s, field):
                raise BadRequest(
                    f"{field} is {getattr(s, field)!r}, but samplers leaves {name!r} out",
                    hint=f"add {name!r} to samplers, or leave {field} out",
                    param=field,
                )
    if "adaptive_p" in order(s) and s.adaptive_target < 0:
        raise BadRequest("samplers names 'adaptive_p', but adaptive_target is not set", param="adaptive_target")


def _check_together(s: Sampling) -> None:
    """What llama.cpp would pass over in silence, or make nonsense of."""
    if s.mirostat:
        for field in _beside_mirostat(s):
            raise BadRequest(
                f"mirostat {s.mirostat} takes the place of {field}, which is {getattr(s, field)!r}",
                hint=f"leave {field} or mirostat out",
                param=field,
            )
    for field in ("mirostat", "dynatemp_range", "adaptive_target"):
        if s.temperature == 0 and _is_set(s, field):
            raise BadRequest(
                f"{field} is {getattr(s, field)!r}, which temperature 0 (always the best token) leaves no room for",
                hint="set a temperature above 0",
                param=field,
            )


def _beside_mirostat(s: Sampling) -> Iterator[str]:
    fields = [field for name, switches in _SWITCHES.items() if name != "temperature" for field in switches]
    for field in (*fields, "dynatemp_range", "samplers"):
        if _is_set(s, field):
            yield field


def _is_set(s: Sampling, field: str) -> bool:
    """Whether the caller wants what `field` does: a value, and not one that means off."""
    value = getattr(s, field)
    if field in ("top_n_sigma", "adaptive_target"):
        return bool(value > 0) if field == "top_n_sigma" else bool(value >= 0)
    if field in ("top_p", "temperature"):
        return value not in (None, 1.0)
    return value is not None and value != getattr(_OFF, field) and not (field in ("top_k", "min_p") and value == 0)


def _number(name: str, value: float | None, low: float, high: float) -> None:
    if value is None and getattr(_OFF, name, 0) is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequest(f"{name} is {value!r}; it must be a number from {low:g} to {high:g}", param=name)


def _whole(name: str, value: int | None, low: int | None, high: int | None) -> None:
    if value is None and getattr(_OFF, name, 0) is None:
        return
    wrong = not isinstance(value, int) or isinstance(value, bool)
    assert value is None or wrong or isinstance(value, int)
    if wrong or value is None or (low is not None and value < low) or (high is not None and value > high):
        bounds = "" if low is None else f" from {low}" + ("" if high is None else f" to {high}")
        raise BadRequest(f"{name} is {value!r}; it must be a whole number{bounds}", param=name)
