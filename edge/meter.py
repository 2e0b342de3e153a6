"""Recent speed of the engine, as the router's estimates and `Retry-After` need it."""

from __future__ import annotations

__all__ = ["Meter"]

HALF_LIFE_S = 10.0  # of busy time: idle seconds do not age a measurement


class Meter:
    """Exponentially fading sums of tokens and of the time spent on them."""

    def __init__(self) -> None:
        self._prefill = [0.0, 0.0]
        self._decode = [0.0, 0.0]

    def observe(self, *, prefill_tokens: int, decode_tokens: int, seconds: float) -> None:
        """One step. A mixed step's time counts in full for both: each is what its kind of work got for it."""
        fade = 0.5 ** (seconds / HALF_LIFE_S)
        for sums, tokens in ((self._prefill, prefill_tokens), (self._decode, decode_tokens)):
            if tokens:
                sums[0] = sums[0] * fade + tokens
                sums[1] = sums[1] * fade + seconds

    @property
    def prefill_tokens_per_s(self) -> float:
        return _ratio(self._prefill)

    @property
    def decode_tokens_per_s(self) -> float:
        """Of all running sequences together."""
        return _ratio(self._decode)


def _ratio(sums: list[float]) -> float:
    return sums[0] / sums[1] if sums[1] > 0 else 0.0
