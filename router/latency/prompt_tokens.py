"""What an estimated prompt comes to: tokens of the target's own, and how many of them need not be computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foreshore.router.recent import Recent

__all__ = ["PromptTokens"]

BORROWED = 2.0  # outcomes that the target's mean counts for in a (route, tenant)
MEMORY = 20.0  # outcomes that matter
MOST_RATIO = math.log(20.0)  # an estimate is not further off; what says so counted something else


@dataclass(slots=True)
class _Cell:
    count: float = 0.0
    ratio: float = 0.0  # logarithm of tokens / estimate
    cached: float = 0.0  # share of the tokens

    def learn(self, ratio: float, cached: float) -> None:
        self.count = min(MEMORY, self.count + 1.0)
        self.ratio += (ratio - self.ratio) / self.count
        self.cached += (cached - self.cached) / self.count


class PromptTokens:
    """By route and tenant: words, numbers and code make different numbers of tokens of as many characters, and some
    tenants' prompts begin alike. A backend cannot be asked beforehand: its cache is in another process, or elsewhere.
    """

    def __init__(self) -> None:
        self._all = _Cell()
        self._cells: Recent[_Cell] = Recent(_Cell)

    def expect(self, route: str, tenant: str, estimate: int) -> tuple[int, int]:
        """Tokens, and how many of them will be cached."""
        ratio, own = self._all.ratio, self._cells.get(route, tenant)
        if own is None:
            return round(estimate * math.exp(ratio)), 0
        ratio += (own.ratio - ratio) * own.count / (own.count + BORROWED)
        tokens = estimate * math.exp(ratio)
        return round(tokens), int(tokens * own.cached * own.count / (own.count + 1.0))

    def learn(self, route: str, tenant: str, estimate: int, tokens: int, cached: int) -> None:
        """Of a whole answer. What is no number of tokens is not learned."""
        if estimate < 1 or tokens < 1:
            return
        ratio = max(-MOST_RATIO, min(MOST_RATIO, math.log(tokens / estimate)))
        share = min(1.0, max(0.0, cached / tokens))
        for cell in (self._all, self._cells.use(route, tenant)):
            cell.learn(ratio, share)
