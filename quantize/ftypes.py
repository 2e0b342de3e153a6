"""The quantization types: every one that `llama_model_quantize` offers, named as people name them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache

from foreshore.errors import UsageError

__all__ = ["FLOATS", "NEEDS_IMATRIX", "check_imatrix", "ftypes", "parse_types"]

FLOATS = ("f16", "bf16", "f32")
# Below about 3 bits the rounding must know which weights matter: llama.cpp refuses these without an importance matrix.
NEEDS_IMATRIX = frozenset({"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "q2_k_s"})
_NOT_OFFERED = {"guessed", "nvfp4"}  # NVFP4 can be loaded, but llama_model_quantize cannot make it


@cache
def ftypes() -> dict[str, int]:
    """Name -> llama_ftype, from the binding's constants."""
    from llama_cpp import llama_cpp

    names = {
        key.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_").lower(): value
        for key, value in vars(llama_cpp).items()
        if key.startswith("LLAMA_FTYPE_")
    }
    return {name: value for name, value in names.items() if name not in _NOT_OFFERED}


def parse_types(types: Iterable[str]) -> tuple[str, ...]:
    """The types, lower-case, each once. Raises `UsageError` with the closest names and the whole list."""
    wanted = tuple(dict.fromkeys(t.strip().lower() for t in types if t.strip()))
    if not wanted:
        raise UsageError("no quantization type given", hint=_all())
    for name in wanted:
        if name not in ftypes():
            raise UsageError(f"{name!r} is not a quantization type", hint=_closest(name) + _all())
    return wanted


def check_imatrix(types: Iterable[str]) -> None:
    """Raise `UsageError` if one of `types` cannot be made without an importance matrix."""
    for name in types:
        if name in NEEDS_IMATRIX:
            raise UsageError(
                f"{name!r} needs an importance matrix: without one its weights would be rounded into garbage",
                hint="let one be collected with --imatrix auto, give one with --imatrix FILE, or take q3_k_m or q4_k_m",
            )


def _closest(name: str) -> str:
    close = get_close_matches(name, ftypes(), n=3)
    return f"did you mean {' or '.join(close)}? " if close else ""


def _all() -> str:
    return f"there are {', '.join(ftypes())}"
