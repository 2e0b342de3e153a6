"""Log probabilities, from the model's untouched logits."""

from __future__ import annotations

import math

import numpy as np

from foreshore.edge.sampling.candidates import Logits
from foreshore.edge.sampling.narrow import best
from foreshore.edge.sampling.scratch import scratch
from foreshore.edge.vocab import Vocab
from foreshore.types import TokenLogprob

__all__ = ["logprobs"]


def logprobs(row: Logits, token: int, count: int, vocab: Vocab) -> TokenLogprob:
    """Natural-log probabilities of `token` and of the `count` likeliest; of equal ones the lower id comes first."""
    peak = row.max()
    weights = scratch("weights", len(row))
    total = float(peak) + math.log(float(np.exp(np.subtract(row, peak, out=weights), out=weights).sum()))

    def entry(t: int, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
        raw = vocab.piece(t)
        text = raw.decode("utf-8", "replace") if raw else vocab.text(t)
        return TokenLogprob(token=text, bytes=raw, logprob=float(row[t]) - total, top=top)

    return entry(token, tuple(entry(t) for t in _ranked(row, count)))


def _ranked(row: Logits, count: int) -> list[int]:
    if not count:
        return []
    ids = best(row, count)
    likeliest: list[int] = ids[np.argsort(-row[ids], kind="stable")[:count]].tolist()
    return likeliest
