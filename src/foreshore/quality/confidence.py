"""How probable it is that an answer is right, from its tokens' log-probabilities, after the model ran.

A model that was measured on tasks has a `Confidence` of its own in its card: a logistic regression over
`token_features`, calibrated. Quantization changes how a model's probabilities relate to its being right, so each
variant has its own. Without one, `Confidence.default()` is the length-normalised probability, and says that it is not
calibrated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.card import Interval, parse
from foreshore.errors import UsageError
from foreshore.quality import confidence_fit as fitting
from foreshore.quality.token_features import ALTERNATIVES, SAMPLED, features, mean_probability
from foreshore.types import TokenLogprob

__all__ = ["FEATURES", "Confidence", "Evidence"]

FEATURES = (*SAMPLED, *ALTERNATIVES)
FOLDS = 5
FEWEST = 20  # right answers, and wrong ones, below which nothing is learnt
MANY = 1000  # answers from which on the calibration may be isotonic: of fewer it overfits (Niculescu-Mizil and Caruana,
# "Predicting Good Probabilities With Supervised Learning", 2005)

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]
Kind = Callable[[Numbers, Flags], fitting.Line]  # of calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How well confidence told right from wrong on answers that it did not learn from."""

    count: int
    correct: int
    auroc: Interval  # probability that a right answer has more confidence than a wrong one
    ece: Interval  # mean distance between confidence and share of right answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """A function of an answer's tokens. `scores` and `shares` are the calibration, straight between its points.

    `calibrated` is False for the default: its numbers order answers, but are no probabilities.
    """

    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()
    bias: float = 0.0
    scores: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    calibrated: bool = False
    evidence: Evidence | None = None

    @classmethod
    def default(cls) -> Confidence:
        return cls()

    @classmethod
    def fit(cls, answers: Sequence[Sequence[TokenLogprob]], correct: Sequence[bool], *, seed: int = 0) -> Confidence:
        """Learn from `answers` that were `correct` or not. Its `evidence` is cross-fitted.

        Raises `UsageError` for fewer than 20 right or 20 wrong answers, `ValueError` for one without tokens.
        """
        return cls.learn([features(tokens) for tokens in answers], correct, seed=seed)[0]

    @classmethod
    def learn(
        cls, rows: Sequence[Numbers], correct: Sequence[bool], *, seed: int = 0
    ) -> tuple[Confidence, Sequence[float]]:
        """As `fit`, from answers' `features`; with the confidence in each by models that did not learn from it."""
        right = np.asarray(correct, bool)
        _check(rows, right)
        x = np.array(rows)
        raw, judged, kind = _cross_fitted(x, right, seed)
        scaled = fitting.Scaled(x)
        weights = fitting.logistic(scaled(x), right)
        scores, shares = kind(raw, right)
        made = cls(
            mean=tuple(scaled.mean.tolist()),
            scale=tuple(scaled.scale.tolist()),
            weights=tuple(weights[:-1].tolist()),
            bias=float(weights[-1]),
            scores=tuple(scores.tolist()),
            shares=tuple(shares.tolist()),
            calibrated=True,
            evidence=Evidence(
                count=len(right),
                correct=int(right.sum()),
                auroc=fitting.interval(fitting.auroc, judged, right, seed),
                ece=fitting.interval(fitting.ece, judged, right, seed),
            ),
        )
        return made, judged.tolist()

    def of(self, tokens: Sequence[TokenLogprob]) -> float:
        """The confidence in an answer, 0 to 1. Raises `ValueError` for one without tokens."""
        if not self.calibrated:
            return mean_probability(tokens)
        row = (features(tokens) - np.array(self.mean)) / np.array(self.scale)
        score = float(np.nan_to_num(row, nan=0.0) @ np.array(self.weights)) + self.bias
        return float(np.interp(score, self.scores, self.shares))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Confidence:
        """The inverse of `to_json`. Raises `TypeError` or `ValueError` for what is none."""
        found = parse(cls, json.loads(json.dumps(value)))
        if found.calibrated:
            _check_numbers(found)
        return found


def _check(rows: Sequence[Numbers], right: Flags) -> None:
    if len(rows) != len(right):
        raise UsageError(f"there are {len(rows)} answers, but {len(right)} marks")
    good, bad = int(right.sum()), int((~right).sum())
    if min(good, bad) < FEWEST:
        what = f"{good} right and {bad} wrong answers are too few to learn confidence from"
        raise UsageError(what, hint=f"give tasks that the model answers rightly and wrongly at least {FEWEST} times")


def _cross_fitted(rows: Numbers, right: Flags, seed: int) -> tuple[Numbers, Numbers, Kind]:
    """Scores and confidences of each answer by models that did not see it, and the kind of calibration that fits."""
    raw = np.zeros(len(rows))
    for learnt, held in fitting.split(len(rows), FOLDS, seed):
        scaled = fitting.Scaled(rows[learnt])
        weights = fitting.logistic(scaled(rows[learnt]), right[learnt])
        raw[held] = scaled(rows[held]) @ weights[:-1] + weights[-1]
    kinds: tuple[Kind, ...] = (fitting.platt, fitting.isotonic) if len(rows) >= MANY else (fitting.platt,)
    judged = [_calibrated(kind, raw, right, seed) for kind in kinds]
    best = min(range(len(kinds)), key=lambda i: _loss(judged[i], right))
    return raw, judged[best], kinds[best]


def _calibrated(kind: Kind, raw: Numbers, right: Flags, seed: int) -> Numbers:
    found = np.zeros(len(raw))
    for learnt, held in fitting.split(len(raw), FOLDS, seed):
        found[held] = np.interp(raw[held], *kind(raw[learnt], right[learnt]))
    return found


def _loss(shares: Numbers, right: Flags) -> float:
    """Mean nats that the outcomes surprise by."""
    return -float(np.log(np.clip(np.where(right, shares, 1 - shares), 1e-9, 1)).mean())


def _check_numbers(found: Confidence) -> None:
    sizes = {len(part) for part in (found.mean, found.scale, found.weights)}
    if sizes != {len(FEATURES)} or not found.scores or len(found.scores) != len(found.shares):
        raise ValueError(f"Confidence does not have {len(FEATURES)} weights and a calibration")
    if not all(math.isfinite(n) for n in _numbers(found)) or 0.0 in found.scale:
        raise ValueError("Confidence has numbers that are not finite, or a scale of 0")
    if list(found.scores) != sorted(found.scores) or not all(0 <= share <= 1 for share in found.shares):
        raise ValueError("Confidence has scores out of order, or shares that are none")


def _numbers(found: Confidence) -> Iterator[float]:
    yield found.bias
    for part in (found.mean, found.scale, found.weights, found.scores, found.shares):
        yield from part
