"""How a benchmark's requests arrive: so many at a time, or at a rate of their own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from foreshore.cli.shot import Shot

__all__ = ["closed_loop", "open_loop"]

Shoot = Callable[[float | None], Awaitable[Shot]]


async def closed_loop(shoot: Shoot, requests: int, streams: int) -> list[Shot]:
    """`requests` in all, `streams` of them at any time: one begins when another has ended."""
    left = iter(range(requests))

    async def one_after_the_other() -> list[Shot]:
        return [await shoot(None) for _ in left]

    async with asyncio.TaskGroup() as group:
        lanes = [group.create_task(one_after_the_other()) for _ in range(min(streams, requests))]
    return [shot for lane in lanes for shot in lane.result()]


async def open_loop(shoot: Shoot, requests: int, rate: float, seed: int) -> list[Shot]:
    """A Poisson process of `rate` requests per second, the same for the same `seed`, whatever the server does.

    Each request is measured from the moment it was due: a server that stalls cannot hide it by holding later ones up
    (coordinated omission).
    """
    draws = random.Random(seed)
    due = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for _ in range(requests):
            due += draws.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(group.create_task(_shoot(shoot, due)))
    return [task.result() for task in tasks]


async def _shoot(shoot: Shoot, due: float) -> Shot:
    return await shoot(due)
