"""`foreshore bench decode|prefill MODEL`: how fast this machine is with a variant."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import psutil
import typer
from rich.progress import Progress
from rich.table import Table

from foreshore import native
from foreshore.cli.console import err, exit_on_error, out, print_json

__all__ = ["Measurement", "app", "machine", "measure"]

app = typer.Typer(no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="A variant in the store, such as starter-s:q4_k_m, or a .gguf file.")]
Repeats = Annotated[int, typer.Option(min=1, help="Measured runs, after one to warm up.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: physical cores.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Tokens per second over several runs."""

    median: float
    low: float
    high: float
    runs: tuple[float, ...]


@app.callback()
def _bench() -> None:
    """Measure prefill and decode speed on this machine."""


@app.command()
def decode(
    model: Model,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens each stream generates.")] = 64,
    streams: Annotated[int, typer.Option(min=1, max=256, help="Streams that run side by side.")] = 1,
    repeats: Repeats = 5,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Tokens generated per second, all streams together, from the first token of a run to its last."""
    with exit_on_error():
        _report("decode", model, repeats, threads, as_json, tokens=tokens, streams=streams)


@app.command()
def prefill(
    model: Model,
    tokens: Annotated[int, typer.Option(min=2, help="Length of the prompt.")] = 256,
    repeats: Repeats = 5,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Prompt tokens read per second."""
    with exit_on_error():
        _report("prefill", model, repeats, threads, as_json, tokens=tokens, streams=1)


def machine() -> dict[str, Any]:
    """What a number of this machine depends on."""
    return {
        "cpu": native.cpu_name(),
        "physical_cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": round(psutil.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def measure(once: Callable[[], float], repeats: int, label: str = "") -> Measurement:
    """Call `once` to warm up and then `repeats` times; a progress bar on stderr."""
    runs = []
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task(label, total=repeats + 1)
        for i in range(repeats + 1):
            value = once()
            runs += [value] if i else []
            progress.advance(task)
    return Measurement(median=statistics.median(runs), low=min(runs), high=max(runs), runs=tuple(runs))


def _report(
    kind: str, model: str, repeats: int, threads: int | None, as_json: bool, *, tokens: int, streams: int
) -> None:
    from foreshore.edge import EngineOptions
    from foreshore.edge.speed import SpeedTest

    options = EngineOptions(slots=streams, threads=threads, batch_tokens=max(512, streams))
    with SpeedTest(model, options) as test:
        once = (lambda: test.decode(tokens, streams)) if kind == "decode" else (lambda: test.prefill(tokens))
        result = measure(once, repeats, kind)
        facts = {"variant": model, "tokens": tokens, "streams": streams, "threads": options.thread_count}
    if as_json:
        print_json({"kind": kind, **facts, "tokens_per_s": asdict(result), "machine": machine()})
        return
    table = Table("", "tokens/s", "low", "high", "streams", "tokens", "threads")
    table.add_row(
        kind, f"{result.median:.1f}", f"{result.low:.1f}", f"{result.high:.1f}", str(streams), str(tokens),
        str(options.thread_count),
    )  # fmt: skip
    out.print(table)
    out.print(" · ".join(f"{k} {v}" for k, v in machine().items()), style="dim")
