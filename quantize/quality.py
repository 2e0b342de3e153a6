"""How far a variant is from its parent: perplexity, KL divergence and same-top rate on a text, by document.

KL(parent || variant) is taken at every position of `Reference`, in nats; its 99th percentile is over all tokens. The
intervals are of a bootstrap by document (`bootstrap`). Two variants measured on one reference are compared document by
document, which says far more than two intervals side by side: `ratio` and `difference`.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore import card
from foreshore.card import Interval
from foreshore.errors import UsageError
from foreshore.quantize import bootstrap
from foreshore.quantize.forward import COMPARED, OnRead, read
from foreshore.quantize.reference import Reference

__all__ = ["Compared", "compare", "difference", "measure_divergence", "ratio"]


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
        return self._sums("kl")

    def divergence(self) -> card.Divergence:
        """Raises `UsageError` where the text has too few documents for intervals."""
        tokens, kl = self.tokens, self.values["kl"]
        return card.Divergence(
            parent_sha256=self.reference.parent_sha256,
            text_sha256=self.reference.text_sha256,
            documents=len(tokens),
            tokens=len(self.values),
            perplexity=_perplexity(bootstrap.ratio(-self._sums("log_p"), tokens)),
            parent_perplexity=_perplexity(bootstrap.ratio(-self._sums("parent_log_p"), tokens)),
            kl_mean=_finite(bootstrap.ratio(self.kl, tokens), float(kl.max())),
            kl_p99=bootstrap.quantile(np.split(kl, self.starts[1:]), 0.99),
            same_top=bootstrap.share(self._sums("same"), tokens),
        )

    def _sums(self, name: str) -> NDArray[np.float64]:
        return np.add.reduceat(self.values[name].astype(np.float64), self.starts)


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


def _perplexity(log: Interval) -> Interval:
    with np.errstate(over="ignore"):
        return Interval(value=math.exp(log.value), low=math.exp(log.low), high=float(np.exp(log.high)))


def _finite(found: Interval, most: float) -> Interval:
    """KL lies between 0 and the largest token's, whatever few documents leave open."""
    return Interval(value=found.value, low=max(0.0, found.low), high=min(most, found.high))
