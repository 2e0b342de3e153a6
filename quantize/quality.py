"""How far a variant is from its parent on a text: perplexity, KL divergence and same-top rate; of an encoder, the
cosine between its vectors and the parent's.

KL(parent || variant) is taken at every position of `Reference`, in nats; its 99th percentile is over all tokens. The
intervals are of a bootstrap by document (`bootstrap`). Two variants measured on one reference are compared document by
document, which says far more than two intervals side by side: `ratio` and `difference`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore import card
from foreshore.card import Interval
from foreshore.disk import sha256
from foreshore.edge import EngineOptions, Runtime
from foreshore.errors import ContextExceeded, ModelError, UsageError
from foreshore.quantize import bootstrap
from foreshore.quantize.forward import COMPARED, OnRead, read
from foreshore.quantize.onnx.graph import weights
from foreshore.quantize.reference import Reference
from foreshore.quantize.texts import Corpus

__all__ = [
    "Compared",
    "compare",
    "difference",
    "divergence_of",
    "measure_divergence",
    "measure_similarity",
    "ratio",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One variant on one reference, token by token; `starts` has each document's first token."""

    reference: Reference
    values: NDArray[Any]  # of type COMPARED, one for each scored token
    starts: NDArray[np.intp]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Scored, by document."""
        return np.diff(self.starts, append=len(self.values))

    @property
    def kl(self) -> NDArray[np.float64]:
        """The sum over each document's tokens, nats."""
        return _sums(self.values["kl"], self.starts)

    def divergence(self) -> card.Divergence:
        """Raises `UsageError` where the text has too few documents for intervals."""
        hashes = {"parent_sha256": self.reference.parent_sha256, "text_sha256": self.reference.text_sha256}
        return divergence_of(self.values, self.starts, **hashes)


def divergence_of(
    values: NDArray[Any], starts: NDArray[np.intp], *, parent_sha256: str, text_sha256: str
) -> card.Divergence:
    """The figures of tokens that were `COMPARED`, whose documents begin at `starts`.

    Raises `UsageError` where these are too few for intervals.
    """
    tokens, kl = np.diff(starts, append=len(values)), values["kl"]
    own, parents = (_sums(values[name], starts) for name in ("log_p", "parent_log_p"))
    return card.Divergence(
        parent_sha256=parent_sha256,
        text_sha256=text_sha256,
        documents=len(tokens),
        tokens=len(values),
        perplexity=_perplexity(bootstrap.ratio(-own, tokens)),
        parent_perplexity=_perplexity(bootstrap.ratio(-parents, tokens)),
        perplexity_ratio=_perplexity(bootstrap.ratio(parents - own, tokens)),
        kl_mean=_finite(bootstrap.ratio(_sums(kl, starts), tokens), float(kl.max())),
        kl_p99=bootstrap.quantile(np.split(kl, starts[1:]), 0.99),
        same_top=bootstrap.share(_sums(values["same"], starts), tokens),
    )


def compare(
    reference: Reference, model: Path, *, threads: int | None = None, progress: OnRead = lambda done, total: None
) -> Compared:
    """Read the reference's text with the GGUF file `model`.

    Raises `ModelError` where its vocabulary is not the parent's or its logits are not finite.
    """
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "compared.bin"
        read(
            "compare",
            model,
            threads=threads,
            progress=progress,
            folder=str(reference.folder),
            to=str(to),
            head=dict(reference.head),
        )
        values = np.fromfile(to, COMPARED)
    return Compared(reference=reference, values=values, starts=_starts(reference))


def measure_divergence(
    reference: Reference, model: Path, *, threads: int | None = None, progress: OnRead = lambda done, total: None
) -> card.Divergence:
    """`compare`, as figures with intervals."""
    return compare(reference, model, threads=threads, progress=progress).divergence()


def measure_similarity(
    parent: Path,
    model: Path,
    corpus: Corpus,
    *,
    threads: int | None = None,
    progress: OnRead = lambda done, total: None,
) -> card.Similarity:
    """Of two encoders, each a .gguf or an .onnx file: the cosine between their vectors of each document, as the runtime
    gives them. The interval is that of the mean distance, 1 - cosine.

    Documents are computed one by one, since a batch would let them share the range to which int8 rounds. One that is
    longer than the model reads is cut. Raises `ModelError` for vectors that are not finite, `UsageError` for vectors
    of two lengths, and for too few documents.
    """
    count = len(corpus.documents)
    ours, texts = _vectors(parent, corpus.documents, threads, lambda done: progress(done, 2 * count))
    theirs, _ = _vectors(model, texts, threads, lambda done: progress(count + done, 2 * count))
    if ours.shape != theirs.shape:
        raise UsageError(f"the models give vectors of {ours.shape[1]} and {theirs.shape[1]} numbers")
    cosines = (ours * theirs).sum(axis=1)  # both have unit length
    distance = bootstrap.ratio(np.maximum(1 - cosines, 0), np.ones(count))
    return card.Similarity(
        parent_sha256=sha256(weights(parent)),
        text_sha256=corpus.sha256,
        documents=count,
        cosine_mean=Interval(value=1 - distance.value, low=max(-1.0, 1 - distance.high), high=1 - distance.low),
        cosine_min=float(cosines.min()),
    )


def ratio(variant: Compared, other: Compared) -> Interval:
    """The mean KL of `variant` over that of `other`, paired by document."""
    _check_paired(variant, other)
    return bootstrap.ratio(variant.kl, other.kl)


def difference(variant: Compared, other: Compared) -> Interval:
    """The mean KL of `variant` less that of `other`, nats a token, paired by document."""
    _check_paired(variant, other)
    return bootstrap.ratio(variant.kl - other.kl, variant.tokens)


def _check_paired(variant: Compared, other: Compared) -> None:
    if variant.reference.folder.name != other.reference.folder.name:
        raise UsageError("the two variants were measured on different references", hint="measure both on the same one")


def _starts(reference: Reference) -> NDArray[np.intp]:
    """Where each document with a scored token begins among the scored tokens."""
    documents = [number for number, length in reference.windows for _ in range(length - 1 - reference.skip)]
    return np.flatnonzero(np.diff(documents, prepend=-1)).astype(np.intp)


def _sums(values: NDArray[Any], starts: NDArray[np.intp]) -> NDArray[np.float64]:
    """Over each document."""
    return np.asarray(np.add.reduceat(values.astype(np.float64), starts))


def _vectors(
    model: Path, texts: Sequence[str], threads: int | None, step: Callable[[int], None]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """(texts, width), and the texts as far as they were read."""
    found: list[tuple[tuple[float, ...], str]] = []
    with Runtime(model, options=EngineOptions(slots=1, threads=threads)) as runtime:
        for text in texts:
            found.append(_vector(runtime, text))
            step(len(found))
    vectors, kept = zip(*found, strict=True)
    if not np.isfinite(vectors).all():
        raise ModelError(f"{model.name!r} gives vectors that are not finite", hint="its weights may be damaged")
    return np.array(vectors), kept


def _vector(runtime: Runtime, text: str) -> tuple[tuple[float, ...], str]:
    """Of `text`, or of as much of its beginning as the model reads."""
    while True:
        try:
            return runtime.embed(text)[0], text
        except ContextExceeded as error:
            text = text[: min(len(text) - 1, len(text) * error.context_tokens // error.prompt_tokens)]


def _perplexity(log: Interval) -> Interval:
    with np.errstate(over="ignore"):
        return Interval(value=math.exp(log.value), low=math.exp(log.low), high=float(np.exp(log.high)))


def _finite(found: Interval, most: float) -> Interval:
    """KL lies between 0 and the largest token's, whatever few documents leave open."""
    return Interval(value=found.value, low=max(0.0, found.low), high=min(most, found.high))
