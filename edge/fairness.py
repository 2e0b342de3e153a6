"""Whose turn it is: a counter of service for each tenant, after the virtual token counter of Sheng et al., 2024
(arXiv 2401.00588): input tokens count 1, output tokens 2, the least served goes first."""

from __future__ import annotations

from collections import Counter

__all__ = ["Fairness"]

INPUT, OUTPUT = 1.0, 2.0
REMEMBERED = 1024  # tenants without work whose counter is kept


class Fairness:
    """`enter` when a tenant's request arrives, `leave` when it ends; between, `charge` what it gets."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._present: Counter[str] = Counter()

    def enter(self, tenant: str) -> None:
        """One who comes back begins level with the least served who are there: idle time is no credit."""
        if not self._present[tenant] and +self._present:
            least = min(self._served[t] for t in +self._present)
            self._served[tenant] = max(self._served.get(tenant, 0.0), least)
        self._served.setdefault(tenant, 0.0)
        self._present[tenant] += 1

    def leave(self, tenant: str) -> None:
        self._present[tenant] -= 1
        if self._present[tenant] <= 0:
            del self._present[tenant]
            if len(self._served) - len(self._present) > REMEMBERED:
                idle = (t for t in self._served if t not in self._present)
                del self._served[min(idle, key=self._served.__getitem__)]

    def charge(self, tenant: str, *, inputs: int = 0, outputs: int = 0, weight: float = 1.0) -> None:
        """Computed for `tenant`: `inputs` prompt tokens, `outputs` answer tokens."""
        self._served[tenant] += (INPUT * inputs + OUTPUT * outputs) / weight

    def served(self, tenant: str) -> float:
        return self._served.get(tenant, 0.0)

    @property
    def tenants(self) -> int:
        """How many have work here."""
        return len(self._present)
