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
    search_s: float  # budget of a search that shall find the best
    short_s: tuple[float, ...]  # budgets of which one shall come near to it
    sizes: int  # that `--fit size<=X` is asked for
    mixes: int  # whose KL is predicted and measured
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
    search_s=600,
    short_s=(20, 40, 60),
    sizes=20,
    mixes=20,
    trials=4000,
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
    search_s=4,
    short_s=(2,),
    sizes=2,
    mixes=4,
    trials=100,
    simulated=(40,),
    context=128,
    windows=8,
    encoder_documents=20,
    encoder_runs=1,
)
