"""What each target is expected to charge and how good its answer is expected to be: its forecast is its own to make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from foreshore.router.facts import RequestFacts, TargetFacts, answer_tokens

__all__ = ["LEARNT", "cost_of", "estimated"]

LEARNT = frozenset({"target.quality", "target.best"})  # fields that come from an estimator


def estimated(
    targets: Sequence[TargetFacts], facts: RequestFacts, quality: Mapping[str, float] | None = None
) -> list[TargetFacts]:
    """`targets` with `cost`, `quality` and `best` filled in.

    `quality` is what an estimator predicts of the request, by target's name, else by its model; 0 where it says
    nothing. Of targets as good as each other each is the best.
    """
    found = [_quality_of(target, quality or {}) for target in targets]
    highest = max(found, default=0.0)
    return [
        replace(target, cost=cost_of(target, facts), quality=probability, best=probability >= highest)
        for target, probability in zip(targets, found, strict=True)
    ]


def cost_of(target: TargetFacts, facts: RequestFacts) -> float:
    """US dollars: the prompt, and an answer of the length expected here."""
    if not (target.input_price or target.output_price):
        return 0.0
    return (facts.prompt_tokens * target.input_price + answer_tokens(facts, target) * target.output_price) / 1e6


def _quality_of(target: TargetFacts, quality: Mapping[str, float]) -> float:
    probability = quality.get(target.name, quality.get(target.model, 0.0))
    return probability if 0.0 <= probability <= 1.0 else 0.0
