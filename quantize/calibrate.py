"""Collects an importance matrix: reads a text with a model, in a child process, and sums what goes into its weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.edge.options import EngineOptions
from foreshore.errors import ModelError, UsageError
from foreshore.quantize.child import run
from foreshore.quantize.imatrix import Imatrix
from foreshore.quantize.progress import OnCount
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
    progress: OnCount = lambda done, total: None,
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
    with tempfile.TemporaryDirectory(prefix="foreshore-imatrix-") as folder:
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
        run("foreshore.quantize.calibrate_child", job, doing=f"calibrated {model.name!r}", progress=progress)
        return Imatrix.load(target)


def _check(info: GgufInfo) -> None:
    if info.get(".attention.causal") is False or info.architecture.startswith("t5"):
        raise ModelError(
            f"{info.path.name!r} ({info.architecture}) is no decoder, and only decoders can be calibrated",
            hint="encoders are quantized well without an importance matrix, to q8_0",
        )
