"""`foreshore route explain`: one decision taken apart, of a prompt or of one in the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.route_options import ConfigOption, JsonOption
from foreshore.errors import UsageError

if TYPE_CHECKING:
    from foreshore.config import Config
    from foreshore.router.checks.explanation import Explanation
    from foreshore.router.situation import Stage

__all__ = ["explain"]

COLUMNS = {"ttft_s": "TTFT", "total_s": "total", "p90_s": "p90", "on_time": "on time"}
COLUMNS |= {"quality": "quality", "cost": "cost"}


def explain(
    prompt: Annotated[str | None, typer.Option(help="What the user says; '-' reads it from stdin.")] = None,
    config: ConfigOption = None,
    model: Annotated[str, typer.Option(help="'auto', or a target to pin.")] = "auto",
    private: Annotated[bool, typer.Option("--private", help="As if the privacy header said so.")] = False,
    tenant: Annotated[str, typer.Option(help="As this tenant.")] = "default",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The answer's limit.")] = None,
    decision: Annotated[str | None, typer.Option(metavar="DEC_ID", help="Instead: a decision in the ledger.")] = None,
    request: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="As if: prompt_tokens=9000.")] = None,
    device: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="As if: on_battery=true.")] = None,
    target: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="As if: cloud.healthy=false.")] = None,
    now: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="As if: hour=23.")] = None,
    budget: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="As if: left=0.5.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which target answers, by which rule, what speaks against the others, and what little would change the choice.

    Targets are taken to be idle, this machine on mains and online, budgets unspent: say otherwise with --request,
    --device, --target, --now and --budget.
    """
    with exit_on_error():
        from foreshore.config import find_config, load_config
        from foreshore.router.checks.changes import parse_settings
        from foreshore.router.policy import Policy
        from foreshore.router.situation import Stage

        if (prompt is None) == (decision is None):
            raise UsageError("explain needs a prompt or a decision", hint="give --prompt TEXT or --decision DEC_ID")
        path = find_config(config)
        loaded = load_config(path)
        given = {"request": request, "device": device, "target": target, "now": now, "budget": budget}
        settings = {k: v for part, pairs in given.items() for k, v in parse_settings(part, pairs or ()).items()}
        stage = Stage(loaded, Policy(loaded, where=str(path or "built in")))
        if decision is not None:
            found, past = _past(decision, stage, settings)
        else:
            text = typer.get_text_stream("stdin").read() if prompt == "-" else prompt or ""
            found, past = _prompt(text, stage, settings, model, private, tenant, max_tokens), None
        report = _json(found, past)
        print_json(report) if as_json else _show(report)
        if report["error"]:
            raise typer.Exit(report["error"]["exit_code"])


def _prompt(
    text: str,
    stage: Stage,
    settings: dict[str, Any],
    model: str,
    private: bool,
    tenant: str,
    max_tokens: int | None,
) -> Explanation:
    from foreshore.router.asking import caller_of, says
    from foreshore.router.checks.explanation import explain
    from foreshore.router.surroundings import clock

    config: Config = stage.config
    caller = caller_of(config, tenant, {config.privacy.header: "private"} if private else {})
    request = says(text, model=model, max_tokens=max_tokens, tenant=tenant)
    return explain(stage.situation(request, caller, now=clock()), stage, settings, request)


def _past(decision_id: str, stage: Stage, settings: dict[str, Any]) -> tuple[Explanation, dict[str, Any]]:
    """As the config here would decide now, and what the ledger says was decided."""
    from foreshore.router.checks.explanation import explain
    from foreshore.router.checks.recorded import event_of, situation_of_event
    from foreshore.router.kept import lacking

    event = event_of(decision_id, stage.config.ledger.file)
    found = explain(situation_of_event(event, stage), stage, settings, recorded=True)
    shown = ("decision_id", "rule", "targets", "target", "terminal_state", "policy")
    return found, {**{name: event[name] for name in shown}, "not_kept": lacking(stage.policy.reads, event)}


def _json(found: Explanation, past: dict[str, Any] | None) -> dict[str, Any]:
    from dataclasses import asdict

    facts, verdict = found.situation.request, found.verdict
    report: dict[str, Any] = {
        "request": {**facts.logged(), "model": facts.model, "labels": list(facts.labels)},
        "fields": dict(found.fields),
        "constraints": [asdict(judged) for judged in found.constraints],
        "rules": [asdict(judged) for judged in found.rules],
        "targets": {
            target.name: {
                "allowed": target.name in verdict.clearing.allowed,
                "excluded_by": [
                    {"constraint": e.constraint, "reason": e.reason}
                    for e in verdict.clearing.excluded
                    if e.target == target.name
                ],
                "estimates": found.estimates(target),
                "rejected": list(found.rejected.get(target.name, ())),
                "later": list(found.later.get(target.name, ())),
            }
            for target in found.situation.targets
        },
        "decision": None,
        "error": None,
        "flip": None,
        "past": past,
    }
    if verdict.error is not None:
        error = verdict.error
        report["error"] = {**error.to_openai()["error"], "status": error.status, "exit_code": error.exit_code}
    if verdict.decision is not None:
        decided = verdict.decision
        kept = ("rule", "strategy", "confidence", "deadline_s")
        reasons = {"targets": list(decided.targets), "reasons": list(decided.reasons)}
        report["decision"] = {**reasons, **{name: getattr(decided, name) for name in kept}}
    if found.flip is not None:
        changes = [{"field": c.name, "before": c.before, "after": c.after} for c in found.flip.changes]
        report["flip"] = {"changes": changes, "target": found.flip.target}
    return report


def _show(report: dict[str, Any]) -> None:
    if report["past"]:
        _show_past(report["past"])
    request = report["request"]
    labels = f" ({', '.join(request['labels'])})" if request["labels"] else ""
    privacy = "private" if request["private"] else "not private"
    out.print(f"request    about {request['prompt_tokens']} prompt tokens, {privacy}{escape(labels)}")
    for name, value in report["fields"].items():
        out.print(f"field      {escape(name)} = {escape(repr(value))}")
    for kind in ("constraint", "rule"):
        for judged in report[f"{kind}s"]:
            why = f" ({judged['why']})" if judged["why"] else ""
            text = f"{judged['name']}: {judged['outcome']}{why}: when {judged['when']}, {judged['then']}"
            out.print(f"{kind:<10} {escape(text)}")
    _show_targets(report["targets"])
    _show_decision(report)


def _show_targets(targets: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("target", *COLUMNS.values()):
        table.add_column(title, justify="left" if title == "target" else "right")
    for name, target in targets.items():
        table.add_row(escape(name), *(_cell(key, target["estimates"][key]) for key in COLUMNS))
    out.print(table)
    for name, target in targets.items():
        for why in target["rejected"]:
            out.print(f"[red]not tried[/]  {escape(name)}: {escape(why)}")
        for why in target["later"]:
            out.print(f"later      {escape(name)}: {escape(why)}")


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    if name == "on_time":
        return f"{value:.0%}"
    return f"{value:.2f}" if name == "quality" else f"${value:.6f}" if name == "cost" else f"{value:.2f} s"


def _show_decision(report: dict[str, Any]) -> None:
    decision = report["decision"]
    if decision is None:
        out.print(f"decision   [red]refused[/] {escape(report['error']['message'])}")
    else:
        for reason in decision["reasons"]:
            out.print(f"reason     {escape(reason)}")
        strategy = f", a {decision['strategy']}" if decision["strategy"] != "fallback" else ""
        tried = f"{', then '.join(decision['targets'])} by rule {decision['rule']!r}{strategy}"
        out.print(f"decision   {escape(tried)}")
    if report["flip"]:
        found = [f"{c['field']} {_value(c['before'])} -> {_value(c['after'])}" for c in report["flip"]["changes"]]
        out.print(f"smallest change: {escape(' and '.join(found))} {_outcome(report['flip']['target'])}")
    elif report["request"]["model"] in ("", "auto"):
        out.print("smallest change: none of two fields that the policy looks at")


def _outcome(target: str) -> str:
    return f"would choose {escape(target)}" if target else "would leave nobody"


def _value(value: Any) -> str:
    return "absent" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _show_past(past: dict[str, Any]) -> None:
    tried = ", then ".join(past["targets"]) or "nobody"
    out.print(f"ledger     {escape(past['decision_id'])}: {escape(tried)} by rule {escape(repr(past['rule']))}")
    out.print(f"           policy {escape(past['policy'])}, {past['terminal_state']}; below, the config here")
    if past["not_kept"]:
        err.print(f"[yellow]note:[/] the ledger does not keep {escape(', '.join(past['not_kept']))}: as if at rest")
