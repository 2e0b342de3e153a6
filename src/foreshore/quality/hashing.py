"""Hashes of all pieces of a text at once, and where its words stand. Numpy alone.

The piece b[s:e] of the bytes b has the hash sum(T[b[i]] * P**(i - s)) mod 2**64, T a fixed random number for each byte
(Karp and Rabin, "Efficient randomized pattern-matching algorithms", 1987). Prefix sums give that of any piece by one
subtraction; P is odd, so that it has an inverse by which the place of a piece is taken out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["READ", "Hashed", "bucket", "clipped", "grams", "hashed", "pairs", "word_hash"]

READ = 6000, 2000  # characters: of a longer text its beginning and its end are read
LONGEST = 4 * (sum(READ) + 1)  # bytes

Hashes = NDArray[np.uint64]

_P = 0x9E3779B97F4A7C15  # odd; 2**64 over the golden ratio (Knuth, The Art of Computer Programming, 6.4)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_PAIR = np.uint64(0xCA5A826395121157)


def _powers(base: int) -> Hashes:
    factors = np.full(LONGEST, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


_POWERS, _INVERSES = _powers(_P), _powers(pow(_P, -1, 1 << 64))


def _lower() -> NDArray[np.uint8]:
    """ASCII letters in lower case and every digit as 0: numbers are told apart by their length alone."""
    found = np.arange(256, dtype=np.uint8)
    found[ord("A") : ord("Z") + 1] += 32
    found[ord("0") : ord("9") + 1] = ord("0")
    return found


def _splitmix(count: int) -> Hashes:
    """The first numbers of splitmix64 (Steele et al., "Fast splittable pseudorandom number generators", 2014)."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_P)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


_NUMBERS = _splitmix(256)[_lower()]
_IN_WORD = bytes(chr(byte).isalnum() or byte > 127 for byte in range(256))  # for bytes.translate, quicker than numpy


@dataclass(frozen=True, slots=True)
class Hashed:
    """`raw` is a text's UTF-8, `bytes` the same as numbers; `sums` (bytes + 1,) of hashes; of each word where it begins
    and ends, and its hash."""

    raw: bytes
    bytes: NDArray[np.uint8]
    sums: Hashes
    starts: NDArray[np.intp]
    ends: NDArray[np.intp]
    words: Hashes


def clipped(text: str) -> str:
    """What is read of a text: all of it, or its beginning and its end."""
    return text if len(text) <= sum(READ) else f"{text[: READ[0]]}\n{text[-READ[1] :]}"


def hashed(text: str) -> Hashed:
    """`text` must be `clipped`. A word is a run of letters, digits and whatever is not ASCII."""
    raw = text.encode("utf-8", "replace")
    found = np.frombuffer(raw, np.uint8)
    sums = np.empty(len(raw) + 1, np.uint64)
    sums[0] = 0
    (_NUMBERS[found] * _POWERS[: len(raw)]).cumsum(out=sums[1:])
    inside = np.frombuffer(b"\0%b\0" % raw.translate(_IN_WORD), np.bool_)
    edges = (inside[1:] != inside[:-1]).nonzero()[0]
    starts, ends = edges[::2], edges[1::2]
    return Hashed(raw, found, sums, starts, ends, (sums[ends] - sums[starts]) * _INVERSES[starts])


def grams(text: Hashed, size: int) -> Hashes:
    """The hashes of all runs of `size` bytes."""
    count = max(0, len(text.bytes) - size + 1)
    return (text.sums[size : size + count] - text.sums[:count]) * _INVERSES[:count]


def pairs(words: Hashes) -> Hashes:
    """The hashes of words that follow each other."""
    return words[:-1] * _PAIR + words[1:]


def bucket(hashes: Hashes, bits: int) -> NDArray[np.intp]:
    """Numbers below 2**bits. The upper bits are taken: only they depend on all of a hash."""
    return ((hashes * _MIX) >> np.uint64(64 - bits)).view(np.int64)


def word_hash(word: str) -> int:
    """The hash that `hashed` gives `word`, which must be one word."""
    (found,) = hashed(word).words
    return int(found)
