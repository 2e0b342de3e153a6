"""`foreshore models fit`: which variant of a model suits this device."""

from __future__ import annotations

from dataclasses import asdict, replace
from math import inf
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.lineage import between
from foreshore.cli.units import human
from foreshore.store import Store

if TYPE_CHECKING:
    from foreshore.quantize.choice import Choice, Need, Row

__all__ = ["fit"]


def fit(
    name: Annotated[str, typer.Argument(help="NAME of a model in the store.")],
    context: Annotated[
        int | None,
        typer.Option("--context", min=1, help="Tokens of a request, prompt and answer; default: the engine's."),
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests at the same time.")] = 1,
    speed: Annotated[
        float | None, typer.Option("--speed", help="Tokens/s that are fast enough: then the best in quality is chosen.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Recommend one of a model's variants for this device's memory and speed, and say what speaks against others."""
    with exit_on_error():
        from foreshore.edge.machine import available
        from foreshore.quantize.choice import Need, choose, fingerprints, offers
        from foreshore.quantize.speed import bandwidth

        tokens, found = offers(Store(), name, context, concurrency)
        need = Need(
            context=tokens,
            concurrency=concurrency,
            memory_bytes=available(),
            fingerprints=fingerprints(),
            speed=speed,
        )
        choice = choose(found, need)
        if any(row.rate is None for row in choice.rows):
            need = replace(need, bandwidth=bandwidth())
            choice = choose(found, need)
        if as_json:
            print_json({**asdict(choice), "need": asdict(need)})
        else:
            _show(choice, need)


def _show(choice: Choice, need: Need) -> None:
    rows = sorted(choice.rows, key=lambda row: row.bytes)
    table = Table(box=None, pad_edge=False)
    for title in ("", "variant", "state", "size", "bits", "memory", "longest context", "tokens/s", "KL or cosine"):
        table.add_column(title, justify="left" if title in ("variant", "state", "") else "right")
    for row in rows:
        mark = "[bold green]*[/]" if row.ref == choice.recommended else "" if row.fits else "[yellow]-[/]"
        table.add_row(mark, *_cells(row))
    out.print(table)
    for row in rows:
        if row.why:
            out.print(f"{escape(row.ref)} does not fit: {escape(row.why)}")
    if any(row.rate and not row.rate.measured for row in choice.rows):
        err.print("~ predicted from bandwidth, not measured on this class of device")
    asked = f"{need.concurrency} x {need.context} tokens"
    if choice.recommended:
        out.print(f"for {asked}: [bold]{escape(choice.recommended)}[/], {escape(choice.reason)}")
    else:
        out.print(f"for {asked}: {escape(choice.reason)}")
    unjudged = [row.ref for row in rows if row.fits and row.state == "candidate" and row.loss < inf]
    if unjudged and any(row.state == "ready" for row in rows):
        hint = "have the gate judge them: foreshore models promote REF --owner NAME"
        err.print(f"passed over as candidates: {escape(', '.join(unjudged))}; {hint}")


def _cells(row: Row) -> tuple[str, ...]:
    rate = "-" if row.rate is None else f"{'' if row.rate.measured else '~'}{row.rate.value:.1f}"
    quality = row.kl_mean or row.cosine_mean
    return (
        escape(row.ref),
        row.state,
        human(row.bytes),
        f"{row.bits_per_weight:.2f}",
        "-" if row.memory_bytes is None else human(row.memory_bytes),
        "-" if row.longest_context is None else str(row.longest_context),
        rate,
        "not measured" if quality is None else between(quality),
    )
