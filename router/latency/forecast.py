"""When a target's first token and its whole answer will be there: distributions, learned from every answer."""

from __future__ import annotations

import math

from foreshore.router.latency.answer_length import AnswerLengths
from foreshore.router.latency.first_token import FirstToken
from foreshore.router.latency.kinds import Kinds
from foreshore.router.latency.prompt_tokens import PromptTokens
from foreshore.router.latency.quantiles import Distribution, Quantiles
from foreshore.router.latency.regression import Regression
from foreshore.router.latency.work import Speeds, Work

__all__ = ["Forecast", "Forecaster", "Speeds", "Work"]

FIRST_STEP_S = 0.02  # of an answer's token, until one was seen
SHORTEST_S = 1e-6  # what claims to have been faster counts as this
LONGEST_S = 1e6  # what claims to have taken longer is no measurement


class Forecast:
    """Of one request at one target. `ttft_s` and `total_s` are medians, `..._p90_s` 90th percentiles, seconds."""

    __slots__ = ("answer_tokens", "total", "ttft")

    def __init__(self, ttft: Distribution, total: Distribution, answer_tokens: float) -> None:
        self.ttft, self.total = ttft, total
        self.answer_tokens = answer_tokens  # mean

    @property
    def ttft_s(self) -> float:
        return self.ttft.median

    @property
    def total_s(self) -> float:
        return self.total.median

    @property
    def ttft_p90_s(self) -> float:
        return self.ttft.p90

    @property
    def p90_s(self) -> float:
        return self.total.p90

    def within(self, seconds: float) -> float:
        """The probability that the whole answer is there in `seconds`."""
        return self.total.within(seconds)


class Forecaster:
    """Learns from each whole answer, and predicts in a few microseconds. Its memory does not grow.

    The time to the first token is a sum of costs (`FirstToken`) times what the request's kind adds (`Kinds`); the whole
    time adds answer tokens, each dearer the more answers run. The costs are learned, begin at `speeds`, and are moved
    together once errors show a drift. Around both stand distributions whose spread grows with what is not known of the
    answer's length, and whose quantiles are held to their promise (`Quantiles`).
    """

    def __init__(self, speeds: Speeds | None = None, *, slots: int = 0) -> None:
        self.outcomes = 0
        self.lengths = AnswerLengths()
        self.prompts = PromptTokens()
        self._kinds = Kinds()
        self._ttft_quantiles, self._total_quantiles = Quantiles(), Quantiles()
        self._begin(speeds or Speeds(), slots)

    def _begin(self, speeds: Speeds, slots: int) -> None:
        self._first = FirstToken(speeds)
        self.slots = slots
        self._decode = _decode(1.0 / speeds.decode_tokens_per_s) if speeds.decode_tokens_per_s > 0.0 else None
        self._load_s = speeds.load_s
        self._measured = speeds.prefill_tokens_per_s > 0.0

    @property
    def slots(self) -> int:
        """Requests that the target computes at a time; 0: unknown."""
        return self._first.slots

    @slots.setter
    def slots(self, slots: int) -> None:
        self._first.slots = slots

    @property
    def known(self) -> bool:
        """Whether anything was measured, before or since. Until then predictions are mere guesses."""
        return self._measured or self.outcomes > 0

    def tell(self, speeds: Speeds) -> None:
        """What was measured elsewhere meanwhile; it counts only while nothing else is known."""
        if not self.known:
            self._begin(speeds, self.slots)

    def predict(self, work: Work) -> Forecast:
        ttft_s, ttft_spread = self._first.predict(work)
        ttft_s *= self._kinds.factor(work.route, work.tenant)
        if not work.loaded:
            ttft_s += self._load_s
        length = self.lengths.expect(work.route, work.tenant, work.max_tokens)
        total_s, spread = ttft_s, ttft_spread
        if length.median > 1.0:
            decode = self._decode or _UNKNOWN
            decode_s = decode.predict(_decode_costs(work, length.median))
            total_s += decode_s
            share = decode_s / total_s
            spread = math.sqrt(
                ((1.0 - share) * ttft_spread) ** 2 + share * share * (decode.scale**2 + length.spread**2)
            )
        return Forecast(
            Distribution(math.log(ttft_s), ttft_spread, self._ttft_quantiles.values),
            Distribution(math.log(total_s), spread, self._total_quantiles.values),
            length.mean,
        )

    def learn(
        self,
        work: Work,
        *,
        ttft_s: float,
        total_s: float,
        output_tokens: int,
        fresh_tokens: int | None = None,
        cut: bool = False,
    ) -> None:
        """A whole answer came. `fresh_tokens` of its prompt were computed, where the backend says so; `cut`: it ended
        at the caller's limit. Times that are no positive finite numbers, as of a clock that jumped, are ignored.
        """
        if not (0.0 < ttft_s < LONGEST_S and 0.0 < total_s < LONGEST_S):
            return
        ttft_s = max(ttft_s, SHORTEST_S)
        total_s = max(total_s, ttft_s)
        forecast = self.predict(work)
        self.lengths.learn(work.route, work.tenant, output_tokens, cut=cut)
        if not work.loaded:
            self._load_s += 0.5 * (max(0.0, ttft_s - forecast.ttft_s + self._load_s) - self._load_s)
            return
        error = forecast.ttft.error(ttft_s)
        if self.known:
            self._kinds.learn(work.route, work.tenant, error + math.log(self._kinds.factor(work.route, work.tenant)))
        else:
            self._first.begin_with(work, ttft_s)
        self.outcomes += 1
        self._ttft_quantiles.learn(forecast.ttft.place(ttft_s))
        self._total_quantiles.learn(forecast.total.place(total_s))
        if output_tokens > 1 and total_s > ttft_s:
            self._decode = self._decode or _decode((total_s - ttft_s) / (output_tokens - 1))
            self._decode.learn(_decode_costs(work, output_tokens), total_s - ttft_s)
        fresh = work.prompt_tokens - work.cached_tokens if fresh_tokens is None else fresh_tokens
        if self._first.learn(work, ttft_s, error=error, fresh_tokens=fresh):
            self._ttft_quantiles.hurry()
            self._total_quantiles.hurry()


def _decode(step_s: float) -> Regression:
    """Of the time after the first token, where a lone answer's token takes about `step_s`."""
    return Regression([step_s, 0.1 * step_s, 0.0], [step_s, 0.5 * step_s, 2 * step_s])


def _decode_costs(work: Work, tokens: float) -> tuple[float, float, float]:
    """The features of the time from the first token to the last."""
    return (tokens - 1.0, (tokens - 1.0) * (work.running + work.waiting), 1.0)


_UNKNOWN = _decode(FIRST_STEP_S)
