"""What a new policy would have earned, from decisions that another one took.

Each logged row has the action that was taken, the probability with which it was (its propensity), the reward it had,
and the probabilities that the new policy gives to every action. Three estimates of the new policy's mean reward:

- inverse propensity scoring (IPS): the mean of w * r, w = new probability / propensity. Unbiased.
- self-normalised IPS: the sum of w * r over the sum of w. A little bias, less variance.
- doubly robust (Dudik, Langford and Li, 2011): what a model of rewards predicts, corrected by w * (r - predicted). The
  model is a ridge regression for each action, fitted on other rows than it predicts, so that this is unbiased too.

Intervals are studentized bootstraps over rows, 95 %; where rewards lie between 0 and 1 the IPS estimate has a second
one, by the empirical Bernstein bound (Maurer and Pontil, 2009), which holds for any number of rows and is wide.

A log says nothing of what was never tried. Where the new policy takes actions that could not have been taken, where
too few rows carry all the weight, or where propensities are missing, `evaluate` refuses and says by how much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from foreshore.card import Interval
from foreshore.errors import UsageError

__all__ = ["MIN_EFFECTIVE", "Evaluation", "Row", "evaluate"]

MIN_EFFECTIVE = 50.0  # rows of equal weight that the weighted ones are worth, below which nothing is said
UNTRIED = 0.01  # share of the new policy's choices that the log may never have been able to take
FOLDS = 5
RIDGE = 1.0
RESAMPLES = 1000
BLOCK = 4_000_000  # numbers drawn at a time
KEPT = 2000  # with at most so many rows, what was drawn is kept for the next estimate (16 MB)
SURE = 4.0  # standard errors by which the mean weight must miss 1 to prove that something was never tried

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One logged decision. `new` has the new policy's probability of each action, and adds up to 1."""

    action: str
    propensity: float | None  # None: the log does not say
    reward: float
    new: Mapping[str, float]
    possible: frozenset[str] | None = None  # actions that the logged policy might have taken; None: not known
    features: tuple[float, ...] = ()  # of the request, for the model of rewards; equally many in every row


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Estimates of the new policy's mean reward, and beside them what was really earned."""

    rows: int
    logged: Interval  # the mean reward of the policy that was logged
    ips: Interval
    self_normalised: Interval
    doubly_robust: Interval
    bernstein: Interval | None  # of IPS, where rewards are shares
    effective: float  # rows of equal weight that these are worth
    agreement: float  # mean probability that the new policy gives to what was done
    largest_weight: float


def evaluate(rows: Sequence[Row], *, seed: int = 0) -> Evaluation:
    """Raises `UsageError`, with numbers, where the rows cannot support an estimate."""
    _check(rows)
    weights = np.array([row.new.get(row.action, 0.0) / (row.propensity or 1.0) for row in rows])
    rewards = np.array([row.reward for row in rows])
    effective = _effective(weights)
    _check_support(rows, weights, effective)
    return Evaluation(
        rows=len(rows),
        logged=_interval(rewards, np.ones(len(rows)), seed),
        ips=_interval(weights * rewards, np.ones(len(rows)), seed),
        self_normalised=_interval(weights * rewards, weights, seed),
        doubly_robust=_interval(_doubly_robust(rows, weights, rewards, seed), np.ones(len(rows)), seed),
        bernstein=_bernstein(rows, weights * rewards) if 0 <= rewards.min() <= rewards.max() <= 1 else None,
        effective=effective,
        agreement=float(np.mean([row.new.get(row.action, 0.0) for row in rows])),
        largest_weight=float(weights.max()),
    )


# --- what the rows can support ----------------------------------------------------------------------------------


def _check(rows: Sequence[Row]) -> None:
    if not rows:
        raise UsageError("there is no logged decision to estimate from")
    if odd := sum(not math.isfinite(row.reward) for row in rows):
        raise UsageError(f"{odd} of {len(rows)} rows have a reward that is no finite number")
    if without := sum(not _usable(row.propensity) for row in rows):
        what = f"{without} of {len(rows)} rows have no propensity above 0 and up to 1"
        raise UsageError(what, hint="an action whose probability is not known cannot be weighed")
    if odd := sum(not math.isclose(sum(row.new.values()), 1.0, abs_tol=1e-6) for row in rows):
        raise UsageError(f"in {odd} of {len(rows)} rows the new policy's probabilities do not add up to 1")
    if len({len(row.features) for row in rows}) > 1:
        raise UsageError("the rows have different numbers of features")


def _usable(propensity: float | None) -> bool:
    return propensity is not None and 0 < propensity <= 1


def _check_support(rows: Sequence[Row], weights: Numbers, effective: float) -> None:
    untried = float(np.mean(_untried(rows)))
    if untried > UNTRIED:
        what = f"in {untried:.1%} of {len(rows)} decisions the new policy takes what the logged one never could have"
        raise UsageError(what, hint="log with learning.explore above 0, so that every action is tried now and then")
    if effective < MIN_EFFECTIVE:
        what = f"{len(rows)} rows are worth {effective:.1f} of equal weight, fewer than {MIN_EFFECTIVE:g}"
        few = effective > len(rows) / 2
        why = "there are too few decisions" if few else "the policies seldom agree"
        raise UsageError(f"{what}: {why}", hint="log more decisions" if few else "log more decisions, or explore more")
    mean, error = float(weights.mean()), float(weights.std() / math.sqrt(len(weights)))
    if abs(mean - 1) > SURE * error + 0.05:
        what = f"the weights average {mean:.3f} (standard error {error:.3f}), and not 1"
        raise UsageError(f"{what}: the propensities are wrong, or some actions were never possible")


def _untried(rows: Sequence[Row]) -> Numbers:
    """By row, the new policy's probability of what had none. Where the row does not say what was possible, it is the
    action alone if that was certain, else whatever any row has."""
    seen = frozenset(row.action for row in rows)

    def possible(row: Row) -> frozenset[str]:
        return frozenset({row.action}) if row.propensity == 1 else seen if row.possible is None else row.possible

    return np.array([sum(p for action, p in row.new.items() if action not in possible(row)) for row in rows])


def _effective(weights: Numbers) -> float:
    """Kish's effective sample size."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


# --- estimates --------------------------------------------------------------------------------------------------


def _doubly_robust(rows: Sequence[Row], weights: Numbers, rewards: Numbers, seed: int) -> Numbers:
    """By row: the reward expected of the new policy, corrected by what the taken action's really was."""
    actions = sorted({action for row in rows for action in (row.action, *row.new)})
    taken = np.array([actions.index(row.action) for row in rows])
    new = np.array([[row.new.get(action, 0.0) for action in actions] for row in rows])
    expected = _expected(rows, taken, rewards, len(actions), seed)
    own = expected[np.arange(len(rows)), taken]
    return np.asarray((new * expected).sum(axis=1) + weights * (rewards - own))


def _expected(rows: Sequence[Row], taken: NDArray[np.int64], rewards: Numbers, actions: int, seed: int) -> Numbers:
    """(rows, actions): what each action is expected to earn, by models of the other folds' rows."""
    x = _columns(rows)
    found = np.full((len(rows), actions), rewards.mean())
    fold = np.random.default_rng(seed).permutation(len(rows)) % FOLDS
    for held in range(FOLDS):
        out = fold == held
        for action in range(actions):
            mine = ~out & (taken == action)
            if mine.any() and out.any():
                found[out, action] = _ridge(x[mine], rewards[mine], x[out])
    return found


def _columns(rows: Sequence[Row]) -> Numbers:
    """Features at mean 0 and variance 1."""
    x = np.array([row.features for row in rows], np.float64).reshape(len(rows), -1)
    spread = x.std(axis=0)
    return np.asarray((x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def _ridge(x: Numbers, rewards: Numbers, of: Numbers) -> Numbers:
    mean = rewards.mean()
    if not x.shape[1]:
        return np.full(len(of), mean)
    centre = x.mean(axis=0)
    slopes = np.linalg.solve(
        (x - centre).T @ (x - centre) + RIDGE * np.eye(x.shape[1]), (x - centre).T @ (rewards - mean)
    )
    return np.asarray(mean + (of - centre) @ slopes)


# --- intervals --------------------------------------------------------------------------------------------------


def _interval(top: Numbers, bottom: Numbers, seed: int) -> Interval:
    """The sum of `top` over the sum of `bottom`, and its interval by a studentized bootstrap over rows, with the
    standard error of a ratio by linearization."""
    value, error = (float(part[0]) for part in _ratio(_moments(top, bottom).sum(axis=0)[None], len(top)))
    if error == 0 or len(top) < 2:
        return Interval(value=value, low=value, high=value)
    values, errors = _ratio(_resampled(_moments(top, bottom), seed), len(top))
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = np.nan_to_num((values - value) / errors, nan=0.0)
    low, high = np.quantile(distances, (0.025, 0.975))
    return Interval(value=value, low=value - float(high) * error, high=value - float(low) * error)


def _moments(top: Numbers, bottom: Numbers) -> Numbers:
    return np.stack([top, bottom, top * top, top * bottom, bottom * bottom], axis=1)


def _ratio(sums: Numbers, count: int) -> tuple[Numbers, Numbers]:
    top, bottom, squares, products, bottoms = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        values = top / bottom
        spread = np.maximum(squares - 2 * values * products + values * values * bottoms, 0.0)
        return values, np.sqrt(spread * count / max(1, count - 1)) / bottom


def _resampled(moments: Numbers, seed: int) -> Numbers:
    """Sums over resamples of the rows, (resamples, 5)."""
    if len(moments) <= KEPT:
        return _kept(len(moments), seed) @ moments
    rng, step = np.random.default_rng(seed), max(1, BLOCK // len(moments))
    sizes = [min(step, RESAMPLES - done) for done in range(0, RESAMPLES, step)]
    return np.concatenate([_drawn(rng, size, len(moments)) @ moments for size in sizes])


@lru_cache(maxsize=2)
def _kept(count: int, seed: int) -> Numbers:
    return _drawn(np.random.default_rng(seed), RESAMPLES, count)


def _drawn(rng: np.random.Generator, resamples: int, count: int) -> Numbers:
    """How often each resample has each row, (resamples, rows)."""
    places = rng.integers(count, size=(resamples, count)) + count * np.arange(resamples)[:, None]
    return np.bincount(places.reshape(-1), minlength=resamples * count).reshape(resamples, count).astype(np.float64)


def _largest_weight(row: Row) -> float:
    """That the row could have had, whatever had been drawn: of the actions that were possible the others share what the
    taken one leaves, each as likely, as in `decide.by_chance`."""
    taken = row.propensity or 1.0
    others = (row.possible or frozenset()) - {row.action}
    each = min(taken, (1 - taken) / len(others)) if others else 0.0
    drawn = [row.new.get(action, 0.0) / each for action in others if each > 0]
    return max([row.new.get(row.action, 0.0) / taken, *drawn])


def _bernstein(rows: Sequence[Row], values: Numbers) -> Interval:
    """For values from 0 to the largest weight that any row could have had."""
    count = len(values)
    if count < 2:
        return Interval(value=float(values.mean()), low=0.0, high=math.inf)
    largest = max(map(_largest_weight, rows))
    term = math.log(2 / 0.025)  # both sides, each with 2.5 %
    value, variance = float(values.mean()), float(values.var(ddof=1))
    half = math.sqrt(2 * variance * term / count) + 7 * largest * term / (3 * (count - 1))
    return Interval(value=value, low=max(0.0, value - half), high=value + half)
