"""`foreshore bench decode|prefill|serve MODEL`: how fast this machine, or a server, is with a variant."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

import psutil
import typer
from rich.progress import Progress
from rich.table import Table

from foreshore import native
from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.figures import Measurement
from foreshore.errors import UsageError

__all__ = ["Measurement", "app", "machine", "measure"]

app = typer.Typer(no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="A variant in the store, such as starter-s:q4_k_m, or a .gguf file.")]
Repeats = Annotated[int, typer.Option(min=1, help="Measured runs, after one to warm up.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: physical cores.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
MAX_STREAMS = 1024


@app.callback()
def _bench() -> None:
    """Measure prefill and decode speed on this machine, and servers under load."""


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


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="A variant or a .gguf file; with --url the server's name for a model.")],
    streams: Annotated[str, typer.Option(help="Requests at a time, one level after the other.")] = "1,4,8",
    rate: Annotated[
        float | None, typer.Option(min=0.001, max=10_000, help="Poisson arrivals per second in place of --streams.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Of one run; default: 2 for each stream, 32 at a rate.")
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Length of each prompt; no two begin alike.")
    ] = 64,
    tokens: Annotated[int, typer.Option(min=2, max=1_000_000, help="Tokens of each answer.")] = 64,
    repeats: Repeats = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the prompts and the arrivals.")] = 0,
    url: Annotated[str | None, typer.Option(help="Measure the OpenAI-compatible server there.")] = None,
    key_env: Annotated[str | None, typer.Option(help="The environment variable that holds its API key.")] = None,
    endpoint: Annotated[Literal["completions", "chat"], typer.Option(help="What is asked for.")] = "completions",
    timeout: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds that one answer may take.")] = 300.0,
    as_json: Json = False,
) -> None:
    """Tokens per second, TTFT, gaps, queue wait and errors of a server under load, as its clients see them.

    Starts a gateway of its own over MODEL, on loopback, unless --url names a server. With --rate requests come when
    they are due, whether the server keeps up or not, and each is measured from that moment.
    """
    with exit_on_error():
        from foreshore.cli.bench_serve import Load, gateway_over, measure_server, table

        load = Load(
            model="auto" if url is None else model,
            streams=_levels(streams),
            rate=rate,
            requests=requests,
            repeats=repeats,
            prompt_tokens=prompt_tokens,
            tokens=tokens,
            endpoint=endpoint,
            timeout=timeout,
            seed=seed,
        )
        if url is None:
            with gateway_over(model, timeout) as own:
                found = asyncio.run(measure_server(own, load, own=True))
        else:
            found = asyncio.run(measure_server(url, load, key=_key(key_env)))
        result = {"kind": "serve", "model": model, "url": url, **found, "machine": machine()}
        if as_json:
            print_json(result)
            return
        out.print(table(result))
        _print_machine()


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
    return Measurement.of(runs)


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
    _print_machine()


def _print_machine() -> None:
    out.print(" · ".join(f"{k} {v}" for k, v in machine().items()), style="dim")


def _levels(text: str) -> tuple[int, ...]:
    """`1,4,8` as numbers."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(1 <= n <= MAX_STREAMS for n in found) or len(set(found)) < len(found):
        raise UsageError(
            f"--streams is {text!r}", hint=f"it takes different numbers from 1 to {MAX_STREAMS}, such as 1,4,8"
        )
    return found


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(f"the environment variable {variable!r} is not set", hint="put the server's API key there")
    return key
