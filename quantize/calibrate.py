"""Collects an importance matrix: reads a text with a model, in a child process, and sums what goes into its weights."""

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
from typing import IO, Any

from foreshore import errors
from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.edge.options import EngineOptions
from foreshore.errors import ForeshoreError, ModelError, SetupError, UsageError
from foreshore.quantize.imatrix import Imatrix
from foreshore.quantize.texts import Corpus

__all__ = ["collect"]

SHORTEST = 16  # tokens of a batch from which on llama-imatrix looks at it


def collect(
    model: Path,
    corpus: Corpus,
    *,
    context: int = 512,
    threads: int | None = None,
    output: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Imatrix:
    """The importance matrix of the GGUF file `model` on `corpus`, as llama-imatrix has it on `corpus.text`.

    The text is read in chunks of `context` tokens (of the model's own context if that is smaller), each from an empty
    cache; what is left over at the end is not read. `output` also collects for the matrix that makes the logits: by
    llama-imatrix's `--process-output` where the model has one of its own, and here also where it shares the token
    embedding's. The model may be quantized already. `progress` is told the tokens read, and of how many.

    Raises `ModelError` for a file that is no decoder or gives values that are not finite, `UsageError` if the text
    is too short for a chunk, `SetupError` if the child crashed.
    """
    if context < SHORTEST:
        raise UsageError(f"a context of {context!r} tokens is too small", hint=f"take {SHORTEST} or more; 512 is usual")
    info = inspect(model)
    _check(info)
    with tempfile.TemporaryDirectory(prefix="foreshore-imatrix-") as folder, tempfile.TemporaryFile() as said:
        target = Path(folder) / "imatrix.gguf"
        job = {
            "model": str(model),
            "text": corpus.text,
            "special": corpus.special,
            "dataset": f"sha256:{corpus.sha256}",
            "context": min(context, info.context_length or context),
            "threads": EngineOptions(threads=threads).thread_count,
            "output": output,
            "target": str(target),
        }
        with _child(said) as child:
            for event in _events(child, job):
                if "error" in event:
                    raise _error(event)
                progress(event["done"], event["total"])
            child.wait()
            if child.returncode != 0:
                raise _crashed(model, child.returncode, _tail(said))
        return Imatrix.load(target)


def _check(info: GgufInfo) -> None:
    if info.get(".attention.causal") is False or info.architecture.startswith("t5"):
        raise ModelError(
            f"{info.path.name!r} ({info.architecture}) is no decoder, and only decoders can be calibrated",
            hint="encoders are quantized well without an importance matrix, to q8_0",
        )


@contextmanager
def _child(said: IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    """The child, ended whatever happens. It has a session of its own: Ctrl-C reaches it only through us."""
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "foreshore.quantize.calibrate_child"],
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
    with suppress(BrokenPipeError):  # it died at once: its exit code says so
        child.stdin.write(json.dumps(job) + "\n")
        child.stdin.flush()
    yield from map(json.loads, child.stdout)


def _error(event: dict[str, Any]) -> ForeshoreError:
    kind: type[ForeshoreError] = getattr(errors, event["error"])
    return kind(event["message"], hint=event["hint"])


def _crashed(model: Path, code: int, said: str) -> SetupError:
    if code == -signal.SIGKILL:
        return SetupError(f"the process that calibrated {model.name!r} was killed", hint="was there too little memory?")
    why = f"signal {-code}" if code < 0 else f"exit code {code}"
    hint = f"run `foreshore doctor`; it said: {said or 'nothing'}"
    return SetupError(f"the process that calibrated {model.name!r} crashed ({why})", hint=hint)


def _tail(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
    return said.read().decode(errors="replace").strip()
