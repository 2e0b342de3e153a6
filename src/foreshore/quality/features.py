"""What an estimator sees of a prompt, and of an answer to it.

The words, one and two in a row, are a bag: hashed, and of each how often it is there, as the square root of its share.
Bags so made have length 1 and their product is Hellinger's affinity: a long text weighs no more than a short one. Runs
of letters are taken the same way, in fewer places. How long a text is, and what is in it, stands in counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshore.quality.answer_counts import ANSWER_COUNTS, answer_counts
from foreshore.quality.counts import COUNTS, counts
from foreshore.quality.hashing import Hashed, bucket, clipped, grams, hashed, pairs
from foreshore.quality.sparse import Bag

__all__ = ["COUNTED", "TOPIC_BITS", "VERSION", "WORD_BITS", "Features", "blocks", "features"]

VERSION = 1  # of the features: an estimator that learnt others cannot be used
WORD_BITS = 15  # 2**15 places for words and pairs of words
TOPIC_BITS = 13  # and 2**13 for single words, which topics are made of
LETTER_BITS = 10
COUNTED = "counts", "answer_counts"  # blocks whose columns are each a fact of its own
LETTERS = 3, 4  # bytes in a row

Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Features:
    """`words` and `single` are bags; `counts` and then `shares` hold the blocks that `blocks` names."""

    words: Bag
    single: Bag
    counts: NDArray[np.float32]
    shares: NDArray[np.float32]


def blocks(answers: bool) -> Mapping[str, int]:
    """The columns of `counts` and of `shares`, in order."""
    if not answers:
        return {"counts": len(COUNTS), "letters": 1 << LETTER_BITS}
    counted = {"counts": len(COUNTS), "answer_counts": len(ANSWER_COUNTS)}
    return {**counted, "letters": 1 << LETTER_BITS, "answer_words": 1 << LETTER_BITS}


def features(prompt: str, answer: str | None = None) -> Features:
    """With an answer also what it says of itself."""
    text = clipped(prompt)
    read = hashed(text)
    single = _bag(bucket(read.words, TOPIC_BITS))
    letters = np.concatenate([grams(read, size) for size in LETTERS])
    counted, shares = counts(text, read, len(single[0])), _shares(letters)
    if answer is not None:
        said = clipped(answer)
        counted = np.concatenate([counted, answer_counts(text, said)])
        shares = np.concatenate([shares, _shares(_words(hashed(said)))])
    words = _bag(bucket(_words(read), WORD_BITS))
    return Features(words=words, single=single, counts=counted.astype(np.float32), shares=shares)


def _words(read: Hashed) -> Hashes:
    return np.concatenate([read.words, pairs(read.words)])


def _bag(places: NDArray[np.intp]) -> Bag:
    """Each different place, ascending, and the square root of its share. Sorts `places`."""
    if not len(places):
        return places, np.zeros(0, np.float32)
    places.sort()
    changes = (places[1:] != places[:-1]).nonzero()[0]
    ends = np.empty(len(changes) + 2, np.intp)
    ends[0], ends[1:-1], ends[-1] = -1, changes, len(places) - 1
    times = ends[1:] - ends[:-1]
    return places[ends[1:]], np.sqrt(times / len(places)).astype(np.float32)


def _shares(hashes: Hashes) -> NDArray[np.float32]:
    found = np.bincount(bucket(hashes, LETTER_BITS), minlength=1 << LETTER_BITS)
    return np.sqrt(found / max(1, len(hashes))).astype(np.float32)
