"""What another policy would have done with a request that the ledger knows.

Only what the ledger keeps can be looked at again: the request's facts but no content, what was expected of each target,
the time. A policy that reads anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from foreshore.config import Config, TargetConfig
from foreshore.errors import ForeshoreError, UsageError
from foreshore.router.constrain import constrain
from foreshore.router.decide import State, decide
from foreshore.router.exchange import ESTIMATES
from foreshore.router.facts import RequestFacts, TargetFacts
from foreshore.router.policy import Policy
from foreshore.router.surroundings import clock
from foreshore.router.target import describe
from foreshore.types import Request

__all__ = ["REFUSED", "Redecider", "action"]

REFUSED = "refused"  # the action of a policy that leaves nobody to answer
CONFIGURED = frozenset("name kind model local tags tools json images context_tokens input_price output_price".split())


def action(targets: Iterable[str], strategy: str) -> str:
    """What a decision did, in a word: its first target, and whether it was the first of a cascade."""
    first = next(iter(targets), REFUSED)
    return f"{first}+cascade" if strategy == "cascade" else first


class Redecider:
    """Decides recorded requests anew under `config`, without exploring. Raises `UsageError` for a policy that looks at
    what the ledger does not keep."""

    def __init__(self, config: Config) -> None:
        self._config, self._policy = config, Policy(config)
        if unknown := sorted(field for field in self._policy.reads if not _kept(field)):
            what = f"the policy looks at {', '.join(unknown)}, which the ledger does not keep"
            raise UsageError(what, hint="leave that out, or compare the policies on live traffic")

    def action(self, event: Mapping[str, Any]) -> str:
        """Raises `UsageError` for an event that is none."""
        try:
            facts = _facts(event["facts"])
            targets = [self._target(n, spec, event["estimates"]) for n, spec in self._config.targets.items()]
            now = clock(float(event["at"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"the event {event.get('decision_id')!r} cannot be read: {error!r}") from error
        targets = _best(targets)
        request, specs = Request(task=facts.task), self._config.targets
        clearing = constrain(request, facts, targets, specs, self._policy, now=now)
        try:
            decision = decide(facts, State(policy=self._policy, targets=targets, clearing=clearing, now=now))
        except ForeshoreError:
            return REFUSED
        return action(decision.targets, decision.strategy if len(decision.targets) > 1 else "fallback")

    def _target(self, name: str, spec: TargetConfig, estimates: Mapping[str, Mapping[str, float]]) -> TargetFacts:
        known = {key: float(value) for key, value in estimates.get(name, {}).items() if key in ESTIMATES}
        return replace(describe(name, spec), **known)  # type: ignore[arg-type]


def _kept(field: str) -> bool:
    part, _, name = field.partition(".")
    if part == "request":
        return name in RequestFacts().logged()
    if part == "target":
        return name in CONFIGURED or name in ESTIMATES or name == "best"
    return part == "now"


def _facts(logged: Mapping[str, Any]) -> RequestFacts:
    known = {f.name for f in fields(RequestFacts)}
    plain: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in logged.items() if key in known
    }
    return RequestFacts(**plain)


def _best(targets: list[TargetFacts]) -> list[TargetFacts]:
    highest = max((target.quality for target in targets), default=0.0)
    return [replace(target, best=target.quality >= highest) for target in targets]
