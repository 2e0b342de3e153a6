"""`foreshore serve`: the gateway on an address, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from foreshore.cli.console import err, exit_on_error
from foreshore.errors import SetupError

if TYPE_CHECKING:
    from foreshore.config import Config
    from foreshore.router.router import Router

__all__ = ["app", "bind"]

app = typer.Typer()

DRAIN_S = 30  # running streams have this long to end after SIGTERM


@app.command()
def serve(
    config: Annotated[
        Path | None, typer.Option("-c", "--config", help="Default: $FORESHORE_CONFIG, then ./foreshore.yaml.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Overrides listen.host.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Overrides listen.port; 0: a free one.")] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="One line for each request on stderr.")] = False,
) -> None:
    """Start the OpenAI-compatible gateway. Ctrl-C and SIGTERM let running answers end; SIGHUP reloads the config."""
    with exit_on_error():
        from foreshore.config import find_config, load_config

        path = find_config(config)
        loaded = _on(load_config(path), host, port)
        logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
        _build_starters(loaded)
        asyncio.run(_serve(loaded, path))


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `SetupError` naming the address if it is taken or not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # asyncio turns Nagle's algorithm off only where the protocol is named; with it each answer waits 40 ms.
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SetupError(f"cannot listen on {host!r}: {error.strerror}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        hint = "choose another with --port; 0 takes a free one" if error.errno == errno.EADDRINUSE else None
        raise SetupError(f"cannot listen on {host}:{port}: {error.strerror}", hint=hint) from error
    return listener


def _on(config: Config, host: str | None, port: int | None) -> Config:
    from foreshore.config import Listen

    here = config.listen
    listen = Listen(host=host or here.host, port=here.port if port is None else port)
    return config.model_copy(update={"listen": listen})


def _build_starters(config: Config) -> None:
    """A starter model ships as its source: its variants are built when they are first asked for."""
    from foreshore.store import Store

    for spec in config.targets.values():
        name, _, variant = spec.model.partition(":")
        if spec.local and variant and Store().find(name, variant) is None:
            from foreshore.cli.reporter import reporting
            from foreshore.quantize import build
            from foreshore.quantize.source import bundled

            if name in bundled():
                with reporting() as report:
                    build(name, [variant], progress=report)


async def _serve(config: Config, path: Path | None) -> None:
    from foreshore.router.router import Router

    with contextlib.closing(bind(config.listen.host, config.listen.port)) as listener:
        router = Router(config)
        try:
            with err.status("loading the local targets"):
                await router.start()
            _announce(router, listener, path)
            async with _following(router, path):
                await _until_told(router, listener)
        finally:
            await router.close()


async def _until_told(router: Router, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then let running answers end; a second signal does not wait for them."""
    import uvicorn

    from foreshore.router.gateway import create_app

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(router.loaded.config, router=router),
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    # uvicorn would raise the signal again once it has stopped, which would end us before the workers are closed.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    await server.serve(sockets=[listener])
    for task in server.server_state.tasks:  # a second signal leaves them running, and closing would wait for them
        task.cancel()


@asynccontextmanager
async def _following(router: Router, path: Path | None) -> AsyncIterator[None]:
    """Take up changes of the config file, and SIGHUP, meanwhile."""
    from foreshore.router.reload import Watcher

    if path is None:
        yield
        return
    watcher = Watcher(router, path, prepare=_build_starters)
    tasks = {asyncio.create_task(watcher.run())}
    now = partial(watcher.check, force=True)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: tasks.add(asyncio.create_task(now())))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _announce(router: Router, listener: socket.socket, path: Path | None) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    err.print(f"[bold]foreshore[/] on http://{shown}:{port}/v1, config {escape(str(path or 'built in'))}")
    for name, target in router.loaded.targets.items():
        spec = target.spec
        where = f"{spec.kind} {escape(spec.model)} {escape(spec.url)}".strip()
        err.print(f"  {escape(name)}: {where} [dim]{target.state}{_memory_of(target.backend)}[/]")


def _memory_of(backend: object) -> str:
    """What a local model may take; nothing for others, and for one that has made room for another."""
    memory = getattr(backend, "memory", None)
    return "" if memory is None else f", takes {memory}"
