"""How long a target takes to its first token, as a sum of costs, and by how much that is off."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

from foreshore.router.latency.drift import Drift
from foreshore.router.latency.regression import Regression
from foreshore.router.latency.work import Speeds, Work

__all__ = ["FirstToken", "Spread"]

FIXED_TOKENS = 100  # prompt tokens that the constant part is worth, until it was learned
FIRST_SPREAD = 0.5
CROWDS = 4
LATELY = 7  # errors that tell how far everything moved


class Spread:
    """A running standard deviation of logarithms, robust: a stall counts as three deviations."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value

    def learn(self, error: float, weight: float = 0.05) -> None:
        size = min(1.2533 * abs(error), 3.0 * self.value)  # 1.2533: from a mean size to a normal's deviation
        self.value = min(2.0, max(0.02, self.value + weight * (size - self.value)))


class FirstToken:
    """Four sums of the same costs, for a request that has the target for itself, that comes beside running answers,
    that finds others waiting, or both: what a prompt token costs differs, and so do the errors. One that has learned
    nothing yet is the nearest that has. The costs, in the order of the weights:

    a constant (network, start of a step); this prompt's uncached tokens; prompt tokens before it; a step beside each
    running answer; a turn for each request that waits; prompt tokens that a fair scheduler lets go first, its own
    tenant's and of others' as many as those and its own; its own beside running answers; requests beyond the slots.
    """

    def __init__(self, speeds: Speeds) -> None:
        self.slots = 0  # requests that the target computes at a time; 0: unknown
        token = 1.0 / speeds.prefill_tokens_per_s if speeds.prefill_tokens_per_s > 0.0 else 1e-3
        step = 1.0 / speeds.decode_tokens_per_s if speeds.decode_tokens_per_s > 0.0 else 0.02
        base = 0.01 if speeds.prefill_tokens_per_s > 0.0 else 0.3
        costs = (base, token, 0.5 * token, step, step, 0.5 * token, token, 10 * step)
        deviations = (10 * base, 2 * token, token, step, 2 * step, 2 * token, 2 * token, 20 * step)
        self._begin(Regression(costs, deviations))

    def _begin(self, model: Regression) -> None:
        self._models = [model] * CROWDS
        self._learned: list[int] = []
        self._spreads = [Spread(FIRST_SPREAD) for _ in range(CROWDS)]
        self._drift = Drift()
        self._lately: deque[float] = deque(maxlen=LATELY)

    def begin_with(self, work: Work, ttft_s: float) -> None:
        """The first outcome is the only measure there is: a part of it is constant, the rest the prompt's."""
        token = ttft_s / (max(1, work.prompt_tokens - work.cached_tokens) + FIXED_TOKENS)
        base = FIXED_TOKENS * token
        costs = (base, token, 0.5 * token, 0.1 * base, 0.25 * base, 0.5 * token, 0.0, 0.25 * base)
        deviations = (base, 2 * token, token, base, 2 * base, 2 * token, token, 2 * base)
        self._begin(Regression(costs, deviations))

    def predict(self, work: Work) -> tuple[float, float]:
        """Seconds, and the standard deviation of their logarithm."""
        crowd = _crowd(work)
        seconds = self._models[crowd].predict(self._costs(work, work.prompt_tokens - work.cached_tokens))
        return seconds, self._spreads[crowd].value

    def learn(self, work: Work, ttft_s: float, *, error: float, fresh_tokens: int) -> bool:
        """`error` is the logarithm of the outcome over what was predicted. Whether the world has changed."""
        crowd = _crowd(work)
        self._spreads[crowd].learn(error)
        self._own(crowd)
        model = self._models[crowd]
        scale = model.scale
        residual = model.learn(self._costs(work, fresh_tokens), ttft_s)
        self._lately.append(residual)
        if not self._drift.learn(residual / scale):
            return False
        factor = math.exp(median(self._lately))
        for number in self._learned:
            self._models[number].change(factor)
        self._lately.clear()
        return True

    def _own(self, crowd: int) -> None:
        """A sum of its own from its first outcome on."""
        if crowd in self._learned:
            return
        self._models[crowd] = self._models[crowd].heir()
        self._learned.append(crowd)
        for other in set(range(CROWDS)) - set(self._learned):
            self._models[other] = self._models[min(self._learned, key=lambda n: abs(n - other))]

    def _costs(self, work: Work, fresh: int) -> tuple[float, ...]:
        fresh = fresh if fresh > 1 else 1
        ahead, others, running, waiting = work.waiting_tokens, work.rival_tokens, work.running, work.waiting
        own = ahead - others
        fair = own + min(others, own + fresh)
        beyond = running + waiting + 1 - self.slots if self.slots else 0
        return (
            1.0, fresh, ahead, running, waiting, fair, fresh * running / (running + 2.0), beyond if beyond > 0 else 0.0,
        )  # fmt: skip


def _crowd(work: Work) -> int:
    """0: it has the target for itself; 1: others generate; 2: others wait; 3: both."""
    return (2 if work.waiting else 0) + (1 if work.running else 0)
