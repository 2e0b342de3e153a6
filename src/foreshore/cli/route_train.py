"""`foreshore route train`: learn how probable it is, of each target, that its answer will be acceptable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.known_labels import known_labels
from foreshore.cli.lineage import between
from foreshore.errors import UsageError

if TYPE_CHECKING:
    from foreshore.quality.labels import Label
    from foreshore.quality.report import OfPair, Report
    from foreshore.router.local_encoder import LocalEncoder

__all__ = ["train"]

SHOWN = 10  # bad lines


def train(
    to: Annotated[Path, typer.Option("--out", help="The estimator's file, for quality.estimator in the config.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="Labels as .jsonl or .csv, also .gz. May be given several times.")
    ] = None,
    store: Annotated[
        list[str] | None, typer.Option(help="NAME:VARIANT: what it answered when it was measured on tasks.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="A gateway's ledger: feedback on prompts that learning.remember kept.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="What a target of the data is called in your config, as in weak=card.")
    ] = None,
    holdout: Annotated[
        float,
        typer.Option(min=0.0, max=0.5, help="Share of the prompts that judge the result, never learnt from."),
    ] = 0.1,
    answers: Annotated[
        bool, typer.Option("--answers", help="Learn to judge after the first target's answer, for cascades.")
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option(help="A local model, NAME:VARIANT or a path, whose vectors are learnt from too: quality.encoder."),
    ] = None,
    local: Annotated[str | None, typer.Option(help="Whose regret is bounded. Default: the least often right.")] = None,
    other: Annotated[str | None, typer.Option(help="Against whom. Default: the most often right.")] = None,
    regret: Annotated[
        float, typer.Option(help="Of the answers served locally, at most this share is to be regretted.")
    ] = 0.05,
    delta: Annotated[float, typer.Option(help="How probable it may be that the bound does not hold.")] = 0.05,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Learn from the others where lines are bad.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Learn from (prompt, target, correct) or from comparisons; report on prompts that were not learnt from."""
    with exit_on_error():
        from foreshore.quality import training
        from foreshore.quality.labels import split
        from foreshore.quality.report import judge

        if not (data or store or ledger):
            raise UsageError(
                "there is nothing to learn from", hint="give --data FILE, --store NAME:VARIANT or --ledger"
            )
        read = _read(data, _names(name or []), skip_bad) if data else []
        _check(to, regret, delta)
        learnt, held = split([*read, *known_labels(store or (), ledger)], holdout)
        with err.status("reading") as status, _loaded(encoder, status.update) as embeds:
            estimator = training.train(learnt, answers=answers, encoder=embeds, progress=status.update)
            status.update("judging")
            judged = partial(judge, estimator, held, local=local, other=other, at_most=regret, delta=delta)
            report = judged(encoder=embeds)
            blind = judged() if embeds else None
        found = report.to_json() | ({"without_encoder": blind.to_json()} if blind else {})
        estimator.with_report(found).save(to)
        if as_json:
            facts = {"labels": dict(estimator.labels), "scales": dict(estimator.scales), "answers": answers}
            facts["encoder"] = estimator.encoder.to_json() if estimator.encoder else None
            print_json({"estimator": str(to), "bytes": to.stat().st_size, **facts, "held_out": found})
        else:
            _show(report, estimator.labels)
            if blind:
                out.print("\nwithout the encoder, as where it does not answer in time:")
                _show(blind, estimator.labels)
            err.print(f"[green]wrote[/] {escape(str(to))}")


@contextmanager
def _loaded(model: str | None, say: Callable[[str], None]) -> Iterator[LocalEncoder | None]:
    if model is None:
        yield None
        return
    from foreshore.router.local_encoder import LocalEncoder

    say(f"loading {escape(model)}")
    with LocalEncoder(model, progress=lambda done, total: say(f"embedding {done} of {total} prompts")) as encoder:
        yield encoder


def _check(to: Path, regret: float, delta: float) -> None:
    """What would be refused in the end is refused before minutes of learning."""
    if to.is_dir() or not to.parent.is_dir():
        raise UsageError(f"--out {str(to)!r} cannot be written: it is a folder, or in none that is there")
    for name, share in (("--regret", regret), ("--delta", delta)):
        if not 0 < share < 1:
            raise UsageError(f"{name} must be between 0 and 1, not {share!r}")


def _names(given: Sequence[str]) -> Mapping[str, str]:
    found = {}
    for pair in given:
        before, sign, after = pair.partition("=")
        if not (before and sign and after):
            raise UsageError(f"--name {pair!r} is no OLD=NEW", hint="as in --name weak=card")
        found[before] = after
    return found


def _read(paths: Sequence[Path], names: Mapping[str, str], skip_bad: bool) -> list[Label]:
    from foreshore.quality.label_files import read_labels

    files = [read_labels(path, names) for path in paths]
    bad = [str(line) for file in files for line in file.bad]
    more = f" (and {len(bad) - SHOWN} more)" if len(bad) > SHOWN else ""
    if bad and not skip_bad:
        what = f"{len(bad)} of {sum(file.rows for file in files)} lines are bad: {'; '.join(bad[:SHOWN])}{more}"
        raise UsageError(what, hint="mend them, or learn from the others with --skip-bad")
    for line in bad[:SHOWN]:
        err.print(f"[yellow]left out:[/] {escape(line)}")
    if more:
        err.print(f"[yellow]left out:[/]{more}")
    return [label for file in files for label in file.labels]


def _show(report: Report, labels: Mapping[str, int]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("target", "learnt from", "held out", "right", "calibration error (ECE)", "by chance", "AUROC"):
        table.add_column(title, justify="left" if title == "target" else "right")
    for target, count in labels.items():
        found = report.targets.get(target)
        cells = ("-",) * 5
        if found:
            right, chance = f"{found.right / found.count:.1%}", f"{found.ece_by_chance:.4f}"
            cells = str(found.count), right, between(found.ece), chance, between(found.auroc)
        table.add_row(escape(target), str(count), *cells)
    out.print(table)
    for line in _of_pair(report.pair) if report.pair else ():
        out.print(escape(line))
    for line in report.missing:
        err.print(f"[yellow]too few held-out labels:[/] {escape(line)}")
    if report.influenced:
        err.print("[yellow]note:[/] the router's own choices brought held-out labels about: they may flatter it")


def _of_pair(pair: OfPair) -> Sequence[str]:
    regret = pair.regret
    sure = f"with confidence {1 - regret.delta:g} at most {regret.at_most:.1%} regret"
    lines: list[str] = []
    if pair.apgr:
        lines.append(f"{pair.local} against {pair.other}: APGR {between(pair.apgr)} on {pair.count} held-out prompts")
    if not regret.local_share:
        return [*lines, f"{sure}: not shown for any share of the prompts; more labels, or a larger --regret, may do it"]
    gain = f"{pair.other} less {pair.local} at most {regret.threshold:.3f}"
    return [
        *lines,
        f"{sure} where {gain}: {regret.local_share:.1%} stay with {pair.local}, {regret.observed:.1%} regretted",
    ]
