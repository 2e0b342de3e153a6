"""Expected decisions, run: the tests of a policy, on the gateway's own label, constrain and decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from foreshore.config import Config
from foreshore.errors import BadRequest, ConfigError, ForeshoreError, UsageError
from foreshore.lined_yaml import Loc
from foreshore.router.asking import asked, caller_of, says
from foreshore.router.checks.case_file import Asked, Case, CaseFile, Expected
from foreshore.router.checks.changes import changed
from foreshore.router.decide import Decision
from foreshore.router.label import Caller
from foreshore.router.policy import Policy
from foreshore.router.situation import Stage
from foreshore.types import Request

__all__ = ["Failure", "Outcome", "run_cases"]

PINNED = ("pinned", "default")  # rules that no file has to name


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """`line` is that of the expectation."""

    line: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one case. `decided`: what came out, in words."""

    name: str
    line: int
    decided: str
    failures: Sequence[Failure]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Came:
    """What came out of a case."""

    private: bool | None = None  # None: the door refused it unread
    decision: Decision | None = None
    error: ForeshoreError | None = None

    def __str__(self) -> str:
        if self.decision is None:
            return f"refused: {self.error.message if self.error else ''}"
        return f"{', then '.join(self.decision.targets)} by {self.decision.rule!r}"


def run_cases(file: CaseFile, config: Config, policy: Policy) -> Iterator[Outcome]:
    """Raises `ConfigError` with file and line for a target, rule, tenant or field that is not there: such a case could
    never fail, or never pass."""
    stage = Stage(config, policy)
    for index, case in enumerate(file.cases):
        _check_names(file, index, case.expect, config, policy)
        came = _came(file, index, case, stage)
        failed = [
            Failure(line=file.line(index, "expect", *loc), message=what) for loc, what in _failed(case.expect, came)
        ]
        yield Outcome(name=case.name, line=file.line(index), decided=str(came), failures=failed)


def _came(file: CaseFile, index: int, case: Case, stage: Stage) -> _Came:
    try:
        request, caller = _request(case.request, stage.config)
        situation = stage.situation(request, caller)
    except BadRequest as error:
        return _Came(error=error)
    except UsageError as error:
        raise _misplaced(file, index, ("request",), error) from error
    for loc, (name, value) in case.settings().items():
        try:
            situation = changed(situation, {name: value})
        except UsageError as error:
            raise _misplaced(file, index, loc, error) from error
    verdict = stage.judged(situation, request)
    return _Came(private=situation.request.private, decision=verdict.decision, error=verdict.error)


def _request(given: Asked, config: Config) -> tuple[Request, Caller]:
    if given.body is not None:
        return asked(given.body, config, tenant=given.tenant, headers=given.headers)
    request = says(given.text, model=given.model, max_tokens=given.max_tokens, tenant=given.tenant)
    return request, caller_of(config, given.tenant, given.headers)


def _misplaced(file: CaseFile, index: int, loc: Loc, error: ForeshoreError) -> ConfigError:
    where = f"{file.where}:{file.line(index, *loc)}"
    return ConfigError(f"{where}: case {file.cases[index].name!r}: {error.message}", hint=error.hint)


def _check_names(file: CaseFile, index: int, expected: Expected, config: Config, policy: Policy) -> None:
    rules = [*(rule.name for rule in policy.rules), *PINNED]
    named: list[tuple[Loc, str, str]] = [
        (("targets", i), name, "target") for i, name in enumerate(expected.targets or ())
    ]
    named += [(("never", i), name, "target") for i, name in enumerate(expected.never)]
    named += [(("first",), expected.first, "target")] if expected.first is not None else []
    named += [(("rule",), expected.rule, "rule")] if expected.rule is not None else []
    for loc, name, kind in named:
        known = rules if kind == "rule" else list(config.targets)
        if name not in known:
            error = UsageError(f"there is no {kind} {name!r}", hint=f"known are {', '.join(known)}")
            raise _misplaced(file, index, ("expect", *loc), error)


def _failed(expected: Expected, came: _Came) -> Iterator[tuple[Loc, str]]:
    """Where, and how it came otherwise."""
    if expected.private is not None and came.private is not expected.private:
        yield ("private",), f"private is {came.private}, not {expected.private}"
    if expected.refused is not None:
        yield from _refusal(expected.refused, came)
    decision = came.decision
    wants = expected.model_fields_set & {"targets", "first", "rule", "strategy", "reasons"}
    if decision is None:
        if wants:
            yield (min(wants),), str(came)
        return
    pairs = {"targets": list(decision.targets), "first": decision.targets[0]}
    pairs |= {"rule": decision.rule, "strategy": decision.strategy}
    for key, found in pairs.items():
        want = getattr(expected, key)
        if want is not None and (list(want) if key == "targets" else want) != found:
            yield (key,), f"{key} {_is(key)} {_words(found)}, not {_words(want)}"
    for i, part in enumerate(expected.reasons):
        if not any(part in reason for reason in decision.reasons):
            yield ("reasons", i), f"no reason has {part!r} in it; there are {list(decision.reasons)}"
    for i, name in enumerate(expected.never):
        if name in decision.targets:
            yield ("never", i), f"{name!r} may be tried: {came}"


def _refusal(expected: bool | str, came: _Came) -> Iterator[tuple[Loc, str]]:
    refused = came.decision is None
    if refused != bool(expected) or (
        isinstance(expected, str) and came.error is not None and expected not in came.error.message
    ):
        yield ("refused",), f"it is {'' if refused else 'not refused, but '}{came}"


def _is(key: str) -> str:
    return "are" if key == "targets" else "is"


def _words(value: object) -> str:
    return ", ".join(value) if isinstance(value, (list, tuple)) else repr(value)
