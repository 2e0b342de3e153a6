"""Two policies on the same requests: who is asked instead of whom, what that costs, and what may leave this machine
that did not before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from foreshore.errors import ForeshoreError
from foreshore.router.checks.traffic import Malformed, Row
from foreshore.router.kept import lacking
from foreshore.router.situation import Stage, Verdict

__all__ = ["Group", "PolicyDiff", "Side", "compare"]

EXAMPLES = 3  # ids kept of each group


@dataclass(frozen=True, slots=True)
class Way:
    """How one policy answers a request: the rule that decides, and who is asked first; "refused" for nobody."""

    rule: str
    target: str

    def __str__(self) -> str:
        return f"{self.rule} -> {self.target}" if self.rule else self.target


@dataclass(slots=True)
class Group:
    """Requests that went one way and go another."""

    before: Way
    after: Way
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(name)


@dataclass(slots=True)
class Side:
    """Of one policy: requests answered, answered here first, their predicted dollars and seconds.

    `timed`: of how many the time is predicted; `seconds` is their sum."""

    answered: int = 0
    local: int = 0
    dollars: float = 0.0
    timed: int = 0
    seconds: float = 0.0

    @property
    def share_local(self) -> float:
        return self.local / self.answered if self.answered else 0.0

    @property
    def mean_s(self) -> float | None:
        return self.seconds / self.timed if self.timed else None


@dataclass(slots=True, kw_only=True)
class PolicyDiff:
    """`leaving`: requests that the new policy tries elsewhere, or (`pins`) would let a pin send there, and the old one
    did not; `private` of them are private under the old. `refused` and `answered` are newly so."""

    rows: int = 0
    unknown: Counter[str] = field(default_factory=Counter)  # what a policy looks at, by the rows that do not tell it
    before: Side = field(default_factory=Side)
    after: Side = field(default_factory=Side)
    changed: dict[tuple[Way, Way], Group] = field(default_factory=dict)
    refused: dict[tuple[Way, Way], Group] = field(default_factory=dict)
    answered: dict[tuple[Way, Way], Group] = field(default_factory=dict)
    leaving: dict[tuple[Way, Way], Group] = field(default_factory=dict)
    pins: dict[tuple[Way, Way], Group] = field(default_factory=dict)
    private: int = 0
    malformed: list[Malformed] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """3: something may leave that did not before. 2: lines that could not be read. Else 0."""
        return 3 if self.leaving or self.pins else 2 if self.malformed else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """One request under one policy."""

    way: Way
    may_leave: bool  # a target elsewhere may see it
    leaves: bool  # and is among those tried
    private: bool
    dollars: float = 0.0
    seconds: float = 0.0
    local: bool = False
    error: str = ""


def compare(old: Stage, new: Stage, rows: Iterable[Row | Malformed]) -> PolicyDiff:
    """Decides twice on every row, one at a time: `rows` may be longer than memory."""
    diff = PolicyDiff()
    for row in rows:
        if isinstance(row, Malformed):
            diff.malformed.append(row)
            continue
        diff.rows += 1
        if not row.content:
            diff.unknown.update(lacking(old.policy.reads | new.policy.reads, row.data))
        before, after = _seen(old, row), _seen(new, row)
        _count(diff.before, before)
        _count(diff.after, after)
        _sort(diff, row.id, before, after)
    return diff


def _sort(diff: PolicyDiff, name: str, before: _Seen, after: _Seen) -> None:
    """Into every group that it belongs to."""
    kinds = []
    if before.way != after.way:
        kinds.append(diff.changed)
    if bool(before.error) != bool(after.error):
        kinds.append(diff.refused if after.error else diff.answered)
    if after.leaves and not before.leaves:
        kinds.append(diff.leaving)
        diff.private += before.private
    elif after.may_leave and not before.may_leave:
        kinds.append(diff.pins)
        diff.private += before.private
    for groups in kinds:
        groups.setdefault((before.way, after.way), Group(before.way, after.way)).add(name)


def _count(side: Side, seen: _Seen) -> None:
    if seen.error:
        return
    side.answered += 1
    side.local += seen.local
    side.dollars += seen.dollars
    if seen.seconds:
        side.timed += 1
        side.seconds += seen.seconds


def _seen(stage: Stage, row: Row) -> _Seen:
    try:
        situation, request = row.situation(stage)
    except ForeshoreError as error:  # the door refuses it: no such tenant, a body that is none
        return _Seen(way=Way("", "refused"), may_leave=False, leaves=False, private=False, error=error.message)
    verdict = stage.judged(situation, request)
    private = situation.request.private
    may_leave = _elsewhere(stage, verdict.clearing.allowed)
    decision = verdict.decision
    if decision is None:
        way = Way("", "refused")
        return _Seen(way=way, may_leave=may_leave, leaves=False, private=private, error=_message(verdict))
    first = decision.estimates[decision.targets[0]]
    return _Seen(
        way=Way(decision.rule, first.name),
        may_leave=may_leave,
        leaves=_elsewhere(stage, decision.targets),
        private=private,
        dollars=first.cost,
        seconds=first.total_s,
        local=first.local,
    )


def _elsewhere(stage: Stage, names: Iterable[str]) -> bool:
    return any(not stage.config.targets[name].local for name in names)


def _message(verdict: Verdict) -> str:
    return verdict.error.message if verdict.error is not None else "refused"


def sorted_groups(groups: Iterable[Group]) -> Sequence[Group]:
    """The largest first."""
    return sorted(groups, key=lambda g: (-g.count, str(g.before), str(g.after)))
