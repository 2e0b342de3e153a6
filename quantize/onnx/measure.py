"""What an ONNX decoder lost against its parent in float32, and how fast ONNX models are beside each other.

Every model is computed in a child process by the edge runtime's own engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from foreshore.card import Device, Divergence, Speed, Spread
from foreshore.disk import sha256
from foreshore.edge.onnx.folder import model_file
from foreshore.errors import ModelError, UsageError
from foreshore.quantize.onnx.graph import weights
from foreshore.quantize.onnx.job import run
from foreshore.quantize.progress import OnCount
from foreshore.quantize.quality import divergence_of
from foreshore.quantize.texts import Corpus

__all__ = ["measure_divergence", "measure_speeds"]

CONTEXT = 512  # tokens that a prediction sees at most


def measure_divergence(
    parent: Path,
    variant: Path,
    corpus: Corpus,
    *,
    context: int = CONTEXT,
    threads: int | None = None,
    progress: OnCount = lambda done, total: None,
) -> Divergence:
    """Of two decoders, each a folder or an .onnx file: how the variant's next-token distributions differ from the
    parent's, in windows of `context` tokens. `progress` is told the documents read.

    Raises `UsageError` for encoders, another vocabulary, and a corpus too small for an interval.
    """
    original = model_file(parent)
    with _scratch() as scratch:
        out = scratch / "tokens.npz"
        run(
            "compare",
            doing=f"compared {variant.parent.name!r} with its parent",
            scratch=scratch,
            progress=progress,
            parent=str(original),
            model=str(model_file(variant)),
            texts=corpus.documents,
            special=corpus.special,
            context=context,
            threads=threads,
            out=str(out),
        )
        with np.load(out) as found:
            documents, values = found["documents"], found["values"]
    if not all(np.isfinite(values[name]).all() for name in values.dtype.names):
        raise ModelError("the model gives logits that are not finite", hint="take another type")
    starts = np.flatnonzero(np.diff(documents, prepend=-1))
    return divergence_of(values, starts, parent_sha256=sha256(weights(original)), text_sha256=corpus.sha256)


def measure_speeds(
    models: Sequence[Path],
    corpus: Corpus,
    device: Device,
    *,
    runs: int = 5,
    threads: int | None = None,
    progress: OnCount = lambda done, total: None,
) -> tuple[Speed, ...]:
    """The speed of each of `models`, on the same texts, in turn, so that other work on the machine meets all alike.

    Each run has a process of its own. An encoder's `prefill` is of the documents one by one; a decoder reads them as
    one text, at most its context, and then writes. `device` is this one. Raises `UsageError` for less than one run.
    """
    if runs < 1:
        raise UsageError(f"runs is {runs!r}", hint="take at least 1")
    found: list[list[dict[str, Any]]] = [[] for _ in models]
    with _scratch() as scratch:
        for done in range(runs * len(models)):
            place = done % len(models)
            found[place].append(_clock(model_file(models[place]), corpus, scratch, threads))
            progress(done + 1, runs * len(models))
    return tuple(_speed(one, device) for one in found)


@contextmanager
def _scratch() -> Iterator[Path]:
    with TemporaryDirectory(prefix="foreshore-") as folder:
        yield Path(folder)


def _clock(model: Path, corpus: Corpus, scratch: Path, threads: int | None) -> dict[str, Any]:
    doing = f"timed {model.parent.name!r}"
    return run("time", doing=doing, scratch=scratch, model=str(model), texts=corpus.documents, threads=threads)


def _speed(runs: list[dict[str, Any]], device: Device) -> Speed:
    return Speed(
        device=device,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        threads=runs[0]["threads"],
        load_s=_spread(runs, "load_s"),
        peak_bytes=max(r["peak_bytes"] for r in runs),
        prefill=_spread(runs, "prefill"),
        decode=_spread(runs, "decode") if runs[0]["decode"] is not None else None,
    )


def _spread(runs: list[dict[str, Any]], name: str) -> Spread:
    values = [float(r[name]) for r in runs]
    return Spread(median=median(values), low=min(values), high=max(values), runs=len(values))
