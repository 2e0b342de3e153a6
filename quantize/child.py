"""A child process that works for us, as its parent holds it; `channel` is the child's side.

What native code that aborts and libraries that leak do there costs nobody else. The child has a session of its own, so
that Ctrl-C reaches it only through us; it is killed when the `with` block ends, and ends by itself with its parent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from foreshore.edge.child import ENGINE_ENVIRONMENT
from foreshore.errors import ForeshoreError, ModelError, NotFound, SetupError, UsageError
from foreshore.quantize.progress import OnCount

__all__ = ["Child", "run"]

TAIL = 2000  # bytes of what it said last that an error repeats
_ERRORS: dict[str, type[ForeshoreError]] = {
    kind.__name__: kind for kind in (ModelError, NotFound, SetupError, UsageError)
}


class Child:
    """`python -P -m MODULE`. `doing` ends the sentence "the process that ..." in errors: "made 'q4_k_m'"."""

    def __init__(self, module: str, *, doing: str, environment: Mapping[str, str] | None = None) -> None:
        self._doing = doing
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                encoding="utf-8",
                start_new_session=True,
                env={**ENGINE_ENVIRONMENT, **os.environ, **(environment or {})},
            )
        except OSError as error:
            self._said.close()
            raise SetupError(f"no process could be started: {error}") from error
        assert self._process.stdin
        assert self._process.stdout
        self._requests, self._events = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, request: Mapping[str, Any], progress: OnCount = lambda done, total: None) -> dict[str, Any]:
        """Its answer to `request`; both are what JSON has.

        Raises the `ModelError`, `UsageError`, `NotFound`, `SetupError` or `OSError` that ended the work there, and
        `SetupError` with what it said last where the process died.
        """
        with suppress(OSError):  # it died: the missing answer says so
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        while (line := self._events.readline()).endswith("\n"):
            event = json.loads(line)
            if "result" in event:
                return dict(event["result"])
            if "error" in event:
                raise _ERRORS.get(event["error"], UsageError)(event["message"], hint=event["hint"])
            if "errno" in event:
                raise OSError(event["errno"], event["reason"])
            progress(event["done"], event["total"])
        raise self._crashed()

    def close(self) -> None:
        """End it, whatever it does. Twice is harmless."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._events):
            with suppress(OSError):  # what was not yet written is lost
                pipe.close()
        self._said.close()

    def _crashed(self) -> SetupError:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return SetupError(f"the process that {self._doing} was killed", hint="was there too little memory?")
        why = f"signal {-code}" if code < 0 else f"exit code {code}"
        hint = f"run `foreshore doctor`; it said: {self._tail() or 'nothing'}"
        return SetupError(f"the process that {self._doing} crashed ({why})", hint=hint)

    def _tail(self) -> str:
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - TAIL))
        return self._said.read().decode(errors="replace").strip()


def run(
    module: str,
    request: Mapping[str, Any],
    *,
    doing: str,
    environment: Mapping[str, str] | None = None,
    progress: OnCount = lambda done, total: None,
) -> dict[str, Any]:
    """The answer of a `Child` that is asked once. Raises what `Child.ask` does."""
    with Child(module, doing=doing, environment=environment) as child:
        return child.ask(request, progress)
