"""What `foreshore bench serve` does: a server under load, as its clients see it over HTTP."""

from __future__ import annotations

import json
import signal
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from foreshore.cli.arrivals import closed_loop, open_loop
from foreshore.cli.console import err
from foreshore.cli.figures import Figures
from foreshore.cli.gateway_process import GatewayProcess
from foreshore.cli.shot import Endpoint, Shooter, Shot
from foreshore.errors import BackendError, Unavailable, UpstreamError, UsageError

__all__ = ["Load", "gateway_over", "measure_server", "table"]

FIRST_WORDS = 32  # of the first prompt, which shows how many tokens the server makes of a word
CALIBRATIONS = 4  # prompts tried until one has the wanted length
NEAR = 0.02  # a prompt longer or shorter by this share is taken
WARM_UP = 4  # unmeasured requests before an open loop
OPEN_REQUESTS = 32
CONNECT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of a server: `streams` requests at a time, one level after the other, or `rate` per second."""

    model: str
    streams: tuple[int, ...] = (1, 4, 8)
    rate: float | None = None
    requests: int | None = None  # of one repetition; None: two for each stream, or 32 at a rate
    repeats: int = 3
    prompt_tokens: int = 64
    tokens: int = 64
    endpoint: Endpoint = "completions"
    timeout: float = 300.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rate is None and self.requests is not None and self.requests < max(self.streams):
            raise UsageError(
                f"{self.requests} requests cannot keep {max(self.streams)} streams busy", hint="raise --requests"
            )

    @property
    def levels(self) -> tuple[int | None, ...]:
        """Streams of each level; at a rate there is one, and streams are as many as come of it."""
        return self.streams if self.rate is None else (None,)

    def count(self, streams: int | None) -> int:
        """Requests of one repetition."""
        return self.requests or (OPEN_REQUESTS if streams is None else 2 * streams)

    async def fire(self, shoot: Callable[[float | None], Awaitable[Shot]], requests: int, n: int | None) -> list[Shot]:
        """`requests` of a level with `n` streams."""
        if self.rate is not None:
            return await open_loop(shoot, requests, self.rate, self.seed)
        return await closed_loop(shoot, requests, n or 1)


@contextmanager
def gateway_over(model: str, timeout: float) -> Iterator[str]:
    """The address of a gateway of its own over `model`, as `foreshore serve` makes it. Ends with the context.

    Raises `NotFound` or `ModelError` before anything is started.
    """
    from foreshore.edge.gguf import inspect
    from foreshore.store import resolve

    path = resolve(model).path
    inspect(path)
    with tempfile.TemporaryDirectory(prefix="foreshore-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        config = {
            "targets": {"bench": {"kind": "local", "model": str(path)}},
            "limits": {"timeout": timeout},
            "ledger": {"path": str(folder / "ledger.sqlite")},
        }
        (folder / "foreshore.yaml").write_text(json.dumps(config))  # JSON is YAML
        stack.enter_context(_ended_by_signals())
        with err.status("starting the gateway"):
            process = GatewayProcess("gateway", folder / "foreshore.yaml", folder / "gateway.log", {})
            stack.enter_context(process)
        yield process.url


async def measure_server(url: str, load: Load, *, key: str | None = None, own: bool = False) -> dict[str, Any]:
    """Put each level of `load` on the server at `url`, after a warm-up. Progress on stderr.

    Raises `UsageError` for what the server refuses of the request itself, and `BackendError` where no answer comes.
    """
    async with httpx.AsyncClient(
        base_url=base_url(url),
        headers={"accept-encoding": "identity", **({"authorization": f"Bearer {key}"} if key else {})},
        timeout=httpx.Timeout(None, connect=CONNECT_S),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        trust_env=not own,
    ) as client:
        shooter = Shooter(
            client=client,
            model=load.model,
            endpoint=load.endpoint,
            tokens=load.tokens,
            words=min(load.prompt_tokens, FIRST_WORDS),
            timeout=load.timeout,
            seed=load.seed,
        )
        await _calibrate(shooter, load.prompt_tokens)
        total = load.repeats * sum(map(load.count, load.levels))
        with Progress(console=err, transient=True) as progress:
            tick = partial(progress.advance, progress.add_task("measuring", total=total))
            return {
                "prompt_tokens": load.prompt_tokens,
                "tokens": load.tokens,
                "endpoint": load.endpoint,
                "ignore_eos": shooter.ignore_eos,
                "repeats": load.repeats,
                "seed": load.seed,
                "levels": [await _level(shooter, load, streams, tick) for streams in load.levels],
            }


def base_url(url: str) -> str:
    """`url` with its `/v1`. Raises `UsageError` for what is no address of a server."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"--url is {url!r}", hint="it takes an address such as http://127.0.0.1:8080")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError("--url must hold no user, password, query or fragment", hint="name the key with --key-env")
    return url.rstrip("/").removesuffix("/v1") + "/v1"


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end us as Ctrl-C does: the gateway must not stay behind."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _calibrate(shooter: Shooter, wanted: int) -> None:
    """Find how many words make `wanted` tokens, and whether the server takes such requests at all."""
    for _ in range(CALIBRATIONS):
        shot = await _first(shooter)
        if not shot.prompt_tokens:
            err.print("[yellow]note:[/] the server counts no tokens: words and pieces of text are counted instead")
            shooter.words = wanted
            break
        words = max(1, shooter.words + round((wanted - shot.prompt_tokens) * shooter.words / shot.prompt_tokens))
        if abs(shot.prompt_tokens - wanted) <= max(1, NEAR * wanted) or words == shooter.words:
            break
        shooter.words = words
    if shot.tokens < shooter.tokens:
        _explain_short(shot, shooter.tokens)


async def _first(shooter: Shooter) -> Shot:
    shot = await shooter.shoot()
    if shot.error.startswith("400") and "ignore_eos" in shot.detail and shooter.ignore_eos:
        shooter.ignore_eos = False
        shot = await shooter.shoot()
    if shot.error == "unreachable":
        what = f"nothing answers at {str(shooter.client.base_url)!r}: {shot.detail}"
        raise Unavailable(what, hint="start the server, or mend --url")
    if shot.error.startswith("4") and not shot.error.startswith("429"):
        hint = "try --endpoint chat" if shot.error.startswith("404") else None
        raise UsageError(f"the server refused the first request: {shot.error}: {shot.detail}", hint=hint)
    if shot.error:
        raise UpstreamError(f"the first request failed: {shot.error}: {shot.detail}")
    return shot


def _explain_short(shot: Shot, wanted: int) -> None:
    if shot.finish_reason == "length":
        raise UsageError(
            f"the answer ended after {shot.tokens} of {wanted} tokens: a prompt of {shot.prompt_tokens} leaves no room",
            hint="lower --tokens or --prompt-tokens",
        )
    err.print("[yellow]note:[/] answers end where the model ends them: the server does not take ignore_eos")


async def _level(shooter: Shooter, load: Load, streams: int | None, tick: Callable[[], None]) -> dict[str, Any]:
    async def shoot(due: float | None) -> Shot:
        shot = await shooter.shoot(due)
        tick()
        return shot

    await load.fire(shooter.shoot, min(streams or WARM_UP, load.count(streams)), streams)
    rounds = [await load.fire(shoot, load.count(streams), streams) for _ in range(load.repeats)]
    good = [shot for shots in rounds for shot in shots if not shot.error]
    if not good:
        failed = rounds[0][0]
        raise BackendError(f"no request got an answer; the first: {failed.error}: {failed.detail}")
    return {
        "streams": streams,
        "rate": load.rate,
        "prompt_tokens": statistics.median(shot.prompt_tokens for shot in good),
        "answer_tokens": statistics.median(shot.tokens for shot in good),
        **asdict(Figures.of(rounds)),
    }


def table(result: dict[str, Any]) -> Table:
    """One row for each level; the spread of tokens/s in brackets, medians over the repetitions elsewhere."""
    found = Table(box=None)
    for title in ("streams", "tokens/s", "TTFT ms p50", "p95", "p99", "gap ms p50", "p99", "max", "queue ms p50"):
        found.add_column(title, justify="right", no_wrap=True)
    found.add_column("answered")
    found.add_column("errors")
    for level in result["levels"]:
        speed = level["tokens_per_s"]
        load = str(level["streams"]) if level["rate"] is None else f"{level['rate']:g}/s"
        times = [*level["ttft_ms"].values(), *level["gap_ms"].values(), level["queue_ms"]["p50"]]
        errors = ", ".join(f"{count}x {escape(error)}" for error, count in level["errors"].items())
        found.add_row(
            load,
            f"{speed['median']:.1f} ({speed['low']:.1f} to {speed['high']:.1f})",
            *map(_cell, times),
            f"{level['answered']} of {level['requests']}",
            errors or "none",
        )
    return found


def _cell(value: dict[str, Any] | None) -> str:
    return "-" if value is None else f"{value['median']:.1f}"
