"""What each target is expected to charge and how good its answer is expected to be: its forecast is its own to make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from foreshore.router.facts import RequestFacts, TargetFacts, answer_tokens

__all__ = ["LEARNT", "cost", "cost_of", "estimated", "rated"]

LEARNT = frozenset({"target.quality", "target.best"})  # fields that come from an estimator
_REST = tuple(f.name for f in fields(TargetFacts) if f.name not in ("cost", "quality", "best"))
_values = attrgetter(*_REST)


def estimated(
    targets: Sequence[TargetFacts], facts: RequestFacts, quality: Mapping[str, float] | None = None
) -> list[TargetFacts]:
    """`targets` with `cost`, `quality` and `best` filled in; `quality` as for `rated`."""
    found = rated([(target.name, target.model) for target in targets], quality or {})
    return [
        TargetFacts(**_rest(target), cost=cost_of(target, facts), quality=probability, best=best)
        for target, (probability, best) in zip(targets, found, strict=True)
    ]


def rated(targets: Iterable[tuple[str, str]], quality: Mapping[str, float]) -> list[tuple[float, bool]]:
    """`quality` and `best` of each target, of which name and model are given.

    `quality` is what an estimator predicts of the request, by target's name, else by its model; 0 where it says
    nothing. Of targets as good as each other each is the best.
    """
    found = [quality.get(name, quality.get(model, 0.0)) for name, model in targets]
    found = [probability if 0.0 <= probability <= 1.0 else 0.0 for probability in found]
    highest = max(found, default=0.0)
    return [(probability, probability >= highest) for probability in found]


def cost_of(target: TargetFacts, facts: RequestFacts) -> float:
    """US dollars: the prompt, and an answer of the length expected here."""
    return cost(facts, target.answer_tokens, target.input_price, target.output_price)


def cost(facts: RequestFacts, mean: float, input_price: float, output_price: float) -> float:
    """As `cost_of`, of a target with these prices and answers that have `mean` tokens; 0: not known."""
    if not (input_price or output_price):
        return 0.0
    return (facts.prompt_tokens * input_price + answer_tokens(facts, mean) * output_price) / 1e6


def _rest(target: TargetFacts) -> dict[str, Any]:
    """All but what is filled in."""
    return dict(zip(_REST, _values(target), strict=True))
