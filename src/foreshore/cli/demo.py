"""`foreshore demo`: the main job on what ships with Foreshore. No network beyond loopback, no key."""

from __future__ import annotations

import secrets
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Annotated, Any

import httpx
import typer
from filelock import FileLock, Timeout
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from foreshore.cli.console import err, exit_on_error, out, print_json
from foreshore.cli.demo_requests import Row, asks, send, tokens_per_s
from foreshore.cli.gateway_process import GatewayProcess
from foreshore.disk import disk_errors
from foreshore.errors import SetupError
from foreshore.home import home
from foreshore.reliability.ledger import read_events

__all__ = ["app"]

app = typer.Typer()
VARIANTS = {"starter-s": ["q4_k_m", "q8_0"], "starter-l": ["q8_0"]}
TARGETS = ("edge", "cloud")
KEY = "FORESHORE_DEMO_KEY"
FORBIDDEN = httpx.codes.FORBIDDEN


@app.command()
def demo(as_json: Annotated[bool, typer.Option("--json", help="Print what happened as JSON.")] = False) -> None:
    """Build variants of the shipped models, serve them, and route requests between this machine and a stand-in cloud.

    The gateway and the cloud are two processes that talk HTTP; both end with the command. Configs and ledgers go to
    $FORESHORE_HOME/demo, variants into the model store, where a second run finds them.
    """
    for ending in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C does: the two processes must not stay behind
        signal.signal(ending, signal.default_int_handler)
    with exit_on_error():
        folder = home() / "demo"
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            _build()
            began = time.time()
            with _gateway(folder) as url:
                rows = _send_all(url)
            summary = _summary(rows, _private_sent(folder, began))
        if as_json:
            print_json(summary)
        else:
            _show(rows, summary, folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two demos on one folder would overwrite each other's configs and count each other's requests."""
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout as error:
        hint = "wait for it to end, or set FORESHORE_HOME to another folder"
        raise SetupError(f"another demo is running in {str(folder)!r}", hint=hint) from error


def _build() -> None:
    from foreshore.cli.reporter import reporting
    from foreshore.quantize import build

    with reporting() as report:
        for source, types in VARIANTS.items():
            build(source, types, progress=report)


@contextmanager
def _gateway(folder: Path) -> Iterator[str]:
    """The address of the gateway, with the cloud's process behind it; both are ready."""
    key = {KEY: secrets.token_urlsafe(16)}
    with ExitStack() as stack:
        with err.status("starting the process that plays the cloud"):
            config = _write(folder, "demo_cloud.yaml")
            cloud = stack.enter_context(GatewayProcess("cloud", config, folder / "cloud.log", key))
        with err.status("starting the gateway"):
            config = _write(folder, "demo.yaml", CLOUD_URL=f"{cloud.url}/v1")
            gateway = stack.enter_context(GatewayProcess("gateway", config, folder / "gateway.log", key))
        err.print(f"gateway at {gateway.url} with the rules in {config}; cloud at {cloud.url}")
        yield gateway.url


def _write(folder: Path, name: str, **values: str) -> Path:
    """The shipped config `name` in `folder`, its `$WORDS` filled in."""
    text = files("foreshore.cli").joinpath(name).read_text()
    path = folder / name
    path.write_text(Template(text).substitute(LEDGER=str(_ledger(folder, name)), **values))
    return path


def _ledger(folder: Path, config: str) -> Path:
    return (folder / config).with_suffix(".sqlite")


def _send_all(url: str) -> list[Row]:
    wanted = list(asks())
    with httpx.Client(base_url=url, trust_env=False) as client:
        return [send(client, ask) for ask in track(wanted, "sending requests", console=err, transient=True)]


def _private_sent(folder: Path, began: float) -> int:
    """How many requests the cloud got beyond those that the gateway sent it of its public ones, by both ledgers."""
    got = sum(1 for event in read_events(_ledger(folder, "demo_cloud.yaml")) if event["at"] >= began)
    sent = [event for event in read_events(_ledger(folder, "demo.yaml")) if event["at"] >= began]
    public = [attempt for event in sent if not event["facts"]["private"] for attempt in event["attempts"]]
    return got - sum(1 for attempt in public if attempt["target"] == "cloud")


def _summary(rows: Sequence[Row], private_sent: int) -> dict[str, Any]:
    answered = [row for row in rows if row.status == httpx.codes.OK and not row.error]
    return {
        "requests": [{**asdict(row), "tokens_per_s": _rounded(row.tokens_per_s)} for row in rows],
        "targets": {target: _figures([row for row in answered if row.target == target]) for target in TARGETS},
        "refused": sum(row.status == FORBIDDEN for row in rows),
        "private_sent_to_cloud": private_sent,
    }


def _figures(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "count": len(rows),
        "correct": sum(row.correct for row in rows),
        "ttft_ms_p50": _rounded(statistics.median(row.ttft_ms for row in rows) if rows else None),
        "tokens_per_s": _rounded(tokens_per_s(rows)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _show(rows: Sequence[Row], summary: dict[str, Any], folder: Path) -> None:
    table = Table(box=None)
    for title in ("request", "private", "target", "rule", "TTFT ms", "tok/s", "tokens", "answer", "correct"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    out.print(table)
    out.print()
    totals = Table("target", "requests", "correct", "TTFT ms p50", "tok/s", box=None)
    for target, figures in summary["targets"].items():
        totals.add_row(target, *(str(figures[k]) for k in ("count", "correct", "ttft_ms_p50", "tokens_per_s")))
    out.print(totals)
    out.print(
        f"\nrefused, because private and meant for the cloud: {summary['refused']}; "
        f"private requests that reached the cloud: {summary['private_sent_to_cloud']}"
    )
    err.print(f"rules, logs and ledgers: {folder}. Chat yourself: foreshore run starter-s:q4_k_m")


def _cells(row: Row) -> list[str]:
    name, private = row.task, "yes" if row.private else ""
    if row.error:
        verdict = "[yellow]refused[/]" if row.status == FORBIDDEN else "[red]failed[/]"
        return [name, private, row.target or "-", row.rule or "-", "", "", "", escape(_short(row.error)), verdict]
    rate = row.tokens_per_s
    measured = [f"{row.ttft_ms:.0f}", "-" if rate is None else f"{rate:.0f}", str(row.tokens)]
    mark = "[green]yes[/]" if row.correct else "[red]no[/]"
    return [name, private, row.target, row.rule, *measured, escape(_short(row.answer)), mark]


def _short(text: str, width: int = 30) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "\u2026"
