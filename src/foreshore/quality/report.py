"""What held-out prompts say of an estimator: how right its probabilities are, and what may stay local."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.card import Interval
from foreshore.errors import UsageError
from foreshore.quality.confidence_fit import auroc, ece, interval
from foreshore.quality.conformal import RegretBound, regret_bound
from foreshore.quality.curve import bootstrapped
from foreshore.quality.encoder import Embeds
from foreshore.quality.estimator import Estimator
from foreshore.quality.labels import Label

__all__ = ["OfPair", "OfTarget", "Report", "judge"]

DRAWS = 200
FEWEST = 10  # right and wrong answers of a target, and prompts of a pair, below which nothing is said

Numbers = NDArray[np.float64]
Key = tuple[str, str | None]  # prompt, and answer where the estimator reads one


@dataclass(frozen=True, slots=True, kw_only=True)
class OfTarget:
    count: int
    right: int
    ece: Interval  # mean distance of probability and share, over ten bins with equally many prompts
    ece_by_chance: float  # what probabilities without any error would show on as few prompts, on average
    auroc: Interval  # probability that a prompt it answers rightly is rated above one it does not


@dataclass(frozen=True, slots=True, kw_only=True)
class OfPair:
    """Of prompts that both targets have a label for. The score of a prompt is how much more probable `other` is."""

    local: str
    other: str
    count: int
    local_right: int
    other_right: int
    apgr: Interval | None  # None where both are right equally often
    regret: RegretBound


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`influenced` says whether labels are among the `labels` that the router's own choices brought about; they are
    left out where the others are enough. `missing` says what nothing could be said of."""

    prompts: int
    labels: int
    influenced: bool
    targets: Mapping[str, OfTarget]
    pair: OfPair | None
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON has no infinity: a threshold that is none is null."""
        found = asdict(self)
        if found["pair"] and not np.isfinite(found["pair"]["regret"]["threshold"]):
            found["pair"]["regret"]["threshold"] = None
        return found


def judge(
    estimator: Estimator,
    labels: Sequence[Label],
    *,
    local: str | None = None,
    other: str | None = None,
    at_most: float = 0.05,
    delta: float = 0.05,
    encoder: Embeds | None = None,
) -> Report:
    """`labels` must be of prompts that `estimator` did not learn from; without `encoder` it is told no vectors. Without
    names the target that is least often
    right is taken as `local`, and the most often right one as `other`. Raises `UsageError` for an unknown name."""
    _check(estimator, local, other)
    free = _Held([label for label in labels if not label.influenced], estimator, encoder)
    held = free if not free.poor() else _Held(labels, estimator, encoder)
    targets = {name: _of_target(held, name) for name in estimator.targets if name not in held.poor()}
    missing = [f"{name!r}: {held.counts(name)}" for name in held.poor()]
    ends = _ends(held, [*targets], local, other)
    both = held.both(*ends) if ends else []
    if ends and len(both) < FEWEST:
        missing.append(f"{ends[0]!r} against {ends[1]!r}: {len(both)} prompts have labels of both")
    return Report(
        prompts=len(held.right),
        labels=sum(len(found) for found in held.right.values()),
        influenced=held is not free and any(label.influenced for label in labels),
        targets=targets,
        pair=_of_pair(held, ends, both, at_most, delta) if ends and len(both) >= FEWEST else None,
        missing=tuple(missing),
    )


class _Held:
    """Held-out prompts: of each what the estimator says, and by target what was so. The first label of two counts."""

    def __init__(self, labels: Sequence[Label], estimator: Estimator, encoder: Embeds | None) -> None:
        self.names = estimator.targets
        self.right: dict[Key, dict[str, bool]] = {}
        for label in labels:
            key = label.prompt, label.answer if estimator.answers else None
            if label.target in self.names:
                self.right.setdefault(key, {}).setdefault(label.target, label.correct)
        vectors = encoder([prompt for prompt, _ in self.right]) if encoder else [None] * len(self.right)
        keys = zip(self.right, vectors, strict=True)
        self.shares = {key: estimator.predict(*key, vector=vector) for key, vector in keys}

    def of(self, name: str) -> tuple[Numbers, NDArray[np.bool_]]:
        """Probabilities and outcomes of a target."""
        keys = [key for key, found in self.right.items() if name in found]
        shares = np.array([self.shares[key][name] for key in keys])
        return shares, np.array([self.right[key][name] for key in keys], np.bool_)

    def both(self, local: str, other: str) -> list[Key]:
        return [key for key, found in self.right.items() if local in found and other in found]

    def counts(self, name: str) -> str:
        right = self.of(name)[1]
        return f"{int(right.sum())} right and {int((~right).sum())} wrong, fewer than {FEWEST}"

    def poor(self) -> list[str]:
        rights = {name: self.of(name)[1] for name in self.names}
        return [name for name, right in rights.items() if min(right.sum(), (~right).sum()) < FEWEST]


def _check(estimator: Estimator, *names: str | None) -> None:
    for name in names:
        if name is not None and name not in estimator.targets:
            raise UsageError(f"there are no labels of {name!r}", hint=f"there are {', '.join(estimator.targets)}")
    if names[0] is not None and names[0] == names[1]:
        raise UsageError(f"{names[0]!r} cannot be compared with itself", hint="name two targets")


def _ends(held: _Held, judged: Sequence[str], local: str | None, other: str | None) -> tuple[str, str] | None:
    order = sorted(judged, key=lambda name: float(held.of(name)[1].mean()))
    weak = local or next((name for name in order if name != other), "")
    strong = other or next((name for name in reversed(order) if name != weak), "")
    return (weak, strong) if weak in judged and strong in judged else None


def _of_target(held: _Held, name: str) -> OfTarget:
    shares, right = held.of(name)
    return OfTarget(
        count=len(right),
        right=int(right.sum()),
        ece=interval(ece, shares, right, 0),
        ece_by_chance=_by_chance(shares),
        auroc=interval(auroc, shares, right, 0),
    )


def _by_chance(shares: Numbers) -> float:
    drawn = np.random.default_rng(0).random((DRAWS, len(shares))) < shares
    return float(np.mean([ece(shares, right) for right in drawn]))


def _of_pair(held: _Held, ends: tuple[str, str], both: Sequence[Key], at_most: float, delta: float) -> OfPair:
    local, other = (np.array([held.right[key][name] for key in both], np.bool_) for name in ends)
    scores = np.array([held.shares[key][ends[1]] - held.shares[key][ends[0]] for key in both])
    return OfPair(
        local=ends[0],
        other=ends[1],
        count=len(both),
        local_right=int(local.sum()),
        other_right=int(other.sum()),
        apgr=bootstrapped(lambda curve: curve.apgr, scores, local, other) if local.sum() != other.sum() else None,
        regret=regret_bound(scores, ~local & other, at_most=at_most, delta=delta),
    )
