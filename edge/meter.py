"""Recent speed of the engine, as the router's estimates and `Retry-After` need it."""

from __future__ import annotations

__all__ = ["Meter"]

ANSWER_WEIGHT = 0.1
HALF_LIFE_S = 10.0  # of busy time: idle seconds do not age a measurement


class Meter:
    """Exponentially fading sums of tokens and of the time spent on them."""

    def __init__(self) -> None:
        self._prefill = [0.0, 0.0]
        self._decode = [0.0, 0.0]
        self.answer_tokens = 128.0  # of a usual answer; the first guess is as good as any

    def observe(self, *, prefill_tokens: int, decode_tokens: int, seconds: float) -> None:
        """One step. A mixed step's time counts in full for both: each is what its kind of work got for it."""
        fade = 0.5 ** (seconds / HALF_LIFE_S)
        for sums, tokens in ((self._prefill, prefill_tokens), (self._decode, decode_tokens)):
            if tokens:
                sums[0] = sums[0] * fade + tokens
                sums[1] = sums[1] * fade + seconds

    def answered(self, tokens: int) -> None:
        """An answer ended after `tokens`."""
        self.answer_tokens += ANSWER_WEIGHT * (tokens - self.answer_tokens)

    def guessed(self, tokens: int) -> None:
        """The last step gave so many more answer tokens than it had streams."""
        self._decode[0] += tokens

    @property
    def prefill_tokens_per_s(self) -> float:
        return _ratio(self._prefill)

    @property
    def decode_tokens_per_s(self) -> float:
        """Of all running sequences together."""
        return _ratio(self._decode)


def _ratio(sums: list[float]) -> float:
    return sums[0] / sums[1] if sums[1] > 0 else 0.0
