"""`foreshore route`: explain a decision, check a config. No model is loaded, nothing is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from foreshore.cli import route_lint, route_test
from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.route_options import ConfigOption, JsonOption
from foreshore.errors import ForeshoreError, NotFound

if TYPE_CHECKING:
    from foreshore.config import Config

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Explain and check routing decisions.")

app.command("lint")(route_lint.lint)
app.command("test")(route_test.run)


@app.command()
def explain(
    prompt: Annotated[str, typer.Option(help="What the user says; '-' reads it from stdin.")],
    config: ConfigOption = None,
    model: Annotated[str, typer.Option(help="'auto', or a target to pin.")] = "auto",
    private: Annotated[bool, typer.Option("--private", help="As if the privacy header said so.")] = False,
    tenant: Annotated[str, typer.Option(help="As this tenant.")] = "default",
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The answer's limit.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which target would answer, by which rule, and what each constraint does to it."""
    with exit_on_error():
        from foreshore.config import find_config, load_config

        text = typer.get_text_stream("stdin").read() if prompt == "-" else prompt
        loaded = load_config(find_config(config))
        report = _explain(loaded, text, model=model, private=private, tenant=tenant, max_tokens=max_tokens)
        print_json(report) if as_json else _show(report)
        if report["error"]:
            raise typer.Exit(report["error"]["exit_code"])


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Validate a config: every key, name and expression, and the environment variables it needs."""
    with exit_on_error():
        from foreshore.config import find_config, load_config
        from foreshore.router.policy import Policy

        path = find_config(config)
        loaded = load_config(path)
        Policy(loaded, where=str(path or "built in"))
        missing = _missing_variables(loaded)
        report = {
            "config": str(path) if path else None,
            "targets": list(loaded.targets),
            "constraints": [c.name for c in loaded.constraints],
            "rules": [r.name for r in loaded.rules],
            "missing_variables": missing,
        }
        if as_json:
            print_json(report)
            return
        counts = ", ".join(f"{len(report[k] or ())} {k}" for k in ("targets", "constraints", "rules"))
        out.print(f"[green]ok[/] {escape(str(path or 'the built-in config'))}: {counts}")
        for name in missing:
            err.print(f"[yellow]note:[/] the environment variable {name} is not set here; `foreshore serve` needs it")


def _explain(
    config: Config, text: str, *, model: str, private: bool, tenant: str, max_tokens: int | None
) -> dict[str, Any]:
    from foreshore.router.constrain import constrain
    from foreshore.router.decide import State, decide
    from foreshore.router.label import Caller, label
    from foreshore.router.policy import Policy
    from foreshore.router.target import describe
    from foreshore.types import Request, Sampling

    request = Request(
        model=model,
        messages=({"role": "user", "content": text},),
        sampling=Sampling(max_tokens=max_tokens),
        tenant=tenant,
    )
    known = [t.name for t in config.tenants]
    if tenant not in (*known, "default"):
        raise NotFound(f"there is no tenant {tenant!r}", hint=f"known are {', '.join(known) or 'none'}")
    headers = {config.privacy.header: "private"} if private else {}
    facts = label(request, Caller(tenant=tenant, headers=headers), config)
    targets = [describe(name, spec).predicted(facts) for name, spec in config.targets.items()]
    policy = Policy(config)
    clearing = constrain(request, facts, targets, config.targets, policy)
    report: dict[str, Any] = {
        "request": {**facts.logged(), "model": model, "labels": list(facts.labels)},
        "targets": {t.name: _effects(t.name, clearing) for t in targets},
        "decision": None,
        "error": None,
    }
    try:
        decision = decide(facts, State(policy=policy, targets=targets, clearing=clearing))
    except ForeshoreError as error:
        report["error"] = {**error.to_openai()["error"], "status": error.status, "exit_code": error.exit_code}
    else:
        reasons = list(decision.reasons)
        report["decision"] = {"targets": list(decision.targets), "rule": decision.rule, "reasons": reasons}
    return report


def _effects(target: str, clearing: Any) -> dict[str, Any]:
    found = [{"constraint": e.constraint, "reason": e.reason} for e in clearing.excluded if e.target == target]
    return {"allowed": target in clearing.allowed, "excluded_by": found}


def _show(report: dict[str, Any]) -> None:
    request, decision = report["request"], report["decision"]
    labels = f" ({', '.join(request['labels'])})" if request["labels"] else ""
    privacy = "private" if request["private"] else "not private"
    out.print(f"request   about {request['prompt_tokens']} prompt tokens, {privacy}{labels}")
    for name, effect in report["targets"].items():
        why = "; ".join(f"{e['constraint']}: {e['reason']}" for e in effect["excluded_by"])
        mark = "[green]allowed[/]" if effect["allowed"] else f"[red]excluded[/] {escape(why)}"
        out.print(f"target    {escape(name)} {mark}")
    if decision is None:
        out.print(f"decision  [red]refused[/] {escape(report['error']['message'])}")
        return
    for reason in decision["reasons"]:
        out.print(f"reason    {escape(reason)}")
    out.print(f"decision  {escape(', then '.join(decision['targets']))} by rule {escape(repr(decision['rule']))}")


def _missing_variables(config: Config) -> list[str]:
    import os

    named = [t.key_env for t in config.targets.values()] + [t.key_env for t in config.tenants]
    return sorted({name for name in named if name and not os.environ.get(name)})
