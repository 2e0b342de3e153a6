"""What a search must reach, as people write it: `size<=300MB`, `kl<=0.03`, `decode>=20tok/s`, `memory<=1GB`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from math import isfinite
from typing import Any

from foreshore.errors import UsageError

__all__ = ["FitTargets", "parse_fit"]

_CLAUSE = re.compile(r"\s*([A-Za-z_]*)\s*(<=|>=|=<|=>|==|=|<|>)?\s*([-+0-9.eE_]*)\s*([A-Za-z/%]*)\s*")
_BYTES = {"": 1, "b": 1} | {f"{p}{i}b": b**n for n, p in enumerate("kmgt", 1) for i, b in (("", 1000), ("i", 1024))}
_RATES = {"": 1, "tok/s": 1, "t/s": 1, "tokens/s": 1}
_UNITS = {"size": _BYTES, "memory": _BYTES, "kl": {"": 1, "nat": 1, "nats": 1}, "decode": _RATES}
_SIGNS = {"size": "<=", "memory": "<=", "kl": "<=", "decode": ">="}
_STRICTER = {"size": min, "memory": min, "kl": min, "decode": max}
_EXAMPLES = 'write "size<=300MB", "kl<=0.03", "decode>=20tok/s" or "memory<=1GB", several with commas between them'


@dataclass(frozen=True, slots=True, kw_only=True)
class FitTargets:
    """Bounds that all hold together; `None`: no bound.

    With a bound on size, memory or decode speed, the best quality within the bounds is looked for; with one on `kl`
    alone, the smallest file.
    """

    size: int | None = None  # bytes of the file, at most
    kl: float | None = None  # mean nats a token against the parent, at most
    decode: float | None = None  # tokens/s of one stream, at least
    memory: int | None = None  # bytes that the worker holds, at most

    def __str__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return ",".join(f"{name}{_SIGNS[name]}{value!r}" for name, value in given.items() if value is not None)

    @property
    def smallest(self) -> bool:
        """Whether the size is what is to be kept small, not the divergence."""
        return self.kl is not None and self.size is self.decode is self.memory is None

    def order(self, size: int, kl: float) -> tuple[float, float]:
        """Sorts mixes of `size` bytes, the better one first: by what is to be kept small, once enough is kept."""
        if self.smallest and self.kl is not None and kl <= self.kl:
            return 0.0, size
        return float(self.smallest), kl


def parse_fit(texts: str | Iterable[str]) -> FitTargets:
    """Clauses, each a string or several in one with commas between. Of two on one thing the stricter holds.

    Units: B, KB, MB, GB, TB in thousands, KiB to TiB in 1,024s; tok/s. Raises `UsageError`.
    """
    clauses = [c for text in ([texts] if isinstance(texts, str) else texts) for c in text.split(",") if c.strip()]
    if not clauses:
        raise UsageError("no fit target given", hint=_EXAMPLES)
    found = FitTargets()
    for clause in clauses:
        name, value = _parse(clause)
        before = getattr(found, name)
        change: dict[str, Any] = {name: value if before is None else _STRICTER[name](before, value)}
        found = replace(found, **change)
    return found


def _parse(clause: str) -> tuple[str, float]:
    match = _CLAUSE.fullmatch(clause)
    if not match:
        raise UsageError(f"{clause!r} is not a fit target", hint=_EXAMPLES)
    name, sign, number, unit = match[1].lower(), match[2], match[3], match[4].lower()
    if name not in _SIGNS:
        raise UsageError(f"{clause!r} is not a fit target", hint=_guess(name) + _EXAMPLES)
    if (sign or "").replace("=<", "<=").replace("=>", ">=") != _SIGNS[name]:
        raise UsageError(f"{clause!r} needs {_SIGNS[name]!r} after {name!r}", hint=_EXAMPLES)
    if unit not in _UNITS[name]:
        known = ", ".join(u for u in _UNITS[name] if u)
        raise UsageError(f"{clause!r} has the unknown unit {match[4]!r}", hint=f"the units of {name} are {known}")
    value = _number(number, clause) * _UNITS[name][unit]
    if not value > 0 or not isfinite(value):
        raise UsageError(f"{clause!r} asks for {value:g}, which nothing can reach", hint=_EXAMPLES)
    return name, int(value) if name in ("size", "memory") else value


def _number(text: str, clause: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{clause!r} has no number after the sign", hint=_EXAMPLES) from error


def _guess(name: str) -> str:
    close = get_close_matches(name, _SIGNS, n=1)
    return f"did you mean {close[0]!r}? " if close else ""
