"""How much a search measures, and on how much text, so that it ends within its budget."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import prod

from foreshore.edge.gguf import GgufInfo
from foreshore.quantize.search.decode_times import DecodeTimes
from foreshore.quantize.search.measuring import Measuring
from foreshore.quantize.search.probes import PROBES
from foreshore.quantize.search.survey import Survey

__all__ = ["DECODE_CHECKS", "REFINING", "SearchPlan", "affordable", "decode_table", "refining_seconds", "search_plan"]

TOKENS = (4096, 2048, 1024, 512, 256, 128)  # that a probe may be measured on
TRIAL_SHARE = 3  # a whole mix is measured on so many times the tokens of a probe
PROBING, TRYING = 0.4, 0.8  # shares of the budget, and of what is then left
DECODING = 0.25  # share of the budget for decode speeds
QUANTIZING = 0.1  # share of the budget that making all weights in one type may take
REFINING = 0.4  # share of the budget that refining may take; where it takes more, it is left
REFINED_MIXES = 4  # whole mixes' worth of tensors that a search refines, about
# Of refining a tensor on one core, as measured: of each weight, and of each column (benchmarks/LOG.md, "refined code by
# code").
WEIGHT_S, COLUMN_S = 1.3e-6, 0.3e-3
TIMED_TOKENS = 256  # of the measurement by which all others are planned
TABLES_S = {"iq2_xs": 3.0, "iq2_s": 6.0}  # seconds that each process takes once to make tables for the type
STARTING = 0.05  # share of the budget that such tables may take
QUICK = ("q4_0", "q8_0")  # the types that take the least time to make
CHEAP = (*QUICK, "q2_k", "q3_k", "q4_1", "q4_k", "q5_0", "q5_1", "q5_k", "q6_k")  # always offered, as llama.cpp does
DECODE_CHECKS = 3  # of whole mixes' decode speed


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    probe: int  # windows
    windows: int  # for a trial
    trials: int


def search_plan(
    measuring: Measuring, survey: Survey, budget_s: float, most: int, *, decode: bool, refining_s: float = 0.0
) -> SearchPlan:
    """At most `most` trials; by a first measurement, or as a search of the same budget before this one did. Sets the
    number of steps. `refining_s` are spent on something else than measuring."""
    steps, names = measuring.steps, len(survey.types)
    left = max(steps.left_s - refining_s, 0) * (1 - DECODING * decode)
    rate = _rate(measuring)
    probes = names * len(PROBES)
    key = {"probe tokens": names, "budget": budget_s, "meters": len(measuring.meters)}
    tokens = measuring.record.get(key)
    if tokens is None:
        tokens = float(next((n for n in TOKENS if n <= rate * left * PROBING / probes), TOKENS[-1]))
        measuring.record.put(key, tokens)
    windows = measuring.windows(int(TRIAL_SHARE * tokens))
    room = (left * rate - probes * tokens) * TRYING / measuring.tokens(windows)
    trials = int(min(max(room, len(measuring.meters)), most))
    steps.plan(names + probes + trials + (len(survey.kinds) + 1 + DECODE_CHECKS) * decode)
    return SearchPlan(probe=measuring.windows(int(tokens)), windows=windows, trials=trials)


def affordable(measuring: Measuring, survey: Survey, budget_s: float) -> Survey:
    """`survey` without types that take too long to make for this budget."""
    survey = survey.only({kind for kind in survey.kinds if TABLES_S.get(kind, 0.0) <= STARTING * budget_s})
    sizes = {t.name: prod(t.shape) for t in survey.base.tensors}
    largest = {
        kind: max((n for n, some in survey.types.items() if kind in some[:-1]), key=lambda n: sizes[n])
        for kind in survey.kinds
    }
    missing = [kind for kind in largest if measuring.record.get({"pace": kind}) is None]
    paces = measuring.meters.first.paces([(largest[kind], kind) for kind in missing])
    for kind, pace in zip(missing, paces, strict=True):
        measuring.record.put({"pace": kind}, pace)
    weights = sum(sizes[name] for name in survey.types)
    allowed = QUANTIZING * budget_s * len(measuring.meters) / weights
    return survey.only({k for k in largest if k in CHEAP or (measuring.record.get({"pace": k}) or 0.0) <= allowed})


def decode_table(times: DecodeTimes, measuring: Measuring, survey: Survey) -> Survey:
    """`survey` with the seconds of every type; what there was no time for is no longer offered."""
    until = measuring.steps.left_s * (1 - DECODING)
    parent = times.measure({})
    measuring.steps.step()
    measured: dict[str, float] = {}
    for kind in sorted(survey.kinds, key=lambda kind: kind not in QUICK):
        if measuring.steps.left_s > until or kind in QUICK:
            measured[kind] = times.uniform(survey.types, kind)
        measuring.steps.step()
    return survey.only(measured).with_seconds(times.table(survey.types, measured, parent))


def refining_seconds(base: GgufInfo, workers: int) -> float:
    """About how long a search is busy with refining tensors, in `workers` processes side by side."""
    matrices = [t.shape for t in base.tensors if len(t.shape) == 2]
    once = sum(prod(shape) * WEIGHT_S + shape[0] * COLUMN_S for shape in matrices)
    return once * REFINED_MIXES / workers


def _rate(measuring: Measuring) -> float:
    """Tokens a second that all meters together measure mixes on."""
    some = measuring.windows(TIMED_TOKENS)
    measuring.meters.first.divergences({}, some)  # the parent's own distributions are worked out here
    began = time.monotonic()
    measuring.meters.first.divergences({}, some)
    return len(measuring.meters) * measuring.tokens(some) / (time.monotonic() - began)
