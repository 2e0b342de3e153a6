"""Prompts whose difficulty is known: so that what is learnt of them can be held against the truth."""

from __future__ import annotations

import numpy as np

from foreshore.quality import Label

EASY = "colour animal holiday breakfast garden letter music river friend window".split()
HARD = "integral eigenvalue theorem entropy syllogism covariance isotope statute genome polymer".split()
FILLER = "the of a please tell me about what is and how does it relate to".split()


def prompts(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts, and how probable it is that the weak target is right: the rarer, the more hard words there are."""
    rng = np.random.default_rng(seed)
    texts, shares = [], []
    for i in range(count):
        hard = int(rng.integers(0, 5))
        words = [*rng.choice(HARD, hard), *rng.choice(EASY, 4 - hard), *rng.choice(FILLER, 8)]
        rng.shuffle(words)
        texts.append(f"{' '.join(words)} {i}?")
        shares.append(0.9 - 0.18 * hard)
    return texts, np.array(shares)


def labels(count: int, seed: int, *, weight: float = 1.0) -> list[Label]:
    """Of `weak`, right as often as `prompts` says, and `strong`, right in nine of ten."""
    texts, shares = prompts(count, seed)
    rng = np.random.default_rng([seed, 1])
    found = []
    for text, share in zip(texts, shares, strict=True):
        found.append(Label(text, "weak", bool(rng.random() < share), weight))
        found.append(Label(text, "strong", bool(rng.random() < 0.9), weight))
    return found
