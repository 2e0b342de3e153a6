"""What one kind of request takes longer, or less long, than its tokens explain."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foreshore.router.recent import Recent

__all__ = ["Kinds"]

BORROWED = 10.0  # outcomes that no difference counts for
MEMORY = 40.0  # outcomes that matter
MOST = 1.0  # of one outcome, as a logarithm: a stall is no kind


@dataclass(slots=True)
class _Cell:
    count: float = 0.0
    log: float = 0.0  # mean logarithm of outcome / what its costs come to
    factor: float = 1.0

    def learn(self, log: float) -> None:
        self.count = min(MEMORY, self.count + 1.0)
        self.log += (max(-MOST, min(MOST, log)) - self.log) / self.count
        self.factor = math.exp(self.log * self.count / (self.count + BORROWED))


class Kinds:
    """By route and tenant, shrunk towards 1: an answer that begins with a tool call shows nothing before the call is
    written, and a model that thinks first on one kind of prompt answers at once on another."""

    def __init__(self) -> None:
        self._cells: Recent[_Cell] = Recent(_Cell)

    def factor(self, route: str, tenant: str) -> float:
        found = self._cells.get(route, tenant)
        return 1.0 if found is None else found.factor

    def learn(self, route: str, tenant: str, log: float) -> None:
        """`log`: the logarithm of an outcome over what its costs alone came to."""
        self._cells.use(route, tenant).learn(log)
