"""The random numbers that llama.cpp's `dist` sampler draws, from the same seed."""

from __future__ import annotations

import random

import numpy as np

__all__ = ["Uniform"]


class Uniform:
    """C++'s `uniform_real_distribution<double>(0, 1)` over `mt19937(seed)`, as libstdc++ and libc++ have it.

    Both seed the generator by Knuth's recurrence, which is numpy's legacy seeding and not Python's own; Python's
    generator runs from that state. A number is made of two words, the lower first.
    """

    def __init__(self, seed: int) -> None:
        words = np.random.RandomState(seed).get_state(legacy=False)["state"]["key"]
        self._twister = random.Random()
        self._twister.setstate((3, (*words.tolist(), len(words)), None))

    def draw(self) -> float:
        """The next number, at least 0 and below 1."""
        return min(self._twister.getrandbits(64) / 2**64, 1 - 2**-53)
