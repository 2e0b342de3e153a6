"""`foreshore route`: what decides, what it decided, what it would decide. No model is loaded, nothing is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from foreshore.cli import (
    route_diff,
    route_evaluate,
    route_explain,
    route_feedback,
    route_lint,
    route_policies,
    route_simulate,
    route_test,
    route_train,
)
from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.route_options import ConfigOption, JsonOption

if TYPE_CHECKING:
    from foreshore.config import Config

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Check, explain, simulate and improve routing decisions.")

app.command("explain")(route_explain.explain)
app.command("lint")(route_lint.lint)
app.command("test")(route_test.run)
app.command("policies")(route_policies.policies)
app.command("diff")(route_diff.diff)
app.command("simulate")(route_simulate.simulate)
app.command("train")(route_train.train)
app.command("feedback")(route_feedback.feedback)
app.command("evaluate")(route_evaluate.evaluate)


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
            "policy": list(loaded.policy),
            "missing_variables": missing,
        }
        if as_json:
            print_json(report)
            return
        counts = ", ".join(f"{len(report[k] or ())} {k}" for k in ("targets", "constraints", "rules"))
        out.print(f"[green]ok[/] {escape(str(path or 'the built-in config'))}: {counts}")
        for name in missing:
            err.print(f"[yellow]note:[/] the environment variable {name} is not set here; `foreshore serve` needs it")


def _missing_variables(config: Config) -> list[str]:
    import os

    named = [t.key_env for t in config.targets.values()] + [t.key_env for t in config.tenants]
    return sorted({name for name in named if name and not os.environ.get(name)})
