"""Ways to route a table's prompts, and what each is worth by RouteLLM's metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.routellm_data import STRONG, WEAK, Table
from foreshore.quality import Estimator, train
from foreshore.quality.curve import Curve, curve, replicates
from foreshore.quality.encoder import Embeds

__all__ = ["Routed", "by_length", "by_luck", "by_oracle", "cross_validated", "few_labels", "transferred"]

FOLDS = 5
FEW = 1500  # RouteLLM's own in-domain labels for MMLU, its validation questions
DRAWS = 5
LUCK = 10  # seeds, as RouteLLM
RESAMPLES = 1000
CPT = 50, 80  # percent of the gap that is to be recovered
LEFT_OUT = np.nan  # the score of a prompt that was learnt from

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """`scores`: for each draw one (prompts,), high where the strong model is wanted, NaN where not judged."""

    table: Table
    router: str
    scores: Sequence[Numbers]
    labels: int  # prompts with a label for each model that it learnt from

    def row(self) -> dict[str, Any]:
        """The mean over draws; the interval is of all draws' resamples together."""
        judged = [np.flatnonzero(np.isfinite(scores)) for scores in self.scores]
        drawn = [(s[at], self.table.weak[at], self.table.strong[at]) for s, at in zip(self.scores, judged, strict=True)]
        curves = [curve(*columns) for columns in drawn]
        count = RESAMPLES // len(drawn)
        spread = [replicates(_apgr, *columns, count=count, seed=i) for i, columns in enumerate(drawn)]
        low, high = np.quantile(np.concatenate(spread), (0.025, 0.975))
        return {
            "table": self.table.name,
            "router": self.router,
            "apgr": _mean(curves, _apgr),
            "low": float(low),
            "high": float(high),
            **{f"cpt{percent}": _cpt(curves, percent, envelope=False) for percent in CPT},
            **{f"cpt{percent}_envelope": _cpt(curves, percent, envelope=True) for percent in CPT},
            "labels": self.labels,
            "prompts": len(judged[0]),
            "draws": len(drawn),
        }


def _apgr(found: Curve) -> float:
    return found.apgr


def _cpt(curves: Sequence[Curve], percent: int, *, envelope: bool) -> float | None:
    """In percent, as RouteLLM gives it; None where the accuracy is never reached."""
    found = 100 * _mean(curves, lambda c: c.cpt(percent / 100, envelope=envelope))
    return found if np.isfinite(found) else None


def _mean(curves: Sequence[Curve], measure: Callable[[Curve], float]) -> float:
    return float(np.mean([measure(found) for found in curves]))


def by_luck(table: Table) -> Routed:
    scores = [np.random.default_rng(seed).random(len(table)) for seed in range(LUCK)]
    return Routed(table=table, router="random", scores=scores, labels=0)


def by_length(table: Table) -> Routed:
    """The longer the prompt, the stronger the model."""
    return Routed(table=table, router="length", scores=[_untied([len(p) for p in table.prompts])], labels=0)


def by_oracle(table: Table) -> Routed:
    """Knows which answers are right."""
    gains = table.strong.astype(float) - table.weak
    return Routed(table=table, router="oracle", scores=[_untied(gains)], labels=len(table))


def cross_validated(table: Table, seed: int, *, answers: bool = False, encoder: Embeds | None = None) -> Routed:
    """Each prompt's score by an estimator that saw the other four folds alone, told by `encoder` where there is one."""
    folds = table.folds(FOLDS, seed)
    scores = np.zeros(len(table))
    for fold in range(FOLDS):
        learnt = table.labels(np.flatnonzero(folds != fold), answers=answers)
        estimator = train(learnt, answers=answers, encoder=encoder)
        at = np.flatnonzero(folds == fold)
        scores[at] = _scores(estimator, table, at, encoder)
    labels = round(len(table) * (FOLDS - 1) / FOLDS)
    name = "ours, cascade" if answers else "ours"
    return Routed(table=table, router=_told(name, encoder), scores=[scores], labels=labels)


def few_labels(table: Table, seed: int, *, encoder: Embeds | None = None) -> Routed:
    """Learnt from `FEW` prompts drawn by chance, judged on all others; again for each of `DRAWS` draws."""
    found = []
    for draw in range(DRAWS):
        order = np.random.default_rng([seed, draw]).permutation(len(table))
        estimator = train(table.labels(order[:FEW]), encoder=encoder)
        scores = np.full(len(table), LEFT_OUT)
        known = {table.prompts[i] for i in order[:FEW]}
        rest = np.array([i for i in order[FEW:] if table.prompts[i] not in known])
        scores[rest] = _scores(estimator, table, rest, encoder)
        found.append(scores)
    return Routed(table=table, router=_told(f"ours, {FEW} labels", encoder), scores=found, labels=FEW)


def transferred(source: Table, table: Table, *, encoder: Embeds | None = None) -> Routed:
    """Learnt from all of `source` and nothing of `table`."""
    estimator = train(source.labels(range(len(source))), encoder=encoder)
    scores = _scores(estimator, table, np.arange(len(table)), encoder)
    name = _told(f"ours, learnt on {source.name}", encoder)
    return Routed(table=table, router=name, scores=[scores], labels=len(source))


def _told(router: str, encoder: Embeds | None) -> str:
    return f"{router}, with an encoder" if encoder else router


def _scores(estimator: Estimator, table: Table, at: NDArray[np.intp], encoder: Embeds | None = None) -> Numbers:
    """How much more probable the strong model's answer is."""
    answers = table.answers if estimator.answers else None
    vectors = encoder([table.prompts[i] for i in at]) if encoder else [None] * len(at)
    found = (
        estimator.predict(table.prompts[i], answers[i] if answers else None, vector=vector)
        for i, vector in zip(at, vectors, strict=True)
    )
    return np.array([shares[STRONG] - shares[WEAK] for shares in found])


def _untied(scores: Sequence[float] | Numbers) -> Numbers:
    """Equal scores in an order by chance: deciles need different ones."""
    return np.asarray(scores, np.float64) + 1e-6 * np.random.default_rng(0).random(len(scores))
