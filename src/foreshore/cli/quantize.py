"""`foreshore quantize`: build variants of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.manifest import Manifest
from foreshore.quantize.progress import Progress as Step

__all__ = ["Reporter", "app", "byte_bars", "manifest_table", "reporting"]

app = typer.Typer()


@app.command()
def quantize(
    source: Annotated[
        str,
        typer.Argument(
            help="A Hugging Face folder, a .gguf file, hf:ORG/NAME (or with /FILE.gguf, @REVISION), or a bundled model."
        ),
    ],
    types: Annotated[str, typer.Option("--types", "-t", help="Quantization types, separated by commas.")] = "q4_k_m",
    name: Annotated[str | None, typer.Option("-o", "--name", help="Name in the store; default: the source's.")] = None,
    imatrix: Annotated[Path | None, typer.Option(help="Importance matrix, a GGUF as llama-imatrix writes.")] = None,
    requantize: Annotated[bool, typer.Option("--requantize", help="Allow a source that is quantized already.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build again what is up to date.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Build on-device variants of a model and keep them in the model store."""
    with exit_on_error():
        from foreshore.quantize import build

        with reporting() as report:
            made = build(
                source, types.split(","), name, progress=report, force=force, imatrix=imatrix, requantize=requantize
            )
        show(made, report, as_json)


def show(made: list[Manifest], report: Reporter, as_json: bool) -> None:
    if as_json:
        print_json([{**m.to_json(), "reused": m.ref in report.reused} for m in made])
        return
    out.print(manifest_table(made))
    for note in dict.fromkeys(f"{m.ref}: {note}" for m in made for note in m.notes[:3]):
        err.print(f"[yellow]note:[/] {escape(note)}")


class Reporter:
    """Shows each stage as a bar on stderr, if that is a terminal, and says what was reused."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.tasks: dict[tuple[str, str], TaskID] = {}
        self.reused: set[str] = set()

    def __call__(self, step: Step) -> None:
        if step.total:
            self.bar(step)
        elif step.stage == "reuse":
            self.reused.add(step.what)
            self.bars.console.print(f"[green]up to date[/] {escape(step.what)}")
        elif step.stage == "wait":
            self.bars.console.print(f"waiting: another process builds {escape(step.what)}")
        elif step.stage == "ready":
            self.bars.console.print(f"[green]built[/] {escape(step.what)}")

    def bar(self, step: Step) -> None:
        key = (step.stage, step.what)
        if key not in self.tasks:
            self.tasks[key] = self.bars.add_task(f"{step.stage} {escape(step.what)}", total=step.total)
        self.bars.update(self.tasks[key], completed=step.done, total=step.total)


def byte_bars() -> Progress:
    """Bars that count bytes, on stderr if that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


@contextmanager
def reporting() -> Iterator[Reporter]:
    with byte_bars() as bars:
        yield Reporter(bars)


def manifest_table(manifests: list[Manifest]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", overflow="fold")
    for title in ("size", "bits", "weights"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("model", "context", "built"):
        table.add_column(title, no_wrap=True)
    for m in manifests:
        table.add_row(
            escape(m.ref),
            human(m.bytes),
            f"{m.bits_per_weight:.2f}",
            count(m.parameters),
            escape(m.architecture),
            str(m.context_length),
            escape(m.created[:10]),
        )
    return table


def human(size: float) -> str:
    """Bytes in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def count(number: int) -> str:
    """Weights in powers of 1000, as models are named."""
    value = float(number)
    for unit in ("", "K", "M"):
        if value < 1000:
            return f"{value:.0f}{unit}" if unit == "" else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.2f}B"
