"""What an estimator sees of a prompt, and of an answer to it: one vector, made of blocks.

`words` and `letters` hold how often each hashed n-gram is in the text, as square roots of shares: vectors of length 1
whose product is Hellinger's affinity, so that a long text weighs no more than a short one. How long it is stands in
`counts`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from foreshore.quality.answer_counts import ANSWER_COUNTS, answer_counts
from foreshore.quality.counts import COUNTS, counts
from foreshore.quality.hashing import Hashed, bucket, clipped, grams, hashed, pairs

__all__ = ["ANSWER_BLOCKS", "BLOCKS", "VERSION", "after_answer", "features", "width"]

VERSION = 1  # of the features: an estimator that learnt others cannot be used
BITS = 12  # 2**BITS places in each hashed block
LETTERS = 3, 4  # bytes in an n-gram

BLOCKS: Mapping[str, int] = {"words": 1 << BITS, "letters": 1 << BITS, "counts": len(COUNTS)}
ANSWER_BLOCKS: Mapping[str, int] = {**BLOCKS, "answer_words": 1 << BITS, "answer_counts": len(ANSWER_COUNTS)}

Vector = NDArray[np.float32]


def width(answers: bool) -> int:
    return sum((ANSWER_BLOCKS if answers else BLOCKS).values())


def features(prompt: str) -> Vector:
    """(width(False),), in the order of `BLOCKS`."""
    text = clipped(prompt)
    read = hashed(text)
    words = _words(read)
    letters = np.concatenate([grams(read, size) for size in LETTERS])
    return np.concatenate([_shares(words), _shares(letters), counts(text, read)], dtype=np.float32, casting="same_kind")


def after_answer(prompt: str, answer: str) -> Vector:
    """(width(True),), in the order of `ANSWER_BLOCKS`."""
    text = clipped(answer)
    parts = (features(prompt), _shares(_words(hashed(text))), answer_counts(clipped(prompt), text))
    return np.concatenate(parts, dtype=np.float32, casting="same_kind")


def _words(read: Hashed) -> NDArray[np.uint64]:
    return np.concatenate([read.words, pairs(read.words)])


def _shares(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    found = np.bincount(bucket(hashes, BITS), minlength=1 << BITS)
    return np.sqrt(found / max(1, len(hashes)))
