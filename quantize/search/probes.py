"""What each tensor costs alone, as far as there is time: its rounding errors, and KL of a few of its types."""

from __future__ import annotations

from foreshore.quantize.measuring import Measuring
from foreshore.quantize.search.survey import Survey

__all__ = ["PROBES", "probed"]

PROBES = (("q3_k", "q4_0"), ("q5_k", "q8_0"))  # measured alone; the second of a pair where rows do not divide by 256


def probed(survey: Survey, measuring: Measuring, windows: int) -> Survey:
    """`survey` with what was measured on so many windows. The tensors with most types to choose from come first."""
    survey = survey.with_errors(measuring.errors(survey.pairs()))
    pairs = [
        (name, kind)
        for pair in PROBES
        for name in sorted(survey.types, key=lambda n: -len(survey.types[n]))
        if (kind := next((k for k in pair if k in survey.types[name]), None))
    ]
    found = measuring.kl([{name: kind} for name, kind in pairs], windows)
    return survey.with_kl([(pair, kl) for pair, kl in zip(pairs, found, strict=True) if kl is not None])
