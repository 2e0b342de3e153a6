"""What a target has shown so far: plain means for rules to look at, and the forecaster that learns from each answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from foreshore.router.latency.forecast import Forecaster, Work
from foreshore.types import Timings, Usage

__all__ = ["Meter"]

WEIGHT = 0.2  # of the newest answer: about the last ten matter


@dataclass(slots=True, kw_only=True)
class Meter:
    """0 means: nothing measured yet."""

    first_token_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    answer_tokens: float = 0.0
    forecaster: Forecaster = field(default_factory=Forecaster)

    def record(self, timings: Timings, usage: Usage | None) -> None:
        """Of a whole answer, as its backend timed it."""
        self.first_token_s = _mean(self.first_token_s, timings.ttft_s)
        self.decode_tokens_per_s = _mean(self.decode_tokens_per_s, timings.decode_tokens_per_s)
        if usage is not None:
            self.answer_tokens = _mean(self.answer_tokens, float(usage.completion_tokens))

    def learn(
        self, work: Work, estimate: int, usage: Usage | None, *, ttft_s: float, total_s: float, cut: bool
    ) -> None:
        """Of the same answer, from when it was asked for, waiting included. `estimate` is what its prompt was taken
        for; `cut`: its limit ended it."""
        fresh = None
        if usage is not None and usage.prompt_tokens > 0:
            fresh = max(0, usage.prompt_tokens - usage.cached_tokens)
            self.forecaster.prompts.learn(work.route, work.tenant, estimate, usage.prompt_tokens, usage.cached_tokens)
        self.forecaster.learn(
            work,
            ttft_s=ttft_s,
            total_s=total_s,
            output_tokens=max(1, usage.completion_tokens) if usage else 0,  # a vector is there at once
            fresh_tokens=fresh,
            cut=cut,
        )


def _mean(old: float, new: float) -> float:
    if not 0 < new < float("inf"):
        return old
    return new if old == 0 else old + WEIGHT * (new - old)
