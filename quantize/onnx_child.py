"""The process that works on ONNX graphs: `python -P -m foreshore.quantize.onnx_child`, driven by `onnx_job`.

It reads one job (a JSON line) from stdin and ends itself when stdin closes. On stdout it writes JSON lines: {"done": n,
"total": m} on the way, and at last {"result": ...} or {"error": class, "message": ..., "hint": ...}.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from foreshore.disk import disk_errors
from foreshore.errors import ForeshoreError, SetupError

__all__ = ["Tell"]

Tell = Callable[[int, int], None]  # done, total
_TASKS = {
    "export": "foreshore.quantize.onnx_export:export",
    "quantize": "foreshore.quantize.onnx_quantize:quantize",
    "embed": "foreshore.quantize.onnx_run:embed",
    "compare": "foreshore.quantize.onnx_run:compare",
    "time": "foreshore.quantize.onnx_run:clock",
}


def main() -> None:
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints, it does not get between the events
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.ERROR)  # the first one counts: libraries would set it to INFO

    def send(**event: Any) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    try:
        send(result=_run(job, lambda done, total: send(done=done, total=total)))
    except ForeshoreError as error:
        send(error=type(error).__name__, message=error.message, hint=error.hint)
    os._exit(0)  # the thread still waits on stdin; an orderly exit would wait for it


def _run(job: dict[str, Any], tell: Tell) -> dict[str, Any]:
    module, _, name = _TASKS[job["task"]].partition(":")
    try:
        with disk_errors(Path(job.get("target", tempfile.gettempdir()))):
            return dict(getattr(import_module(module), name)(job, tell))
    except ImportError as error:
        raise SetupError(f"ONNX tools are missing: {error}", hint="pip install 'foreshore[onnx-export]'") from error
    except MemoryError as error:
        raise SetupError("no memory was left", hint="close other programs, or take a smaller model") from error


def _die_with_parent() -> None:
    os.read(0, 1)  # returns when the parent is gone
    os._exit(1)


if __name__ == "__main__":
    main()
