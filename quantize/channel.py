"""A child process's side of `child.Child`: requests come in on stdin, a JSON line each; on stdout go JSON lines out.

    {"done", "total"}             on the way
    {"result": {...}}             at last, or
    {"error": class, "message", "hint"}   of an error of ours, or
    {"errno", "reason"}           of one of the system's

What else prints goes to stderr. The process ends when stdin closes, in the midst of work too.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, NoReturn

from foreshore.errors import ForeshoreError, ModelError, NotFound, SetupError, UsageError

__all__ = ["Json", "Tell", "serve"]

Json = dict[str, Any]
Tell = Callable[[int, int], None]  # done, and of how many
_KINDS = (ModelError, NotFound, SetupError, UsageError)  # what the other side knows, the particular ones first


def serve(answer: Callable[[Json, Tell], Json]) -> NoReturn:
    """Answer one request after the other. An error that is none of ours ends the process, its traceback on stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints, it does not get between the events

    def send(**event: Any) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    try:
        for request in _requests():
            send(**_answered(answer, request, lambda done, total: send(done=done, total=total)))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)  # a thread still waits on stdin; an orderly exit would wait for it


def _answered(answer: Callable[[Json, Tell], Json], request: Json, tell: Tell) -> Json:
    try:
        return {"result": answer(request, tell)}
    except ForeshoreError as error:
        kind = next((k for k in _KINDS if isinstance(error, k)), SetupError)
        return {"error": kind.__name__, "message": error.message, "hint": error.hint}
    except OSError as error:
        if error.errno is None:
            raise
        return {"errno": error.errno, "reason": error.strerror}
    except MemoryError:
        hint = "close other programs, or take a smaller model"
        return {"error": SetupError.__name__, "message": "no memory was left", "hint": hint}


def _requests() -> Iterator[Json]:
    """Read in a thread of its own, so that the parent's end is noticed while a request is worked on."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(lines.get())
