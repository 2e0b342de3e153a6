"""Reads texts with a model in a child process (`forward_child`): records its next-token distributions, or compares
them with recorded ones. The child does the arithmetic, so no logits ever leave it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from foreshore import errors
from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.edge.options import EngineOptions
from foreshore.errors import ForeshoreError, ModelError, SetupError

__all__ = ["COMPARED", "OnRead", "read", "record_type"]

OnRead = Callable[[int, int], None]  # is told how many tokens were read, and of how many
# What comes of a token that was compared: nats, whether the likeliest token is the same, and ln of the probabilities of
# the token that came.
COMPARED = np.dtype([("kl", "<f4"), ("log_p", "<f4"), ("parent_log_p", "<f4"), ("same", "?")])
CAUSAL, ENCODER_LAYERS = ".attention.causal", ".encoder.block_count"


def read(
    task: Literal["record", "compare"],
    model: Path,
    *,
    threads: int | None = None,
    progress: OnRead = lambda done, total: None,
    **job: Any,
) -> dict[str, Any]:
    """What the child's `task` returns. `threads`: as the engine chooses them if not given.

    Raises `NotFound` or `ModelError` for a file that is no decoder, `SetupError` if the child crashed.
    """
    _check(inspect(model))
    job |= {"task": task, "model": str(model), "threads": EngineOptions(threads=threads).thread_count}
    result: dict[str, Any] | None = None
    with tempfile.TemporaryFile() as said, _child(said) as child:
        for event in _events(child, job):
            if "error" in event:
                raise _error(event)
            if "result" in event:
                result = event["result"]
            else:
                progress(event["done"], event["total"])
        child.wait()
        if result is None:
            raise _crashed(model, child.returncode, _tail(said))
    return result


def record_type(vocab: int, columns: int) -> np.dtype[Any]:
    """How a reference's file keeps one token: its `TopTail`, and ln of the probability of the token that came."""
    ids = "<u2" if vocab <= 1 << 16 else "<u4"
    return np.dtype([("ids", ids, (columns,)), ("log_p", "<f2", (columns,)), ("log_tail", "<f2"), ("came", "<f4")])


def _check(info: GgufInfo) -> None:
    if info.get(CAUSAL) is False or info.get(ENCODER_LAYERS) or info.architecture.startswith("t5"):
        raise ModelError(
            f"{info.path.name!r} ({info.architecture}) has no next-token distributions to compare",
            hint="encoders are compared by the cosine of their vectors",
        )


@contextmanager
def _child(said: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    """The child, ended whatever happens. It has a session of its own: Ctrl-C reaches it only through us."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "foreshore.quantize.forward_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()


def _events(child: subprocess.Popen[str], job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    assert child.stdin
    assert child.stdout
    with suppress(BrokenPipeError):  # it died at once: the missing result says so
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
    yield from map(json.loads, child.stdout)


def _error(event: dict[str, Any]) -> ForeshoreError:
    kind: type[ForeshoreError] = getattr(errors, event["error"])
    return kind(event["message"], hint=event["hint"])


def _crashed(model: Path, code: int, said: str) -> SetupError:
    if code == -signal.SIGKILL:
        return SetupError(f"the process that read with {model.name!r} was killed", hint="was there too little memory?")
    why = f"signal {-code}" if code < 0 else f"exit code {code}"
    hint = f"run `foreshore doctor`; it said: {said or 'nothing'}"
    return SetupError(f"the process that read with {model.name!r} crashed ({why})", hint=hint)


def _tail(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
    return said.read().decode(errors="replace").strip()
