"""How much the quantization benchmark does: FULL for numbers to keep, QUICK to see within a minute that it runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "Scale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    starters: tuple[str, ...]
    documents: int | None  # of the texts to calibrate and to measure on; `None`: all that are shipped
    types: tuple[str, ...]  # compared byte by byte, with an importance matrix and without
    half_billion: bool  # throughput on a model of 0.5B weights instead of a starter
    rounds: int  # of each quantizer, in turns
    rivals: tuple[str, ...]  # uniform types that a mix is held against, where they have its size
    search_s: float  # budget of a search that shall find the best
    short_s: tuple[float, ...]  # budgets of which one shall come near to it
    fit_s: float  # budget of a search for one of many sizes
    mixes: int  # sizes that are asked for, and mixes drawn at random
    trials: int  # simulated measurements
    simulated: tuple[int, ...]  # documents of each
    context: int  # tokens of a window at the large vocabulary
    windows: int
    encoder_documents: int | None
    encoder_runs: int


FULL = Scale(
    starters=("starter-s", "starter-l"),
    documents=None,
    types=("q8_0", "q6_k", "q5_k_m", "q5_0", "q4_k_m", "q4_0", "iq4_xs", "q3_k_m", "iq3_s", "q2_k"),
    half_billion=True,
    rounds=3,
    rivals=(
        *("iq3_xxs", "q2_k", "iq3_xs", "q3_k_s", "iq3_s", "iq3_m", "q3_k_m", "q3_k_l", "iq4_xs", "iq4_nl", "q4_0"),
        *("q4_k_s", "q4_k_m", "q4_1", "q5_0", "q5_k_s", "q5_k_m"),
    ),
    search_s=600,
    short_s=(20, 40, 50, 60, 120, 240),
    fit_s=15,
    mixes=20,
    trials=2000,
    simulated=(40, 100, 400),
    context=512,
    windows=16,
    encoder_documents=None,
    encoder_runs=5,
)

QUICK = Scale(
    starters=("starter-s",),
    documents=40,
    types=("q8_0", "q4_k_m"),
    half_billion=False,
    rounds=2,
    rivals=("q3_k_m", "q4_k_m", "q5_k_m"),
    search_s=4,
    short_s=(2, 4, 8),
    fit_s=2,
    mixes=4,
    trials=100,
    simulated=(40,),
    context=128,
    windows=8,
    encoder_documents=20,
    encoder_runs=1,
)
