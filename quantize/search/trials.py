"""Whole mixes that were measured, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from foreshore.errors import UsageError
from foreshore.quantize.search.found import Trial
from foreshore.quantize.search.knapsack import frontier
from foreshore.quantize.search.measuring import Measuring
from foreshore.quantize.search.proposals import Proposals

__all__ = ["Trials"]


class Trials:
    """All on the same `windows`, so that their differences are not noise."""

    def __init__(self, proposals: Proposals, measuring: Measuring, windows: int) -> None:
        self.proposals, self.measuring, self.windows = proposals, measuring, windows
        self.done: list[Trial] = []

    def run(self, count: int) -> None:
        """Up to `count` new ones, one for each process at a time, while there is time; one each always."""
        most = len(self.done) + count
        while len(self.done) < most and (self.measuring.steps.left_s > 0 or not self.done):
            if not self._batch():
                return

    def best(self, among: Sequence[Trial] | None = None) -> Trial:
        """The one with the least KL, or the smallest with little enough, as is asked for. Raises `UsageError` where
        none has little enough."""
        trials, targets = self.done if among is None else among, self.proposals.bounds.targets
        best = min(trials, key=lambda t: targets.order(t.bytes, t.measured))
        if best.measured > (targets.kl or inf):
            raise self._contradiction(best)
        return best

    def _batch(self) -> bool:
        """`False` where there is no mix that was not measured."""
        choices = [c for c in (self.proposals.next() for _ in range(len(self.measuring.meters))) if c]
        mixes = [{name: option.type for name, option in choice.items()} for choice in choices]
        predicted = [self.proposals.predict(mix) for mix in mixes]
        found = self.measuring.kl(mixes, self.windows, always=not self.done)
        for choice, mix, expected, kl in zip(choices, mixes, predicted, found, strict=True):
            if kl is not None:
                self.proposals.observe(mix, kl)
                size = self.proposals.bounds.size(choice)
                self.done.append(Trial(types=mix, bytes=size, predicted=expected, measured=kl))
        return bool(choices)

    def _contradiction(self, best: Trial) -> UsageError:
        bounds = self.proposals.bounds
        targets = bounds.targets
        if targets.smallest:
            hint = "allow more, or take the model as it is"
            return UsageError(f"{targets} was not reached: the best mix has kl {best.measured:.4g}", hint=hint)
        choice = frontier(self.proposals.options(), 1 << 62).down_to(targets.kl or 0.0)
        nearest = bounds.relaxed(choice)
        about = f'feasible are about "{nearest}", or ' if nearest != targets else "feasible is "
        return UsageError(
            f"{targets} contradict each other: within the other bounds the best mix has kl {best.measured:.4g}",
            hint=f"{about}kl<={best.measured:.4g} with the others as they are",
        )
