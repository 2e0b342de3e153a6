"""Work on ONNX graphs in a child process, so that what torch, the exporter and native code do costs nobody else.

The child is `python -P -m foreshore.quantize.onnx_child`. It has a session of its own, loads nothing from the network,
keeps its temporary files where it is told, and ends with its parent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from foreshore.errors import ForeshoreError, ModelError, NotFound, SetupError, UsageError

__all__ = ["run"]

_ERRORS: dict[str, type[ForeshoreError]] = {
    kind.__name__: kind for kind in (ModelError, NotFound, SetupError, UsageError)
}
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}


def run(
    task: str, *, doing: str, scratch: Path, progress: Callable[[int, int], None] = lambda done, total: None, **job: Any
) -> dict[str, Any]:
    """What the child's `task` returns for `job`, whose values JSON must know. `doing` ends the sentence
    "the process that ..." in errors.

    `progress` is told done and total. Raises the child's own `ModelError`, `UsageError` or `SetupError`, or
    `SetupError` if it crashed.
    """
    result = None
    with tempfile.TemporaryFile() as errors:
        child = _start(errors, scratch)
        try:
            for event in _events(child, {"task": task, **job}):
                if "error" in event:
                    raise _ERRORS[event["error"]](event["message"], hint=event["hint"])
                if "result" in event:
                    result = event["result"]
                else:
                    progress(event["done"], event["total"])
            child.wait()
            if not isinstance(result, dict):
                raise _crashed(doing, child.returncode, _tail(errors))
        finally:
            _end(child)
    return result


def _start(errors: IO[bytes], scratch: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "foreshore.quantize.onnx_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        encoding="utf-8",
        start_new_session=True,
        env={**os.environ, **_ENVIRONMENT, "TMPDIR": str(scratch)},
    )


def _events(child: subprocess.Popen[str], job: dict[str, Any]) -> Any:
    assert child.stdin
    assert child.stdout
    with suppress(BrokenPipeError):  # it died at once: the missing result says so
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
    return map(json.loads, child.stdout)


def _end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe:
            with suppress(BrokenPipeError):
                pipe.close()


def _crashed(doing: str, code: int, said: str) -> SetupError:
    if code == -signal.SIGKILL:
        return SetupError(f"the system killed the process that {doing}", hint="it most likely wanted too much memory")
    why = f"signal {-code}" if code < 0 else f"exit code {code}"
    return SetupError(f"the process that {doing} crashed ({why})", hint=f"it said: {said or 'nothing'}")


def _tail(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 2000))
    return errors.read().decode(errors="replace").strip()
