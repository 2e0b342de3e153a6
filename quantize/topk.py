"""Next-token distributions kept small: the likeliest tokens, the mass of the rest, and a sample of the rest.

Of a distribution P over V tokens are kept the k likeliest (top) with their log-probabilities, the mass of all others
(tail), and a few tokens drawn from the tail by their probability. Then with Q the distribution to compare

    KL(P || Q) = sum over top of p ln(p/q)  +  P_tail ln(P_tail/Q_tail)  +  P_tail KL(P given tail || Q given tail)

where the first two terms are exact, since Q is at hand in full, and alone a lower bound. The third is the mean over
the drawn tokens of r - 1 - ln r, where r is the ratio of Q to P given the tail: without bias, because r has mean 1,
and never negative (the estimator "k3" of Schulman, "Approximating KL Divergence", 2020).

Log-probabilities are rounded to float16, and what is read back is normalised again. So P is a distribution still, a
little off: of itself it differs by less than 1e-5 nats.

Of 152,064 tokens a record takes 1/316 of the logits. Even with a fifth of the mass in the tail a token's KL is then off
by 3 % of the mean (standard deviation), and the mean of n tokens by 3 % over the root of n; with 0.3 % of it there by
0.2 % (a test holds the first).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TopTail", "divergence", "log_probability", "same_top", "sizes"]

Logits = NDArray[np.float32]
TOP, SAMPLES = 256, 64  # at most; with more the error no longer shrinks in a way that counts
SHARE = 50  # a token's record takes at most this part of its full float32 logits
OTHER_BYTES = 10  # of a record: the tail's mass, the token itself and its log-probability
CHUNK = 1 << 20  # logits worked on at once: temporary arrays stay below 30 MB
SMALLEST = np.log(np.finfo(np.float32).smallest_subnormal)  # of a mass that float32 can tell from 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TopTail:
    """The distributions of N tokens. `ids[:, 0]` is the likeliest token, the first `k` columns are the top, likeliest
    first, the others were drawn from the tail (some perhaps twice)."""

    ids: NDArray[np.unsignedinteger[Any]]  # (N, k + samples), as few bytes as the vocabulary needs
    log_p: NDArray[np.float16]  # (N, k + samples)
    log_tail: NDArray[np.float16]  # (N,), -inf where nothing is left
    k: int
    vocab: int

    @classmethod
    def of(
        cls, logits: Logits, k: int | None = None, samples: int | None = None, *, rng: np.random.Generator | None = None
    ) -> TopTail:
        """Of `logits` (N, V); `k` and `samples` as `sizes(V)` says if not given. `rng` draws from the tail."""
        vocab = logits.shape[1]
        usual = sizes(vocab)
        k = min(usual[0] if k is None else k, vocab)
        samples = (usual[1] if samples is None else samples) if k < vocab else 0
        rng = rng or np.random.default_rng(0)
        parts = [_record(rows, k, samples, rng) for rows in _chunks(logits)]
        ids, log_p, log_tail = (
            np.concatenate(part) for part in (zip(*parts, strict=True) if parts else _nothing(k + samples))
        )
        kind = np.uint16 if vocab <= 1 << 16 else np.uint32
        return cls(
            ids=ids.astype(kind),
            log_p=log_p.astype(np.float16),
            log_tail=log_tail.astype(np.float16),
            k=k,
            vocab=vocab,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> TopTail:
        return TopTail(
            ids=self.ids[rows], log_p=self.log_p[rows], log_tail=self.log_tail[rows], k=self.k, vocab=self.vocab
        )

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + self.log_p.nbytes + self.log_tail.nbytes


def sizes(vocab: int) -> tuple[int, int]:
    """How many top tokens and how many drawn ones a record of at most 1/50 of `vocab` float32 logits holds.

    A record has one of each at least, so below some 230 tokens it takes more than that.
    """
    pairs = (vocab * 4 // SHARE - OTHER_BYTES) // (4 if vocab <= 1 << 16 else 6)
    samples = min(max(pairs // 5, 1), SAMPLES)
    return min(max(pairs - samples, 1), TOP), samples


def divergence(reference: TopTail, logits: Logits) -> NDArray[np.float64]:
    """KL(reference || softmax of `logits`) of each token, in nats: (N,). Logits that are not finite give NaN or inf."""
    _check(reference, logits)
    found = [np.zeros(0)]
    start = 0
    for rows in _chunks(logits):
        found.append(_divergence(reference[start : start + len(rows)], rows))
        start += len(rows)
    return np.concatenate(found)


def same_top(reference: TopTail, logits: Logits) -> NDArray[np.bool_]:
    """Whether the likeliest token is the reference's, (N,); of equals the first counts."""
    _check(reference, logits)
    return np.asarray(logits.argmax(axis=1) == reference.ids[:, 0])


def log_probability(logits: Logits, ids: NDArray[Any]) -> NDArray[np.float64]:
    """ln of the probability that each row of `logits` (N, V) gives to the token of `ids` (N,)."""
    totals = np.concatenate([np.zeros(0), *(_log_total(rows)[0] for rows in _chunks(logits))])
    return np.asarray(logits[np.arange(len(logits)), ids].astype(np.float64) - totals)


def _record(logits: Logits, k: int, samples: int, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
    log_total, weights = _log_total(logits)
    vocab = logits.shape[1]
    top = (
        np.argpartition(logits, vocab - k, axis=1)[:, vocab - k :]
        if k < vocab
        else np.tile(range(vocab), (len(logits), 1))
    )
    top = np.sort(top, axis=1)  # so that equals come in the order of the vocabulary
    order = np.argsort(-np.take_along_axis(logits, top, axis=1), axis=1, kind="stable")
    ids = np.take_along_axis(top, order, axis=1)
    totals = weights.sum(axis=1, dtype=np.float64)
    np.put_along_axis(weights, ids, 0.0, axis=1)  # the tail is left
    mass = weights.sum(axis=1, dtype=np.float64)
    if samples:
        ids = np.concatenate([ids, _draw(weights, samples, rng)], axis=1)
    log_p = np.take_along_axis(logits, ids, axis=1) - log_total[:, None]
    with np.errstate(divide="ignore"):
        return ids, log_p, np.log(mass / totals)


def _draw(weights: NDArray[np.float32], samples: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Columns by weight, (N, samples): systematic sampling, one random number a row."""
    cumulated = weights.cumsum(axis=1, dtype=np.float64)
    whole = cumulated[:, -1:]
    points = (np.arange(samples) + rng.random((len(weights), 1))) / samples * whole
    points = np.minimum(points, np.nextafter(whole, 0))
    return np.stack(
        [np.searchsorted(row, wanted, side="right") for row, wanted in zip(cumulated, points, strict=True)]
    ).clip(max=weights.shape[1] - 1)


def _divergence(reference: TopTail, logits: Logits) -> NDArray[np.float64]:
    log_total, weights = _log_total(logits)
    log_q = np.take_along_axis(logits, reference.ids.astype(np.intp), axis=1) - log_total[:, None]
    k = reference.k
    totals = weights.sum(axis=1, dtype=np.float64)
    top = np.take_along_axis(weights, reference.ids[:, :k].astype(np.intp), axis=1).sum(axis=1, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_q_tail = np.maximum(np.log(np.maximum(totals - top, 0) / totals), SMALLEST)
    log_p, log_p_tail = _normalised(reference)
    found = _terms(log_p[:, :k], log_q[:, :k]).sum(axis=1) + _terms(log_p_tail, log_q_tail)
    if log_p.shape[1] > k:
        with np.errstate(invalid="ignore", over="ignore"):
            log_r = (log_q[:, k:] - log_q_tail[:, None]) - (log_p[:, k:] - log_p_tail[:, None])
            inside = np.exp(log_p_tail) * (np.expm1(log_r) - log_r).mean(axis=1)
        found += np.where(np.isneginf(log_p_tail), 0.0, inside)
    return np.asarray(np.maximum(found, 0.0))  # it is below by no more than rounding


def _normalised(reference: TopTail) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The log-probabilities and the log tail mass, such that top and tail sum to 1 in spite of their rounding."""
    log_p, log_tail = reference.log_p.astype(np.float64), reference.log_tail.astype(np.float64)
    total = np.log(np.exp(log_p[:, : reference.k]).sum(axis=1) + np.exp(log_tail))
    return log_p - total[:, None], log_tail - total


def _terms(log_p: NDArray[np.float64], log_q: NDArray[np.float64]) -> NDArray[np.float64]:
    """p ln(p/q), 0 where p is 0."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(log_p), 0.0, np.exp(log_p) * (log_p - log_q))


def _log_total(logits: Logits) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """ln of the sum of exp over each row, and exp of each logit less its row's largest."""
    largest = logits.max(axis=1, keepdims=True)
    weights = np.exp(logits - largest)
    return largest[:, 0] + np.log(weights.sum(axis=1, dtype=np.float64)), weights


def _chunks(logits: Logits) -> Iterator[Logits]:
    step = max(1, CHUNK // logits.shape[1])
    for start in range(0, len(logits), step):
        yield logits[start : start + step]


def _nothing(columns: int) -> list[list[NDArray[Any]]]:
    return [[np.zeros((0, columns))], [np.zeros((0, columns))], [np.zeros(0)]]


def _check(reference: TopTail, logits: Logits) -> None:
    if logits.shape != (len(reference), reference.vocab):
        raise ValueError(f"logits of shape {logits.shape} against {len(reference)} tokens of {reference.vocab}")
