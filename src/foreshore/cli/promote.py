"""`foreshore models promote`: have a gate decide over a variant."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foreshore.cli.console import exit_on_error, out, print_json
from foreshore.errors import UsageError
from foreshore.manifest import Manifest
from foreshore.store import Store

__all__ = ["promote"]

SHOWN = 3  # reasons in the message


def promote(
    ref: Annotated[str, typer.Argument(help="NAME:VARIANT, or NAME if it has one variant.")],
    owner: Annotated[str, typer.Option("--owner", help="Who answers for the decision.")],
    gate: Annotated[
        str | None,
        typer.Option(
            "--gate",
            metavar="RULE",
            help="Such as kl<=0.05,kl_p99<=0.6,same_top>=0.9,accuracy>=-10% (the default); cosine>=0.99 for encoders.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a variant `ready` if the bounds of its measurements pass the gate, else a candidate: then exit code 2."""
    with exit_on_error():
        from foreshore.quantize.gate import Gate
        from foreshore.quantize.gate import promote as decide

        made = decide(Store(), ref, owner, Gate.parse(gate) if gate is not None else None)
        decision = made.decision
        assert decision is not None
        if as_json:
            print_json({"ref": made.ref, "state": made.state, **asdict(decision)})
        else:
            _show(made, decision.rule)
        if not decision.passed:
            hint = "measure what is missing, or choose a variant that lost less"
            more = len(decision.reasons) - SHOWN
            rest = f"; and {more} more: foreshore models lineage {made.ref}" if more > 0 else ""
            raise UsageError(f"{made.ref} is a candidate: {'; '.join(decision.reasons[:SHOWN])}{rest}", hint=hint)


def _show(made: Manifest, rule: str) -> None:
    from foreshore.quantize.gate import Gate

    table = Table(box=None, pad_edge=False)
    for title, justify in (("condition", "left"), ("of", "left"), ("bound", "right"), ("", "left")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for finding in Gate.parse(rule).findings(made.card):
        bound = "not measured" if finding.bound is None else f"{finding.bound:.4f}"
        table.add_row(
            escape(str(finding.condition)),
            escape(finding.segment),
            bound,
            "[green]ok[/]" if finding.met else "[red]no[/]",
        )
    out.print(table)
    out.print(f"{escape(made.ref)}: [bold]{made.state}[/]")
