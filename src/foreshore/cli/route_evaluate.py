"""`foreshore route evaluate`: what another policy would have earned on the requests that the ledger knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from math import log1p
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.lineage import between
from foreshore.cli.route_options import JsonOption
from foreshore.errors import NotFound, UsageError

if TYPE_CHECKING:
    from foreshore.reliability.off_policy import Evaluation, Row
    from foreshore.router.checks.redecide import Redecider

__all__ = ["evaluate"]

Reward = Literal["correct", "cost", "total_s"]
REWARDS = {
    "correct": "share of right answers, by feedback",
    "cost": "US dollars a request",
    "total_s": "seconds a request",
}
ESTIMATES = ("logged", "ips", "self_normalised", "doubly_robust", "bernstein")


def evaluate(
    config: Annotated[Path, typer.Option("-c", "--config", help="The policy to estimate.")],
    ledger: Annotated[
        Path | None, typer.Option(help="The recorded decisions. Default: the ledger of the config.")
    ] = None,
    reward: Annotated[Reward, typer.Option(help="What is estimated; 'correct' needs feedback.")] = "correct",
    held_out: Annotated[
        bool, typer.Option("--held-out", help="From the held-out slice alone: for a policy that asks an estimator.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate what a policy would have earned on recorded requests; refuse where the log cannot say."""
    with exit_on_error():
        from foreshore.config import load_config
        from foreshore.reliability.off_policy import evaluate as estimate
        from foreshore.router.checks.redecide import Redecider

        if not config.is_file():
            raise NotFound(f"there is no config file {str(config)!r}")
        loaded = load_config(config)
        file = ledger or loaded.ledger.file
        policy = Redecider(loaded)
        rows = list(_rows(_rewarded(file, reward, held_out), policy))
        _tell(policy, rows)
        if not rows:
            what = "decision with feedback" if reward == "correct" else "decision that was answered"
            hint = "give feedback: foreshore route feedback" if reward == "correct" else "name another with --ledger"
            raise UsageError(f"the ledger {str(file)!r} has no {what}", hint=hint)
        found = estimate(rows)
        if as_json:
            print_json({"reward": reward, "ledger": str(file), **asdict(found)})
        else:
            _show(found, reward)


def _rewarded(file: Path, reward: Reward, held_out: bool) -> Iterator[tuple[Mapping[str, Any], float]]:
    """The events that tell, and what they earned. What a caller pinned to a target was no policy's choice."""
    from foreshore.reliability.feedback import rated
    from foreshore.reliability.ledger import read_events

    found: Iterable[tuple[Mapping[str, Any], float]]
    if reward == "correct":
        found = rated(file)
    else:
        found = ((event, event[reward]) for event in read_events(file) if event["terminal_state"] == "complete")
    for event, value in found:
        if event["targets"] and event["rule"] != "pinned" and (event["holdout"] or not held_out):
            yield event, value


def _rows(rewarded: Iterable[tuple[Mapping[str, Any], float]], policy: Redecider) -> Iterator[Row]:
    from foreshore.reliability.off_policy import Row
    from foreshore.router.checks.redecide import action

    for event, value in rewarded:
        chosen, targets = policy.action(event), event["targets"]
        if chosen is None:
            continue
        strategy = event["strategy"] if len(targets) > 1 else "fallback"
        possible = targets if event["propensity"] != 1 else targets[:1]
        yield Row(
            action=action(targets, strategy),
            propensity=event["propensity"],
            reward=value,
            new={chosen: 1.0},
            possible=frozenset(action([name], strategy) for name in possible),
            features=_features(event["facts"]),
        )


def _tell(policy: Redecider, rows: Sequence[Row]) -> None:
    """Which decisions were left out for want of what the policy looks at."""
    if not policy.left_out:
        return
    what = ", ".join(f"{path} of {count}" for path, count in sorted(policy.left_out.items()))
    hint = "older gateways kept it not, nor is it sampled while no rule looks at it: log under a policy that does"
    if not rows:
        raise UsageError(f"the policy looks at what was not kept: {what} decisions", hint=hint)
    err.print(f"[yellow]note:[/] left out, for nobody knows {escape(what)} decisions ({hint})")


def _features(facts: Mapping[str, Any]) -> tuple[float, ...]:
    """Of the request, for the model of rewards: sizes and flags."""
    sizes = (log1p(float(facts.get(name) or 0)) for name in ("prompt_tokens", "max_tokens", "messages"))
    flags = (float(bool(facts.get(name))) for name in ("has_tools", "wants_json", "stream", "private"))
    return (*sizes, *flags)


def _show(found: Evaluation, reward: Reward) -> None:
    table = Table(box=None, pad_edge=False)
    for title in (REWARDS[reward], "value and 95 % interval"):
        table.add_column(title)
    for name in ESTIMATES:
        interval = getattr(found, name)
        if interval is not None:
            table.add_row(escape(name.replace("_", "-")), between(interval, 6 if reward == "cost" else 4))
    out.print(table)
    err.print(
        f"{found.rows} decisions, worth {found.effective:.0f} of equal weight; the policies agree on "
        f"{found.agreement:.1%}; the largest weight is {found.largest_weight:.1f}"
    )
