"""`foreshore route simulate`: what a policy makes of a trace, without a model, a network or a wait."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.errors import SetupError, UsageError

if TYPE_CHECKING:
    from foreshore.card import Card
    from foreshore.config import Config
    from foreshore.router.simulate.report import Figures, Report
    from foreshore.router.simulate.speed import CloudSpeed, LocalSpeed
    from foreshore.router.simulate.trace import Trace

__all__ = ["simulate"]

FORMS = (".png", ".svg", ".html")
TIMES = ("TTFT p50", "p95", "total p50", "p95")


def simulate(
    trace: Annotated[
        Path, typer.Option(help="Arrivals: Azure's CSV columns, a ledger's events as JSON lines, or a ledger.")
    ],
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Default: $FORESHORE_CONFIG, then ./foreshore.yaml.")
    ] = None,
    speed: Annotated[
        Path | None, typer.Option(help="How fast each target is (YAML). Default: what cards and events have measured.")
    ] = None,
    slo: Annotated[str, typer.Option(help="What must be kept: ttft, total, tpot.")] = "ttft=1s,total=10s",
    deadline: Annotated[
        str | None, typer.Option(help="Of requests that bring none, as in 30s. Default: limits.timeout.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Replay so many times as fast: all gaps shrink or grow alike.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of what scatters; equal seeds, equal results.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw curves into this .png, .svg or .html file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replay a trace through a policy and simulated targets: objectives kept, cost, share local, times, load."""
    with exit_on_error():
        from foreshore.config import find_config, load_config
        from foreshore.router.simulate.policy import PolicyChooser
        from foreshore.router.simulate.report import curves, report
        from foreshore.router.simulate.simulate import simulate as run_through
        from foreshore.router.simulate.slo import Slo
        from foreshore.router.simulate.trace import read_trace

        if plot is not None and plot.suffix.lower() not in FORMS:
            raise UsageError(f"--plot: {str(plot)!r} has none of the endings {', '.join(FORMS)}")
        objective, limit = Slo.parse(slo), _seconds(deadline)
        loaded = load_config(find_config(config))
        recorded = read_trace(trace)
        speeds = _speeds(loaded, speed, recorded)
        replayed = recorded.faster(rate)
        _warn(loaded, speeds)
        with err.status(f"{len(replayed.arrivals)} requests"):
            chooser = PolicyChooser(loaded, replayed, seed=seed)
            run = run_through(loaded, speeds, replayed, chooser, seed=seed, deadline_s=limit)
        found = report(run, objective)
        if plot is not None:
            _write(plot, _drawn(plot, curves(run, objective), found))
        if as_json:
            facts = {name: value.model_dump(exclude_none=True) for name, value in speeds.items()}
            print_json({**asdict(found), "rate": rate, "seed": seed, "speeds": facts})
        else:
            _show(found)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)s?", text)
    if match is None or not 0 < float(match[1]) <= 86_400:
        raise UsageError(f"--deadline: {text!r} is no time", hint="seconds, as in 30s")
    return float(match[1])


def _warn(config: Config, speeds: Mapping[str, LocalSpeed | CloudSpeed]) -> None:
    """Of what a trace without text cannot show."""
    judged = {
        name for r in config.rules if r.strategy == "cascade" for name in (r.prefer or tuple(config.targets))[:-1]
    }
    if unknown := sorted(name for name in judged if speeds[name].confident is None):
        what = f"nothing is known of the confidence in answers of {', '.join(unknown)}: cascades keep them all"
        err.print(f"[yellow]note:[/] {escape(what)} (give `confident` in --speed, or measure the variant on tasks)")
    if config.quality.estimator is not None:
        err.print("[yellow]note:[/] a trace has no text: target.quality is 0 for every target")


def _speeds(config: Config, path: Path | None, trace: Trace) -> Mapping[str, LocalSpeed | CloudSpeed]:
    """What the file says; for targets it leaves out, what a variant's card or the trace's own events have measured."""
    from foreshore.router.simulate.speed import complete, of_events, read_speeds

    found = read_speeds(path) if path else {}
    for name, spec in config.targets.items():
        if name not in found:
            slots = spec.engine.slots if spec.engine else None
            measured = _of_store(spec.model, slots) if spec.local else of_events(trace.events, name)
            if measured is not None:
                found[name] = measured
        if name in found and found[name].confident is None and (shares := _confident(spec.model)):
            found[name] = found[name].model_copy(update={"confident": shares})
    return complete(config, found)


def _confident(model: str) -> dict[float, float] | None:
    """What tasks have shown of the variant: the share of its answers that inspire so much confidence."""
    card = _card(model)
    found = card.confidence.thresholds if card and card.confidence else ()
    return {threshold.confidence: threshold.local_share for threshold in found} or None


def _card(model: str) -> Card | None:
    """None for what is not in the store."""
    from foreshore.errors import ForeshoreError
    from foreshore.store import Store

    try:
        return Store().get(model).card
    except ForeshoreError:
        return None


def _of_store(model: str, slots: int | None) -> LocalSpeed | None:
    """What was measured on this class of machine of a variant in the store."""
    from foreshore.quantize.device import this_device
    from foreshore.router.simulate.speed import of_card

    card = _card(model)
    if card is None:
        return None
    fingerprint = this_device().fingerprint
    return of_card((s for s in card.speeds if s.device.fingerprint == fingerprint), slots=slots)


def _drawn(path: Path, shown: Any, found: Report) -> bytes:
    from foreshore.cli.route_simulate_figure import draw

    return draw(path.suffix.lower(), shown, found)


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise SetupError(f"cannot write {str(path)!r}: {error.strerror}") from error


def _show(found: Report) -> None:
    whole = found.all
    out.print(f"{whole.requests} requests in {found.seconds / 60:.1f} minutes; objective: {escape(found.slo)}")
    table = Table(box=None, pad_edge=False)
    for title in ("", "requests", "kept", "local", "dollars", *TIMES, "late", "refused", "busy"):
        table.add_column(title, justify="right" if title else "left")
    table.add_row("all", *_cells(whole), "")
    if len(found.tenants) > 1:
        for name, figures in found.tenants.items():
            table.add_row(f"tenant {escape(name)}", *_cells(figures), "")
    for name, target in found.targets.items():
        cells = _cells(target.figures) if target.figures else ("0", *["-"] * 9)
        cells = (*cells[:-1], str(target.refused))
        table.add_row(f"target {escape(name)}", *cells, f"{target.utilisation:.0%}")
    out.print(table)
    for name, target in found.targets.items():
        if target.passed_on:
            out.print(f"cascades: {target.passed_on} answers of {escape(name)} were not kept")
    shares = ", ".join(f"{escape(rule)} {count}" for rule, count in found.rules.items())
    out.print(f"rules: {shares}; longest local queue: {found.longest_queue}")


def _cells(figures: Figures) -> tuple[str, ...]:
    times = [_time(part, name) for part in (figures.ttft_s, figures.total_s) for name in ("p50", "p95")]
    return (
        str(figures.requests),
        f"{figures.attainment:.1%}",
        f"{figures.share_local:.0%}",
        f"{figures.cost:.4f}",
        *times,
        str(figures.deadline),
        str(figures.refused + figures.denied),
    )


def _time(percentiles: Mapping[str, float], name: str) -> str:
    return f"{percentiles[name]:.2f} s" if percentiles else "-"
