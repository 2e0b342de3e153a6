"""The soft stage: of the targets that may see the request, which in what order. Pure: no I/O, no clock, no client."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from foreshore.errors import NotFound, RoutingError
from foreshore.router.constrain import Clearing, refusal
from foreshore.router.facts import (
    ANY_TIME,
    NO_BUDGET,
    ON_MAINS,
    BudgetFacts,
    ClockFacts,
    DeviceFacts,
    RequestFacts,
    TargetFacts,
)
from foreshore.router.order import ordered
from foreshore.router.policy import ALWAYS, Match, Note, Policy, Rule, Scene
from foreshore.router.record import record

__all__ = ["AUTO", "Decision", "Refused", "State", "by_chance", "chance", "decide"]

AUTO = ("", "auto")


@record
class State:
    """All that a decision depends on besides the request's facts. `targets` carry their predictions.

    `explore` is the probability of a choice by chance; `dice`, in [0, 1), is the chance: `chance` of the decision's id.
    """

    policy: Policy
    targets: Sequence[TargetFacts]
    clearing: Clearing
    device: DeviceFacts = ON_MAINS
    budget: BudgetFacts = NO_BUDGET
    now: ClockFacts = ANY_TIME
    explore: float = 0.0
    dice: float = 1.0
    match: Match | None = None  # the policy's for these facts, where somebody has looked already


@record
class Decision:
    """`targets` in the order they are tried. `propensity`: how probable this first choice was (1: never by chance)."""

    targets: tuple[str, ...]
    rule: str
    estimates: Mapping[str, TargetFacts]
    notes: tuple[Note, ...] = ()
    propensity: float = 1.0
    strategy: str = "fallback"
    confidence: float = 0.0  # a cascade goes on to the next target below it
    deadline_s: float | None = None  # of the rule, from the request's arrival
    explored: bool = False  # whether chance made the first choice

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why not another: in words only where somebody asks, which is rare."""
        return tuple(form % row for form, *columns in self.notes for row in zip(*columns, strict=True))


class Refused(RoutingError):
    """A rule answers with a message instead of a target."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.refuse, reasons={}, hint=f"rule {rule.name!r} refuses this")
        self.rule = rule.name


def decide(facts: RequestFacts, state: State) -> Decision:
    """Raises `NotFound` for a model nobody serves, `Refused`, `RoutingError` or `BadRequest` where nobody is left."""
    policy, clearing = state.policy, state.clearing
    scene = Scene(facts, state.device, state.budget, state.now)
    known = {t.name: t for t in state.targets}
    notes: list[Note] = []
    named: set[str] = set()
    match = _match(scene, state)
    while match is not None:
        rule = match.rule
        notes += match.notes
        if rule.refuse:
            raise Refused(rule)
        cleared = [known[name] for name in rule.prefer if name in clearing.allowed]
        if cleared:
            if clearing.excluded:
                notes += _excluded(rule, clearing)
            names = ordered(rule, cleared, scene, policy.evaluator, notes)
            return _decision(rule, names, state, known, notes, private=facts.private)
        named.update(rule.prefer)
        notes.append(("%r passed over: none of its targets may see this request", [rule.name]))
        match = None if match.number < 0 else policy.match(scene, after=match.number)
    raise refusal([e for e in clearing.excluded if e.target in named])


def chance(decision_id: str, of: str) -> float:
    """A number in [0, 1) that looks drawn by chance, always the same for one id and one `of` (as "explore")."""
    digest = hashlib.blake2b(f"{of}:{decision_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / (1 << 53)


def _match(scene: Scene, state: State) -> Match | None:
    """The target the caller pinned by name or model, else the first rule that holds."""
    model = scene.request.model
    if model in AUTO:
        return state.match or state.policy.match(scene)
    pinned = [t.name for t in state.targets if t.name == model]
    pinned = pinned or [t.name for t in state.targets if t.model == model]
    if not pinned:
        hint = f"use 'auto' or one of: {', '.join(t.name for t in state.targets)}"
        raise NotFound(f"there is no model {model[:100]!r}", hint=hint, param="model")
    return Match(-1, Rule(name="pinned", when=ALWAYS, prefer=tuple(pinned)))


def _excluded(rule: Rule, clearing: Clearing) -> Iterator[Note]:
    """One reason for each of the rule's targets that may not see the request."""
    first = {e.target: e for e in reversed(clearing.excluded)}
    for name in rule.prefer:
        if name in first:
            yield "%r excluded by %r: %s", [name], [first[name].constraint], [first[name].reason]


def _decision(
    rule: Rule, names: list[str], state: State, known: Mapping[str, TargetFacts], notes: list[Note], *, private: bool
) -> Decision:
    propensity, explored = 1.0, False
    if state.explore and len(names) > 1 and rule.name != "pinned" and not private:
        names, propensity, explored = by_chance(names, state.explore, state.dice)
        if explored:
            notes.append(("%r first by chance", names[:1]))
    return Decision(
        targets=tuple(names),
        rule=rule.name,
        estimates=known,
        notes=tuple(notes),
        propensity=propensity,
        strategy=rule.strategy,
        confidence=rule.confidence,
        deadline_s=rule.deadline,
        explored=explored,
    )


def by_chance(names: list[str], explore: float, dice: float) -> tuple[list[str], float, bool]:
    """The order, the probability of its first and whether chance chose it: with probability `explore` any of `names`,
    each as likely, goes first; else the first stays."""
    each = explore / len(names)
    if dice >= explore:
        return names, each + (1.0 - explore), False
    chosen = min(int(dice / each), len(names) - 1)
    propensity = each + (1.0 - explore if chosen == 0 else 0.0)
    return [names[chosen], *names[:chosen], *names[chosen + 1 :]], propensity, True
