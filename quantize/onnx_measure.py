"""What an ONNX variant lost against its parent in float32, and how fast both are here: the parts of its card.

Every model is computed in a child process by the edge runtime's own engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.card import Device, Divergence, Interval, Similarity, Speed, Spread
from foreshore.disk import sha256
from foreshore.edge.onnx_folder import model_file
from foreshore.errors import ModelError, UsageError
from foreshore.quantize.bootstrap import quantile, ratio, share
from foreshore.quantize.onnx_job import run
from foreshore.quantize.texts import Corpus

__all__ = ["measure_divergence", "measure_similarity", "measure_speeds"]

CONTEXT = 512  # tokens that a prediction sees at most
OnProgress = Callable[[int, int], None]  # done, total


def measure_similarity(
    parent: Path,
    variant: Path,
    corpus: Corpus,
    *,
    threads: int | None = None,
    progress: OnProgress = lambda done, total: None,
) -> Similarity:
    """Of two encoders, each a folder or an .onnx file: the cosine between their vectors of each document.

    Documents are computed one by one, since a batch would let them share the range to which int8 rounds; longer ones
    than the model reads are cut. Raises `UsageError` for decoders and for a corpus too small for an interval.
    """
    with _scratch() as scratch:
        theirs, ours = (_vectors(model_file(path), corpus, scratch, threads, progress) for path in (parent, variant))
    if theirs.shape != ours.shape:
        raise UsageError(f"the models give vectors of {theirs.shape[1]} and {ours.shape[1]} numbers")
    cosines = (theirs * ours).sum(axis=1)  # both have unit length
    return Similarity(
        parent_sha256=sha256(model_file(parent)),
        text_sha256=corpus.sha256,
        documents=len(cosines),
        cosine_mean=_mean_cosine(cosines),
        cosine_min=float(cosines.min()),
    )


def measure_divergence(
    parent: Path,
    variant: Path,
    corpus: Corpus,
    *,
    context: int = CONTEXT,
    threads: int | None = None,
    progress: OnProgress = lambda done, total: None,
) -> Divergence:
    """Of two decoders: how the variant's next-token distributions differ from the parent's, in windows of `context`.

    Raises `UsageError` for encoders, another vocabulary, and a corpus too small for an interval.
    """
    with _scratch() as scratch:
        out = scratch / "tokens.npz"
        run(
            "compare",
            doing="compared two models",
            scratch=scratch,
            progress=progress,
            parent=str(model_file(parent)),
            model=str(model_file(variant)),
            texts=corpus.documents,
            special=corpus.special,
            context=context,
            threads=threads,
            out=str(out),
        )
        with np.load(out) as found:
            tokens = {name: found[name] for name in found}
    return _divergence(tokens, sha256(model_file(parent)), corpus.sha256)


def measure_speeds(
    models: Sequence[Path],
    corpus: Corpus,
    device: Device,
    *,
    runs: int = 5,
    threads: int | None = None,
    progress: OnProgress = lambda done, total: None,
) -> tuple[Speed, ...]:
    """The speed of each of `models`, on the same texts, in turn, so that other work on the machine meets all alike.

    Each run has a process of its own. An encoder's `prefill` is of the documents one by one; a decoder reads them as
    one text, at most its context, and then writes. `device` is this one; its engine becomes ONNX Runtime.
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


def _vectors(
    model: Path, corpus: Corpus, scratch: Path, threads: int | None, progress: OnProgress
) -> NDArray[np.float64]:
    out = scratch / "vectors.npy"
    run(
        "embed",
        doing="computed vectors",
        scratch=scratch,
        progress=progress,
        model=str(model),
        texts=corpus.documents,
        threads=threads,
        out=str(out),
    )
    vectors: NDArray[np.float64] = np.load(out)
    if not np.isfinite(vectors).all():
        raise ModelError(f"{model.parent.name!r} gives vectors that are no numbers", hint="take another type")
    return vectors


def _mean_cosine(cosines: NDArray[np.float64]) -> Interval:
    """The interval is that of the mean distance 1 - cosine, which is never negative."""
    distance = ratio(np.maximum(1 - cosines, 0), np.ones(len(cosines)))
    return Interval(value=1 - distance.value, low=1 - distance.high, high=1 - distance.low)


def _divergence(tokens: dict[str, NDArray[Any]], parent_sha256: str, text_sha256: str) -> Divergence:
    if not all(np.isfinite(values).all() for values in tokens.values()):
        raise ModelError("the model gives logits that are no numbers", hint="take another type")
    _, documents = np.unique(tokens["document"], return_inverse=True)
    counts = np.bincount(documents)

    def sums(name: str) -> NDArray[np.float64]:
        return np.bincount(documents, weights=tokens[name].astype(np.float64)).astype(np.float64)

    return Divergence(
        parent_sha256=parent_sha256,
        text_sha256=text_sha256,
        documents=len(counts),
        tokens=len(documents),
        perplexity=_perplexity(-sums("log_p"), counts),
        parent_perplexity=_perplexity(-sums("parent_log_p"), counts),
        kl_mean=ratio(np.maximum(sums("kl"), 0), counts),
        kl_p99=quantile(np.split(tokens["kl"], np.cumsum(counts)[:-1]), 0.99),
        same_top=share(sums("same"), counts),
    )


def _perplexity(surprise: NDArray[np.float64], counts: NDArray[np.intp]) -> Interval:
    found = ratio(surprise, counts)
    value, low, high = (float(np.exp(x)) for x in (found.value, found.low, found.high))
    return Interval(value=value, low=low, high=high)


def _clock(model: Path, corpus: Corpus, scratch: Path, threads: int | None) -> dict[str, Any]:
    texts = corpus.documents
    return run("time", doing="timed a model", scratch=scratch, model=str(model), texts=texts, threads=threads)


def _speed(runs: list[dict[str, Any]], device: Device) -> Speed:
    return Speed(
        device=replace(device, engine=runs[0]["system"]),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        threads=runs[0]["threads"],
        load_s=_spread(runs, "load_s"),
        peak_bytes=max(r["peak_bytes"] for r in runs),
        prefill=_spread(runs, "prefill"),
        decode=_spread(runs, "decode") if runs[0]["decode"] is not None else None,
    )


def _spread(runs: list[dict[str, Any]], name: str) -> Spread:
    values = sorted(float(r[name]) for r in runs)
    return Spread(median=float(np.median(values)), low=values[0], high=values[-1], runs=len(values))
