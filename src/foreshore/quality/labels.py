"""What an estimator learns from: of a prompt and a target, whether the target's answer was right."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import isfinite

from foreshore.errors import UsageError

__all__ = ["HOLDOUT", "Label", "held_out", "of_preference"]

HOLDOUT = 0.1  # share of the prompts
LONGEST_NAME = 200  # characters
HEAVIEST = 1e6


@dataclass(frozen=True, slots=True)
class Label:
    """`target` is a target of the config, or a variant's NAME:VARIANT. `weight` is how often the row counts: one over
    the propensity where chance had a part in who answered. `influenced`: the router's own choice decided that this row
    exists at all, or a model judged it. `answer` is what the first target said, for estimators that read answers.

    Raises `UsageError` for what cannot be learnt from.
    """

    prompt: str
    target: str
    correct: bool
    weight: float = 1.0
    influenced: bool = False
    answer: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise UsageError(f"the prompt must be a text that is not empty, not {_short(self.prompt)}")
        if not isinstance(self.target, str) or not 0 < len(self.target) <= LONGEST_NAME:
            hint = f"a target of your config or NAME:VARIANT, at most {LONGEST_NAME} characters"
            raise UsageError(f"{_short(self.target)} is no target", hint=hint)
        if not isinstance(self.correct, bool):
            raise UsageError(f"'correct' must be true or false, not {_short(self.correct)}")
        number = isinstance(self.weight, int | float) and not isinstance(self.weight, bool)
        if not number or not isfinite(self.weight) or not 0 < self.weight <= HEAVIEST:
            raise UsageError(f"the weight must be a number above 0 and at most {HEAVIEST:g}, not {_short(self.weight)}")
        if not isinstance(self.influenced, bool):
            raise UsageError(f"'influenced' must be true or false, not {_short(self.influenced)}")
        if self.answer is not None and not isinstance(self.answer, str):
            raise UsageError(f"the answer must be a text, not {_short(self.answer)}")


def of_preference(prompt: str, winner: str, loser: str, weight: float = 1.0, influenced: bool = False) -> list[Label]:
    """The two labels of a comparison: the winner's answer was acceptable, the loser's not."""
    if winner == loser:
        raise UsageError(f"{_short(winner)} is compared with itself", hint="name two targets")
    return [Label(prompt, winner, True, weight, influenced), Label(prompt, loser, False, weight, influenced)]


def held_out(prompt: str, share: float = HOLDOUT) -> bool:
    """Whether `prompt` is never learnt from. It hangs on the words alone, so that a prompt asked twice, or with other
    spaces and capitals, is on the same side, today and tomorrow."""
    return fraction(prompt) < share


def fraction(prompt: str) -> float:
    """The same number from 0 to 1 for the same words, spread evenly over prompts."""
    words = " ".join(prompt.casefold().split()).encode("utf-8", "replace")
    return int.from_bytes(hashlib.sha256(words).digest()[:8]) / 2**64


def split(labels: Iterable[Label], share: float = HOLDOUT) -> tuple[list[Label], list[Label]]:
    """What to learn from, and what is held out."""
    learnt: list[Label] = []
    held: list[Label] = []
    for label in labels:
        (held if held_out(label.prompt, share) else learnt).append(label)
    return learnt, held


def targets(labels: Iterable[Label]) -> Iterator[str]:
    """In the order they first appear."""
    yield from dict.fromkeys(label.target for label in labels)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
