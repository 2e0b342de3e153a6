"""Rules that never decide, and targets that none of them tries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from foreshore.router.lint.atoms import TRUE
from foreshore.router.lint.conditions import never
from foreshore.router.lint.finding import SHIPPED, Finding
from foreshore.router.lint.reach import Reach
from foreshore.router.lint.solve import Nothing, solve
from foreshore.router.lint.terms import both, negated, term_of
from foreshore.router.policy import Rule

__all__ = ["rules", "targets"]

MANY = 40  # rules


def rules(reach: Reach) -> Iterator[Finding]:
    for i, rule in enumerate(reach.policy.rules[:MANY]):
        if rule.when.where.startswith(SHIPPED) or never(reach, [term_of(rule.when.source)], TRUE):
            continue
        earlier = reach.policy.rules[:i]
        answers = both(reach.possible, reach.holds(rule), *([] if rule.refuse else [reach.leaves(rule)]))
        if isinstance(solve(answers, reach.domain), Nothing):
            yield _unreachable(rule, "where it holds, the constraints leave none of its targets")
        elif isinstance(solve(both(answers, reach.comes_to(rule)), reach.domain), Nothing):
            covering = _covering(reach, rule, earlier)
            yield _unreachable(rule, f"wherever it holds, {_named(covering)} decides first")
        elif wider := next((e for e in earlier if _implies(reach, rule, [e])), None):
            what = f"holds only where {wider.name!r} does: it decides only where the constraints leave that none"
            yield Finding(code="shadowed", where=rule.when.where, message=what, serious=False)
    if left := reach.policy.rules[MANY:]:
        what = (
            f"{len(left)} rules from here on are not checked for being reached: {MANY} are, of more it takes too long"
        )
        yield Finding(code="unchecked", where=left[0].when.where, message=what, serious=False)


def _unreachable(rule: Rule, why: str) -> Finding:
    return Finding(code="unreachable", where=rule.when.where, message=f"never decides: {why}")


def _covering(reach: Reach, rule: Rule, earlier: Sequence[Rule]) -> Sequence[Rule]:
    """One of `earlier` that holds wherever `rule` does, else the fewest, dropped one by one, that together do; all
    where none suffice."""
    for one in earlier:
        if _implies(reach, rule, [one]):
            return [one]
    needed = list(earlier)
    for one in earlier:
        fewer = [r for r in needed if r is not one]
        if _implies(reach, rule, fewer):
            needed = fewer
    return needed


def _implies(reach: Reach, rule: Rule, others: Sequence[Rule]) -> bool:
    alone = both(reach.possible, reach.holds(rule), *(negated(reach.holds(other)) for other in others))
    return isinstance(solve(alone, reach.domain), Nothing)


def _named(rules: Iterable[Rule]) -> str:
    return " or ".join(repr(rule.name) for rule in rules)


def targets(reach: Reach) -> Iterator[Finding]:
    for name in reach.config.targets:
        where = f"target {name!r}"
        if isinstance(solve(both(reach.possible, reach.may_see(name)), reach.domain), Nothing):
            yield Finding(code="unused", where=where, message="the constraints keep every request from it")
        elif isinstance(solve(both(reach.possible, reach.chosen(name)), reach.domain), Nothing):
            what = "no rule ever tries it: only a request that names it reaches it"
            yield Finding(code="unused", where=where, message=what, serious=False)
