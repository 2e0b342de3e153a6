"""The servers that are measured, each a process of its own: ours and its peers. All get the same model and threads.

    LLAMA_SERVER   path of llama-server; llama-bench is looked for beside it
    PEERS_PYTHON   an interpreter that can run `llama_cpp.server`, and xllamacpp if it is installed (default: this one)

docs/benchmarks.md says how to build and install them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from foreshore.cli.gateway_process import GatewayProcess, terminate
from foreshore.config import TargetConfig
from foreshore.errors import SetupError

__all__ = [
    "DOCS",
    "THREADS",
    "Server",
    "foreshore",
    "has_xllamacpp",
    "llama_bench",
    "llama_cpp_server",
    "llama_server",
    "xllamacpp",
]

THREADS = 2
START_S = 180.0
DOCS = "docs/benchmarks.md says how to install the peers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that is ready. `pids`: its processes."""

    name: str
    url: str
    pids: tuple[int, ...]
    command: str  # how it was started, for the report


@contextmanager
def foreshore(model: Path, *, slots: int, context: int, **options: Any) -> Iterator[Server]:
    """`foreshore serve` with one local target, as a user runs it: gateway, ledger and worker. `options` are further
    ones of its engine."""
    engine = {"slots": slots, "threads": THREADS, "context_tokens": context, **options}
    with tempfile.TemporaryDirectory(prefix="foreshore-bench-") as folder:
        config = Path(folder) / "foreshore.yaml"
        target: dict[str, Any] = {"kind": "local", "model": str(model)}
        target |= {"engine": engine} if "engine" in TargetConfig.model_fields else {}
        config.write_text(json.dumps({"targets": {"edge": target}}))  # JSON is YAML
        places = {"FORESHORE_HOME": str(Path(folder) / "home")}
        with GatewayProcess("foreshore", config, Path(folder) / "log", places) as gateway:
            yield Server(
                name="foreshore",
                url=gateway.url,
                pids=_family(str(config)),
                command=f"foreshore serve, engine {engine}",
            )


@contextmanager
def llama_server(model: Path, *, slots: int, context: int) -> Iterator[Server]:
    """With its defaults, and as many slots and as much context as asked for."""
    sizes = ["--threads", str(THREADS), "-np", str(slots), "-c", str(slots * context)]
    command = [str(_llama_server()), "-m", str(model), *sizes, "--host", "127.0.0.1"]
    with _process("llama-server", command, ready="/health") as server:
        yield server


@contextmanager
def llama_cpp_server(model: Path, *, context: int, interrupt: bool) -> Iterator[Server]:
    """The server that ships with llama-cpp-python. `interrupt` (its default) drops a stream when another comes."""
    sizes = {"n_ctx": context, "n_threads": THREADS, "n_threads_batch": THREADS, "interrupt_requests": interrupt}
    # It keeps the logits of all tokens unless told not to: 0.6 MB for each of a prompt at this vocabulary.
    options = {"model": model, **sizes, "logits_all": False, "verbose": False, "host": "127.0.0.1"}
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with _process(
        "llama_cpp.server", [_peers_python(), "-m", "llama_cpp.server", *flags], ready="/v1/models"
    ) as server:
        yield server


@contextmanager
def xllamacpp(model: Path, *, slots: int, context: int) -> Iterator[Server]:
    """Its HTTP server, in an interpreter that has it."""
    command = [_peers_python(), "-c", _XLLAMACPP, str(model), str(THREADS), str(slots), str(slots * context)]
    with _process("xllamacpp", command, ready="/health") as server:
        yield server


_XLLAMACPP = """
import signal, sys, xllamacpp
model, threads, slots, context, _, port = sys.argv[1:7]
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = model, int(context), int(slots)
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
params.hostnames, params.port = ["127.0.0.1"], int(port)
server = xllamacpp.Server(params)
signal.pause()
"""


def has_xllamacpp() -> bool:
    done = subprocess.run([_peers_python(), "-c", "import xllamacpp"], capture_output=True, timeout=60)
    return done.returncode == 0


def _peers_python() -> str:
    return os.environ.get("PEERS_PYTHON") or sys.executable


def llama_bench(model: Path, *, tokens: int) -> float:
    """Tokens per second of one run that generates `tokens`, single stream, after its own warm-up."""
    tool = _llama_server().with_name("llama-bench")
    if not tool.is_file():
        raise SetupError(f"there is no llama-bench beside {str(_llama_server())!r}", hint=DOCS)
    command = [str(tool), "-m", str(model), "-p", "0", "-n", str(tokens), "-t", str(THREADS), "-r", "1"]
    done = subprocess.run([*command, "-o", "json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupError(f"llama-bench ended with {done.returncode}: {done.stderr[-400:]!r}", hint=DOCS)
    (result,) = json.loads(done.stdout)
    return float(result["avg_ts"])


def _llama_server() -> Path:
    named = os.environ.get("LLAMA_SERVER", "")
    if not named:
        raise SetupError("LLAMA_SERVER names no llama-server", hint=DOCS)
    path = Path(named).expanduser().absolute()
    if not path.is_file():
        raise SetupError(f"LLAMA_SERVER is {named!r}, which is no file", hint=DOCS)
    return path


@contextmanager
def _process(name: str, command: list[str], *, ready: str) -> Iterator[Server]:
    port = _free_port()
    command = [*command, "--port", str(port)]
    with tempfile.NamedTemporaryFile(prefix="foreshore-bench-") as log:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        except OSError as error:
            raise SetupError(f"{name} could not be started: {error.strerror}", hint=DOCS) from error
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(name, process, url + ready, Path(log.name))
            yield Server(name=name, url=url, pids=(process.pid,), command=" ".join(_shown(command)))
        finally:
            terminate(process)


def _wait(name: str, process: subprocess.Popen[Any], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip()[-500:]
            raise SetupError(f"{name} did not become ready (exit status {process.poll()}): {said}", hint=DOCS)
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _shown(command: list[str]) -> list[str]:
    """Without the folders of this machine; a script becomes its language."""
    return [Path(word).name if "/" in word and "\n" not in word else word for word in command if "\n" not in word]


def _family(mark: str) -> tuple[int, ...]:
    """Our child whose command line holds `mark`, and its children: the gateway and its worker."""
    for child in psutil.Process().children():
        if mark in child.cmdline():
            return (child.pid, *(p.pid for p in child.children(recursive=True)))
    raise SetupError("the gateway's process cannot be found")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
