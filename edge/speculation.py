"""Guesses the next tokens of a running answer, to be checked in one step. A wrong guess costs time, never quality:
only what the model itself draws is given out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from foreshore.edge.pacer import ALIGN, Pacer
from foreshore.edge.sequence import Sequence

__all__ = ["Drafter", "Lookup", "Speculator"]

NGRAM = 3
MAX_ROWS = 8  # tokens in a step with guesses; beyond, each costs as much as it can gain
WEIGHT = 0.1  # of the newest check in the measured acceptance
HOPE = 0.6  # the acceptance that a new answer begins with
RETRY = 64  # tokens after which an answer whose guesses failed is tried again


class Drafter(Protocol):
    """Where guesses come from."""

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, tuple[int, ...]]:
        """For each sequence up to so many tokens that may follow its last one; none for who has no guess."""

    def drop(self, sequence: Sequence) -> None:
        """It ended."""

    def close(self) -> None: ...


class Lookup:
    """Guesses that what followed the last three tokens before will follow again: quotes, code, tables, JSON."""

    def __init__(self) -> None:
        self._seen: dict[Sequence, tuple[int, dict[tuple[int, ...], int]]] = {}

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, tuple[int, ...]]:
        return {s: guess for s, count in wanted.items() if (guess := self._guess(s, count))}

    def drop(self, sequence: Sequence) -> None:
        self._seen.pop(sequence, None)

    def close(self) -> None:
        self._seen.clear()

    def _guess(self, sequence: Sequence, count: int) -> tuple[int, ...]:
        tokens = sequence.tokens
        known, places = self._seen.get(sequence, (0, {}))
        # The last n-gram itself is not entered, or it would find itself.
        for end in range(max(known, NGRAM), len(tokens)):
            places[tuple(tokens[end - NGRAM : end])] = end
        self._seen[sequence] = (len(tokens), places)
        place = places.get(tuple(tokens[-NGRAM:]))
        return () if place is None else tuple(tokens[place : place + count])


class Speculator:
    """Decides how many tokens to guess: as many as gain time by the measured step times and acceptance, else none."""

    def __init__(self, drafter: Drafter, pacer: Pacer) -> None:
        self.drafter, self._pacer = drafter, pacer
        self._acceptance: dict[Sequence, float] = {}
        self._resume: dict[Sequence, int] = {}  # tokens at which a sequence that was given up is tried again
        self._guess_s = 0.0  # what a guess costs before it is checked
        self.drafted = self.accepted = 0

    def prepare(self, streams: Iterable[Sequence]) -> None:
        """Set `draft` of those for which a guess is worth while."""
        able = [s for s in streams if s.left > 1 and s.generated >= self._resume.get(s, 0)]
        if not able:
            return
        rows = self._rows(able)
        spare = rows - len(able)
        wanted = {s: min(s.left - 1, spare // len(able) + (i < spare % len(able))) for i, s in enumerate(able)}
        wanted = {s: count for s, count in wanted.items() if count > 0}
        if not wanted:
            return
        begun = time.monotonic()
        for sequence, guess in self.drafter.propose(wanted).items():
            sequence.draft = guess
        self._guess_s += WEIGHT * ((time.monotonic() - begun) / sum(wanted.values()) - self._guess_s)

    def check(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """Of `drafted` tokens the model drew `accepted` too."""
        self.drafted += drafted
        self.accepted += accepted
        old = self._acceptance.get(sequence, HOPE)
        new = self._acceptance[sequence] = old + WEIGHT * (accepted / drafted - old)
        if self._rate([new], ALIGN) <= self._rate([], 1):
            self._resume[sequence] = sequence.generated + RETRY
            self._acceptance[sequence] = HOPE / 2

    def drop(self, sequence: Sequence) -> None:
        self._acceptance.pop(sequence, None)
        self._resume.pop(sequence, None)
        self.drafter.drop(sequence)

    def _rows(self, able: list[Sequence]) -> int:
        """The number of tokens in the next step that promises the most tokens a second."""
        hopes = [self._acceptance.get(s, HOPE) for s in able]
        choices = [len(able), *(n for n in range(ALIGN, MAX_ROWS + 1, ALIGN) if n > len(able))]
        return max(choices, key=lambda rows: self._rate(hopes, rows))

    def _rate(self, hopes: list[float], rows: int) -> float:
        """Tokens a second of a step of `rows`, with guesses shared out evenly; each is drawn if all before it were."""
        streams = max(1, len(hopes))
        guesses = (rows - streams) / streams
        expected = sum((1 - a ** (guesses + 1)) / (1 - a) if a < 1 else guesses + 1 for a in hopes) or 1.0
        seconds = (self._pacer.alone(rows) or 1.0) + self._guess_s * (rows - streams)
        return expected / seconds
