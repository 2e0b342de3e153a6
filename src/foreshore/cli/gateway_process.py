"""A `foreshore serve` of its own process, started on a free port and waited for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from foreshore.errors import SetupError

__all__ = ["GatewayProcess", "terminate"]

START_S = 120.0  # a first start maps the model and warms the engine up, on a busy machine too
STOP_S = 10.0


class GatewayProcess:
    """Use as a context: started and ready inside, ended on leaving. `url` is its `http://127.0.0.1:PORT`."""

    def __init__(self, name: str, config: Path, log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = log
        self.url = ""
        self._command = [sys.executable, "-P", "-m", "foreshore.cli", "serve", "--config", str(config), "--port", "0"]
        self._environment = {**os.environ, **environment, "NO_COLOR": "1"}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._wait("print its address", self._find_address)
            self._wait("be ready", self._is_ready)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _find_address(self) -> bool:
        found = re.search(r"http://127\.0\.0\.1:\d+", self.log.read_text(errors="replace"))
        self.url = found[0] if found else ""
        return bool(found)

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5.0, trust_env=False).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _wait(self, what: str, done: Callable[[], bool]) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while not done():
            if self._process.poll() is not None or time.monotonic() > deadline:
                last = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
                raise SetupError(
                    f"the {self.name} process did not {what}; its last words:\n{last}",
                    hint="run `foreshore doctor`: it checks the engine and names the remedy",
                )
            time.sleep(0.05)

    def _stop(self) -> None:
        if self._process is not None:
            terminate(self._process)


def terminate(process: subprocess.Popen[Any]) -> None:
    """Ask it to end, and see that it does; harmless where it has ended."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
