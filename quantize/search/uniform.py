"""llama.cpp's own mixes, which go by the names of their types: what a searched one must not be worse than."""

from __future__ import annotations

from pathlib import Path

from foreshore.quantize.child import Child
from foreshore.quantize.ftypes import NEEDS_IMATRIX
from foreshore.quantize.native import plan
from foreshore.quantize.search.meter import Mix
from foreshore.quantize.search.survey import Survey

__all__ = ["FTYPES", "uniform_mixes"]

# Without those that another one of the same size beats everywhere.
FTYPES = (
    *("q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_0", "q4_k_m", "q4_k_s", "q4_0", "iq4_nl", "iq4_xs", "q3_k_l", "iq3_m"),
    *("q3_k_m", "iq3_s", "q3_k_s", "iq3_xs", "iq3_xxs", "q2_k", "q2_k_s", "iq2_m", "iq2_s", "iq2_xs"),
)


def uniform_mixes(survey: Survey, imatrix: Path | None, planner: Child) -> dict[str, Mix]:
    """What each of `FTYPES` gives the tensors of `survey`, if they are offered all of it. `planner` is a `quantizer`;
    it works nothing but the types out."""
    found: dict[str, Mix] = {}
    for ftype in FTYPES:
        if imatrix is None and ftype in NEEDS_IMATRIX:
            continue
        planned = plan(survey.base, ftype, imatrix=imatrix, child=planner)
        mix = {name: planned.types[name] for name in survey.types}
        if all(kind in survey.types[name] for name, kind in mix.items()):
            found[ftype] = mix
    return found
