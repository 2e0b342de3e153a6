"""What a target has shown so far: exponentially weighted means of its TTFT, decode rate and answer length."""

from __future__ import annotations

from dataclasses import dataclass

from foreshore.types import Timings, Usage

__all__ = ["Meter"]

WEIGHT = 0.2  # of the newest answer: about the last ten matter


@dataclass(slots=True, kw_only=True)
class Meter:
    """0 means: nothing measured yet."""

    first_token_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    answer_tokens: float = 0.0

    def record(self, timings: Timings, usage: Usage | None) -> None:
        self.first_token_s = _mean(self.first_token_s, timings.ttft_s)
        self.decode_tokens_per_s = _mean(self.decode_tokens_per_s, timings.decode_tokens_per_s)
        if usage is not None:
            self.answer_tokens = _mean(self.answer_tokens, float(usage.completion_tokens))


def _mean(old: float, new: float) -> float:
    if new <= 0:
        return old
    return new if old == 0 else old + WEIGHT * (new - old)
