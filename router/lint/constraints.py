"""Requests that constraints leave to no target at all, though each of them alone would."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from foreshore.router.lint.atoms import FALSE, TRUE, Atom, Slot
from foreshore.router.lint.finding import Finding, in_words
from foreshore.router.lint.reach import Reach
from foreshore.router.lint.situation import fixed_of, situation_of
from foreshore.router.lint.solve import Found, solve
from foreshore.router.lint.terms import Term, among, atoms_of, both, either, negated, term_of
from foreshore.router.lint.values import Values
from foreshore.router.policy import Constraint
from foreshore.router.situation import Situation

__all__ = ["contradictions"]

MOST = 3  # contradictions named
MAX_STATES = 16  # of one target


def contradictions(reach: Reach) -> Iterator[Finding]:
    """Where some target serves the request, none refuses it on purpose, and none is left, whatever state it is in."""
    constraints = [c for c in reach.policy.constraints if not c.refuse]
    states, nobody = _nobody(reach, constraints)
    meant = [_off(c) if c.refuse else among(term_of(c.when.source), TRUE | FALSE) for c in reach.policy.constraints]
    term = both(reach.possible, _served(reach), *meant, nobody)
    for _ in range(MOST if constraints else 0):
        found = solve(term, reach.domain.with_(states), lambda values: bool(_blame(reach, _situation(reach, values))))
        if not isinstance(found, Found):
            return
        situation = _situation(reach, found.values)
        names = _blame(reach, situation)
        yield _finding(reach, names, found.values, private=situation.request.private)
        term = both(term, either(*(_off(c) for c in constraints if c.name in names)))


def _served(reach: Reach) -> Term:
    """Some target may answer but for the constraints; of tasks, only those count that all targets serve, if any."""
    everywhere = set.intersection(*(set(spec.serves) for spec in reach.config.targets.values()))
    tasks = [among(term_of(f"request.task == '{task}'"), TRUE) for task in sorted(everywhere)]
    return both(either(*map(reach.built_in, reach.config.targets)), *([either(*tasks)] if tasks else []))


def _finding(reach: Reach, names: Sequence[str], values: Values, *, private: bool) -> Finding:
    """Privacy alone may leave a request to nobody: that is the policy's right."""
    together = " and ".join(map(repr, names)) + (" leaves" if len(names) == 1 else " leave")
    what = f"{together} no target {in_words(reach, _of_request(values))}"
    where = next(c.when.where for c in reach.policy.constraints if c.name == names[0])
    return Finding(code="contradiction", where=where, message=what, serious=not private)


def _off(constraint: Constraint) -> Term:
    return among(term_of(constraint.when.source), FALSE)


def _nobody(reach: Reach, constraints: Sequence[Constraint]) -> tuple[dict[Slot, Any], Term]:
    """That no target in any state is left, and what each state is, under a name of its own."""
    fixed: dict[Slot, Any] = {}
    parts: list[Term] = []
    for name in reach.config.targets:
        judged = [c for c in constraints if _judged(reach, c, name)]
        states = _states(reach, judged, name)
        if not states:
            judged, states = [c for c in judged if c.require is None], [{}]
        for i, state in enumerate(states):
            alias = f"{name}#{i}"
            fixed |= {**fixed_of(name, reach.config, alias), **{Slot(s.path, alias): v for s, v in state.items()}}
            parts.append(negated(both(reach.built_in(name), *(reach.lets(c, name, alias) for c in judged))))
    return fixed, both(*parts)


def _judged(reach: Reach, constraint: Constraint, target: str) -> bool:
    """Whether cells settle all that it asks of the target's state. One of which they do not may let some state be."""
    if constraint.require is None:
        return True
    atoms = atoms_of(term_of(constraint.require.source, target))
    return all(
        atom.node is not None and (not any(map(reach.open, atom.slots)) or _settled(reach, atom)) for atom in atoms
    )


def _settled(reach: Reach, atom: Atom) -> bool:
    return len(atom.slots) == 1 and reach.domain.settles(next(iter(atom.slots)), atom)


def _states(reach: Reach, constraints: Sequence[Constraint], target: str) -> list[Values]:
    """Every combination of cells of what `constraints` ask of the target's state; none where they are too many."""
    atoms = [a for c in constraints if c.require is not None for a in atoms_of(term_of(c.require.source, target))]
    slots = {slot: [a for a in atoms if slot in a.slots] for atom in atoms for slot in atom.slots if reach.open(slot)}
    cells = [[cell.value for cell in reach.domain.cells(slot, looking)] for slot, looking in slots.items()]
    many = math.prod(map(len, cells)) > MAX_STATES
    return [] if many else [dict(zip(slots, values, strict=True)) for values in product(*cells)]


def _situation(reach: Reach, values: Values) -> Situation:
    return situation_of(_of_request(values), reach.config)


def _of_request(values: Values) -> Values:
    """Without the targets' states."""
    return {slot: value for slot, value in values.items() if not slot.target}


def _blame(reach: Reach, situation: Situation) -> list[str]:
    """The constraints that keep targets away, if no target is left."""
    clearing = situation.judged(reach.config, reach.policy).clearing
    own = {c.name for c in reach.policy.constraints}
    return (
        [] if clearing.allowed else list(dict.fromkeys(e.constraint for e in clearing.excluded if e.constraint in own))
    )
