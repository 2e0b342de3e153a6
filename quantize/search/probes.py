"""What each tensor costs alone, as far as there is time: its rounding errors, and KL of a few of its types."""

from __future__ import annotations

from collections.abc import Iterable

from foreshore.quantize.search.measuring import Measuring
from foreshore.quantize.search.survey import Survey, role

__all__ = ["PROBES", "all_probed", "probed"]

PROBES = (("q3_k", "q4_0"), ("q5_k", "q8_0"))  # measured alone; the second of a pair where rows do not divide by 256
MOST = 0.6  # of the time left; what was not measured by then is read off from others


def probed(survey: Survey, measuring: Measuring, windows: int) -> Survey:
    """`survey` with what was measured on so many windows."""
    keep = (1 - MOST) * measuring.steps.left_s
    survey = survey.with_errors(measuring.errors(survey.pairs(), keep_s=keep))
    pairs = _pairs(survey)
    found = measuring.kl([{name: kind} for name, kind in pairs], windows, keep_s=keep)
    return survey.with_kl([(pair, kl) for pair, kl in zip(pairs, found, strict=True) if kl is not None])


def all_probed(survey: Survey) -> bool:
    """Whether there was time for everything."""
    return all(kind in survey.kl.get(name, ()) for name, kind in _pairs(survey))


def _pairs(survey: Survey) -> list[tuple[str, str]]:
    return [
        (name, kind)
        for pair in PROBES
        for name in _spread(survey.types)
        if (kind := next((k for k in pair if k in survey.types[name]), None))
    ]


def _spread(names: Iterable[str]) -> list[str]:
    """One tensor of each kind in turn, from layers far apart: wherever it ends, the others can be told from these."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(role(name), []).append(name)
    places = {name: int(f"{i:032b}"[::-1], 2) for some in alike.values() for i, name in enumerate(some)}
    return sorted(places, key=lambda name: places[name])
