"""What the encoder makes of requests while the gateway runs: in time, remembered for a while, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foreshore.errors import DeadlineExceeded, ForeshoreError
from foreshore.quality.encoder import embed
from foreshore.router.breaker import Breaker
from foreshore.router.facts import RequestFacts
from foreshore.router.target import Target
from foreshore.telemetry import logger

__all__ = ["Encoder", "Outcome"]

KEPT = 512  # vectors, of 1.5 kB each where they have 384 numbers

Outcome = Literal["embedded", "cached", "late", "failed", "resting"]
Vector = NDArray[np.float32]


class Encoder:
    """Never keeps a request longer than `timeout` seconds, nor than half of the time that it has; after three failures
    in a row it rests for a while, as a target does. `count` is told each outcome."""

    def __init__(self, target: Target, dimension: int, *, timeout: float, count: Callable[[Outcome], None]) -> None:
        self.name = target.name
        self._target, self._dimension, self._timeout, self._count = target, dimension, timeout, count
        self._breaker = Breaker()
        self._kept: OrderedDict[bytes, Vector] = OrderedDict()
        self._well = True

    async def see(self, facts: RequestFacts) -> tuple[Vector | None, str]:
        """The vector of the text, or None and why there is none."""
        key = _key(facts)
        if key in self._kept:
            self._kept.move_to_end(key)
            self._count("cached")
            return self._kept[key], ""
        if 0 < facts.deadline_s < 2 * self._timeout:  # no fault of the encoder's
            self._count("late")
            return None, f"the request has {facts.deadline_s:.3g} s, too few to wait for it"
        if not self._breaker.admit():
            self._count("resting")
            return None, "it failed or was late again and again, and rests"
        try:
            vector = await self._ask(facts)
        except (TimeoutError, DeadlineExceeded):
            return self._missed("late", f"it took longer than {self._timeout:g} s")
        except ForeshoreError as error:
            return self._missed("failed", error.message)
        except BaseException:
            self._breaker.release()
            raise
        return self._found(key, vector)

    async def _ask(self, facts: RequestFacts) -> Vector:
        deadline = time.monotonic() + self._timeout
        async with asyncio.timeout(self._timeout):
            found = await embed(self._target, [facts.text], tenant=facts.tenant, deadline=deadline)
        return np.asarray(found[0])

    def _found(self, key: bytes, vector: Vector) -> tuple[Vector | None, str]:
        if len(vector) != self._dimension:
            return self._missed("failed", f"it made {len(vector)} numbers, not {self._dimension}")
        self._breaker.succeed()
        self._well = True
        self._kept[key] = vector
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        self._count("embedded")
        return vector, ""

    def _missed(self, outcome: Outcome, why: str) -> tuple[None, str]:
        self._breaker.fail()
        self._count(outcome)
        if self._well:  # once, until it answers again: the metric has the number
            logger.warning("quality is judged without encoder %r: %s", self.name, why)
        self._well = False
        return None, why


def _key(facts: RequestFacts) -> bytes:
    """No content is kept, and no tenant can tell by the time taken what another has asked."""
    text = f"{facts.tenant}\n{facts.text}".encode("utf-8", "replace")
    return hashlib.sha256(text).digest()
