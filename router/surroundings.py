"""What a decision looks at besides the request and the targets: this machine, the tenant's budget, the time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from foreshore.config import Config
from foreshore.router.budgets import Budgets
from foreshore.router.device import DeviceSampler, Host, cloud_hosts
from foreshore.router.facts import ANY_TIME, NO_BUDGET, ON_MAINS, BudgetFacts, ClockFacts, DeviceFacts
from foreshore.router.policy import Policy

__all__ = ["Scene", "Surroundings", "clock"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One moment of them, as one tenant's request finds it."""

    device: DeviceFacts = ON_MAINS
    budget: BudgetFacts = NO_BUDGET
    now: ClockFacts = ANY_TIME


class Surroundings:
    """Follows what the policy reads and nothing else. `scene` never waits: it takes what was sampled last."""

    def __init__(self, config: Config, ledger: Path) -> None:
        """`ledger` knows what was spent before. May wait half a second for it."""
        self._budgets = Budgets(config.budgets, ledger)
        self.sampler: DeviceSampler | None = None
        self._sampled: tuple[float, tuple[Host, ...]] | None = None  # how `_sampler` was made

    def follow(self, config: Config, policy: Policy) -> None:
        """From now on; a sampler that is already right goes on. May wait for the ledger, as above."""
        self._budgets.apply(config.budgets)
        wanted = (config.device.every_s, cloud_hosts(config)) if "device" in policy.parts else None
        if wanted == self._sampled:
            return
        self.stop()
        if wanted is not None:
            self._sampled, self.sampler = wanted, DeviceSampler(*wanted)
            self.sampler.start()

    def stop(self) -> None:
        sampler, self.sampler, self._sampled = self.sampler, None, None
        if sampler is not None:
            sampler.stop()

    def scene(self, tenant: str, policy: Policy) -> Scene:
        return Scene(
            device=ON_MAINS if self.sampler is None else self.sampler.now,
            budget=self._budgets.of(tenant) if "budget" in policy.parts else NO_BUDGET,
            now=clock() if "now" in policy.parts else ANY_TIME,
        )

    def spend(self, tenant: str, dollars: float) -> None:
        self._budgets.spend(tenant, dollars)


def clock(at: float | None = None) -> ClockFacts:
    """The local time at `at`, in seconds since 1970 (default: now)."""
    local = time.localtime(at)
    return ClockFacts(hour=local.tm_hour, minute=local.tm_min, weekday=local.tm_wday)
