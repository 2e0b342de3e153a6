"""What is wrong with a policy before any request shows it: types, conditions that never hold, rules that never decide,
constraints that leave nobody, targets nobody is sent to; and whether what must stay here does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foreshore.config import Config
from foreshore.router.lint.conditions import conditions
from foreshore.router.lint.constraints import contradictions
from foreshore.router.lint.egress import PRIVATE, Egress, prove
from foreshore.router.lint.finding import Finding
from foreshore.router.lint.reach import Reach
from foreshore.router.lint.rules import rules, targets
from foreshore.router.lint.types import Mistake, check_types
from foreshore.router.policy import Policy
from foreshore.router.rules import OF_TARGETS, SCENE

__all__ = ["Report", "lint", "mistakes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    findings: Sequence[Finding]
    egress: Sequence[Egress]

    @property
    def exit_code(self) -> int:
        """3: a request gets out. 4: not proved that none does. 1: a serious finding. Else 0."""
        verdicts = {e.verdict for e in self.egress}
        if "broken" in verdicts:
            return 3
        if "not proved" in verdicts:
            return 4
        return 1 if any(f.serious for f in self.findings) else 0


def mistakes(config: Config, where: str) -> list[Mistake]:
    """Of type, in every expression of the file: without them, `Policy` would raise at the first."""
    found: list[Mistake] = []
    for constraint in config.constraints:
        place = f"{where}: constraint {constraint.name!r}"
        found += check_types(constraint.when, where=f"{place}, when", sees=SCENE)
        if constraint.require is not None:
            found += check_types(constraint.require, where=f"{place}, require", sees=OF_TARGETS)
    for rule in config.rules:
        place = f"{where}: rule {rule.name!r}"
        found += check_types(rule.when, where=f"{place}, when", sees=SCENE)
        if rule.where is not None:
            found += check_types(rule.where, where=f"{place}, where", sees=OF_TARGETS)
    return found


def lint(config: Config, policy: Policy, kinds: Iterable[str] = ()) -> Report:
    """`kinds`: what must not get out, as CEL, besides private requests. `policy` is that of `config`."""
    reach = Reach(config, policy)
    found = [*conditions(reach), *rules(reach), *contradictions(reach), *targets(reach)]
    return Report(findings=found, egress=[prove(reach, kind) for kind in (PRIVATE, *kinds)])
