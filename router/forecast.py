"""When a target's first token and its whole answer will be there: distributions, learned from every answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from foreshore.router.answer_length import AnswerLengths, CachedShares
from foreshore.router.drift import Drift
from foreshore.router.quantiles import Distribution, Quantiles
from foreshore.router.regression import Regression

__all__ = ["Forecast", "Forecaster", "Speeds", "Work"]

FIXED_TOKENS = 100  # prompt tokens that the constant part of a TTFT is worth, until it was learned
FIRST_STEP_S = 0.02  # of an answer's token, until one was seen
LONGEST_S = 1e6  # what claims to have taken longer is no measurement


class Work(NamedTuple):
    """What one request asks of a target and what it finds there. Token counts may be estimates.

    A tuple, for one is made for each target of each decision, and a frozen dataclass takes three times as long.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of them, that need not be computed
    waiting_tokens: int = 0  # prompt tokens of those before it that are yet to be computed
    running: int = 0  # requests that generate
    waiting: int = 0  # requests without a first token yet
    max_tokens: int = 0  # 0: the caller set none
    route: str = ""  # what requests of one kind have in common: a rule's name, say
    tenant: str = ""
    loaded: bool = True  # False: a model must be loaded first


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Measured before the first request, of one stream; 0 is unknown."""

    prefill_tokens_per_s: float = 0.0
    decode_tokens_per_s: float = 0.0
    load_s: float = 0.0


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


class _Spread:
    """A running standard deviation of logarithms, robust: a stall counts as three deviations."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value

    def learn(self, residual: float, weight: float = 0.05) -> None:
        size = min(1.2533 * abs(residual), 3.0 * self.value)
        self.value = min(2.0, max(0.02, self.value + weight * (size - self.value)))


class Forecaster:
    """Learns from each whole answer, and predicts in a few microseconds. Its memory does not grow.

    TTFT is a sum of costs: a constant, this prompt's uncached tokens, those of prompts before it, a step beside each
    running answer, a turn for each request that waits, prompt tokens that must share steps with running answers, and
    requests beyond the target's slots. The whole time adds answer tokens, each dearer the more answers run. The costs
    are learned (`Regression`), begin at `speeds`, and are believed less again once errors show a drift. Around both
    stand distributions whose spread grows with the uncertainty of the answer's length, and whose quantiles are held to
    their promise (`Quantiles`).
    """

    def __init__(self, speeds: Speeds | None = None, *, slots: int = 0) -> None:
        self._decode: Regression | None
        self.slots = slots  # requests that the target computes at a time; 0: unknown
        self.outcomes = 0
        self.lengths = AnswerLengths()
        self.shares = CachedShares()
        self._load_s = 0.0
        self._ttft_spreads = [_Spread(0.5) for _ in range(3)]  # by what is there already: see `_crowd`
        self._ttft_quantiles, self._total_quantiles = Quantiles(), Quantiles()
        self._drift = Drift()
        self._begin(speeds or Speeds())

    @property
    def known(self) -> bool:
        """Whether anything was measured, before or since. Until then predictions are mere guesses."""
        return self._measured or self.outcomes > 0

    def tell(self, speeds: Speeds) -> None:
        """What was measured elsewhere meanwhile; it counts only while nothing else is known."""
        if not self.known:
            self._begin(speeds)

    def predict(self, work: Work) -> Forecast:
        ttft_s = self._ttft.predict(self._costs(work))
        if not work.loaded:
            ttft_s += self._load_s
        ttft_spread = self._ttft_spreads[_crowd(work)].value
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
        cached_share: float | None = None,
        cut: bool = False,
    ) -> None:
        """A whole answer came. `cached_share` of its prompt was not computed, where the backend says so; `cut`: it
        ended at the caller's limit. Times that are no positive finite numbers, as of a clock that jumped, are ignored.
        """
        if not (0.0 < ttft_s < LONGEST_S and 0.0 < total_s < LONGEST_S):
            return
        total_s = max(total_s, ttft_s)
        forecast = self.predict(work)
        self.lengths.learn(work.route, work.tenant, output_tokens, cut=cut)
        if cached_share is not None:
            self.shares.learn(work.route, work.tenant, cached_share)
        if not work.loaded:
            self._load_s += 0.5 * (max(0.0, ttft_s - forecast.ttft_s + self._load_s) - self._load_s)
            return
        if not self.known:
            self._begin_with(work, ttft_s)
        self.outcomes += 1
        self._ttft_quantiles.learn(forecast.ttft.place(ttft_s))
        self._total_quantiles.learn(forecast.total.place(total_s))
        scale = self._ttft.scale
        residual = self._ttft.learn(self._costs(work, cached_share), ttft_s)
        self._ttft_spreads[_crowd(work)].learn(forecast.ttft.error(ttft_s))
        if output_tokens > 1 and total_s > ttft_s:
            self._decode = self._decode or _decode((total_s - ttft_s) / (output_tokens - 1))
            self._decode.learn(_decode_costs(work, output_tokens), total_s - ttft_s)
        if self._drift.learn(residual / scale):
            self._changed()

    def _begin(self, speeds: Speeds) -> None:
        """Costs before anything was learned: those measured, else round numbers."""
        self._measured = speeds.prefill_tokens_per_s > 0.0
        token = 1.0 / speeds.prefill_tokens_per_s if self._measured else 1e-3
        decodes = speeds.decode_tokens_per_s > 0.0
        step = 1.0 / speeds.decode_tokens_per_s if decodes else FIRST_STEP_S
        base = 0.01 if self._measured else 0.3
        costs = [base, token, token, step, step, token, 10 * step]
        self._ttft = Regression(costs, [10 * base, 2 * token, 2 * token, step, 2 * step, 2 * token, 20 * step])
        self._decode = _decode(step) if decodes else None
        self._load_s = speeds.load_s

    def _begin_with(self, work: Work, ttft_s: float) -> None:
        """The first outcome is the only measure there is: a part of it is constant, the rest the prompt's."""
        fresh = max(1.0, work.prompt_tokens - work.cached_tokens)
        token = ttft_s / (fresh + FIXED_TOKENS)
        base = FIXED_TOKENS * token
        costs = [base, token, token, base / 10, base / 4, 0.0, base / 4]
        self._ttft = Regression(costs, [base, 2 * token, 2 * token, base, 2 * base, token, 2 * base])

    def _changed(self) -> None:
        self._ttft.change()
        self._ttft_quantiles.hurry()
        self._total_quantiles.hurry()

    def _costs(self, work: Work, cached_share: float | None = None) -> tuple[float, ...]:
        """The features of TTFT, in the order of its weights."""
        if cached_share is None:
            fresh: float = work.prompt_tokens - work.cached_tokens
        else:
            fresh = work.prompt_tokens * (1.0 - cached_share)
        if fresh < 1.0:
            fresh = 1.0
        ahead, running, waiting = work.waiting_tokens, work.running, work.waiting
        beyond = running + waiting + 1 - self.slots if self.slots else 0
        shared = (fresh + ahead) * running / (running + 2.0)
        return (1.0, fresh, ahead, running, waiting, shared, beyond if beyond > 0 else 0.0)


def _decode(step_s: float) -> Regression:
    """Of the time after the first token, where a lone answer's token takes about `step_s`."""
    return Regression([step_s, 0.1 * step_s, 0.0], [step_s, 0.5 * step_s, 2 * step_s])


def _crowd(work: Work) -> int:
    """0: it has the target for itself; 1: others generate; 2: others wait too. Each errs by its own measure."""
    return 2 if work.waiting else 1 if work.running else 0


def _decode_costs(work: Work, tokens: float) -> tuple[float, float, float]:
    """The features of the time from the first token to the last."""
    return (tokens - 1.0, (tokens - 1.0) * (work.running + work.waiting), 1.0)


_UNKNOWN = _decode(FIRST_STEP_S)
