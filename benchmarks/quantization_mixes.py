"""Searched mixes: beside the best uniform type of their size, their search's time, and what it foretold of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.quantization_parent import Mix, Parent, Variant
from benchmarks.quantization_scale import Scale
from benchmarks.row import Row
from foreshore.card import Interval
from foreshore.errors import ModelError
from foreshore.quantize.quality import ratio
from foreshore.wilson import Z95

__all__ = ["SIZES", "fits", "ratios", "search_seconds", "spearman"]

SIZES = ("q3_k_m", "q4_k_m", "q5_k_m")
SEARCH_SIZE = "q4_k_m"  # at which the time of a search is measured
SMALLEST, LARGEST = "q3_k_s", "q8_0"  # between whose sizes files are asked for
NEAR = 1.05  # times the KL of the full search
Pairs = Sequence[tuple[float, float]]  # foretold and measured


def ratios(scale: Scale, parent: Parent, ftype: str) -> dict[str, Row]:
    """KL of the mix over that of the best uniform type of no more bytes than `ftype` has, paired by document."""
    limit = parent.measured(ftype).bytes
    rival = parent.best_uniform(limit, scale.rivals)
    mix = parent.searched(limit, scale.search_s, refine=True)
    pure = parent.best_pure(limit, mix)
    found = ratio(mix.compared, rival.compared)
    details = {
        "limit_bytes": limit, "uniform": _brief(rival), "mix": _brief(mix), "search_s": round(mix.seconds, 1),
        "trials": len(mix.found.trials), "complete": mix.found.complete, "predicted_kl": _short(mix.found.predicted),
        "pure": _brief(pure) if pure else None, "refined": mix.found.moments is not None,
        "compensated": mix.compensated and [mix.compensated.stages, mix.compensated.of, mix.compensated.tokens],
        "ratio_to_pure": _interval(ratio(mix.compared, pure.compared)) if pure else None,
        "documents": len(mix.compared.tokens), "tokens": int(mix.compared.tokens.sum()),
    }  # fmt: skip
    key = f"mix_kl_ratio_{ftype}"
    return {key: Row(key=key, value=found.value, low=found.low, high=found.high, details=details)}


def search_seconds(scale: Scale, parent: Parent) -> dict[str, Row]:
    """Of the shortest search, begun with nothing, whose mix has at most 1.05 times the KL of the full search's."""
    limit = parent.measured(SEARCH_SIZE).bytes
    full = parent.searched(limit, scale.search_s)
    tried = []
    for budget in scale.short_s:
        short = parent.searched(limit, budget, parent.folder_for_search())
        near = ratio(short.compared, full.compared)
        tried.append({"budget_s": budget, "took_s": round(short.seconds, 1), "kl_over_full": _interval(near)})
        if near.value <= NEAR:
            break
    else:
        raise ModelError(f"no search of up to {scale.short_s[-1]:g} s came within 5 % of the full one: {tried!r}")
    details = {"limit_bytes": limit, "full_s": round(full.seconds, 1), "full_kl": _short(full.kl), "tried": tried}
    value = short.seconds
    return {"search_seconds": Row(key="search_seconds", value=value, low=value, high=value, details=details)}


def fits(scale: Scale, parent: Parent) -> dict[str, Row]:
    """Mixes for sizes between those of Q2_K and Q8_0: how far each file is below its limit, as a share, and whether
    those foretold to lose more do lose more. So too for as many mixes drawn at random; the lower correlation counts."""
    least, most = (parent.measured(ftype).bytes for ftype in (SMALLEST, LARGEST))
    limits = [int(limit) for limit in np.geomspace(least, most, scale.mixes)]
    mixes = [parent.searched(limit, scale.fit_s) for limit in limits]
    drawn = [_drawn(parent, mixes[-1], seed) for seed in range(scale.mixes)]
    return {
        "fit_size_error": _size_error(limits, mixes),
        "mix_rank_correlation": _correlation({"searched": [(_foretold(m), m.kl) for m in mixes], "random": drawn}),
    }


def _size_error(limits: list[int], mixes: list[Mix]) -> Row:
    errors = [1 - mix.bytes / limit for mix, limit in zip(mixes, limits, strict=True)]
    worst = min(errors) if min(errors) < 0 else max(errors)
    details = {"limits": limits, "bytes": [m.bytes for m in mixes], "search_s": [round(m.seconds, 1) for m in mixes]}
    return Row(key="fit_size_error", value=worst, low=min(errors), high=max(errors), details=details)


def _correlation(pairs: Mapping[str, Pairs]) -> Row:
    found = {name: spearman(some) for name, some in pairs.items()}
    lower = min(found, key=lambda name: found[name].value)
    one = found[lower]
    details = {
        "lower": lower,
        "all": {name: _interval(i) for name, i in found.items()},
        "foretold_and_measured": {name: [[_short(v) for v in pair] for pair in some] for name, some in pairs.items()},
    }
    return Row(key="mix_rank_correlation", value=one.value, low=one.low, high=one.high, details=details)


def _foretold(mix: Mix) -> float:
    """What the search said of its winner before it had measured it."""
    return next(t.predicted for t in mix.found.trials if t.types == mix.found.types)


def _drawn(parent: Parent, mix: Mix, seed: int) -> tuple[float, float]:
    """Foretold and measured KL of a mix in which each tensor has any one of the types that it was offered."""
    rng = np.random.default_rng(seed)
    costs = mix.found.costs
    offered = {name: [kind for kind, kl in row.items() if 0 < kl < math.inf] for name, row in costs.items()}
    types = {name: str(rng.choice(kinds)) for name, kinds in offered.items() if kinds}
    return sum(costs[name][kind] for name, kind in types.items()), parent.mixed(types).kl


def spearman(pairs: Pairs) -> Interval:
    """The rank correlation of at least four pairs, with the interval of Fieller, Hartley and Pearson ("Tests for rank
    correlation coefficients", 1957): the standard error of its inverse hyperbolic tangent is sqrt(1.06 / (n - 3))."""
    first, second = (np.argsort(np.argsort(values)) for values in zip(*pairs, strict=True))
    value = float(np.corrcoef(first, second)[0, 1])
    if abs(value) > 1 - 1e-12:
        return Interval(value=value, low=value, high=value)
    spare = Z95 * math.sqrt(1.06 / (len(pairs) - 3))
    low, high = (math.tanh(math.atanh(value) + sign * spare) for sign in (-1, 1))
    return Interval(value=value, low=low, high=high)


def _brief(variant: Variant) -> dict[str, object]:
    return {"name": variant.name, "bytes": variant.bytes, "kl": _short(variant.kl)}


def _interval(found: Interval) -> list[float]:
    return [_short(v) for v in (found.value, found.low, found.high)]


def _short(value: float) -> float:
    return float(f"{value:.4g}")
