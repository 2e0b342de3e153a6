"""A mixed load for the latency benchmark: short questions and long texts, alone, side by side, and in bursts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from foreshore.starter.tasks import HELD_OUT, TASKS, example, levels
from foreshore.types import Message, Request, Sampling

__all__ = ["PHASES", "TARGETS", "Piece", "Send", "play"]

TARGETS = {"edge": 3, "cloud": 2}  # and how often a phase is theirs
LONGEST = 1600  # characters of a prompt: the starters' context holds 1,024 tokens
SYSTEM = "You help the people of a harbour town. " * 8
PACED = 8  # requests that show how long one takes alone
ALONE, LANES, EACH, ARRIVALS, BURSTS, BURST = 20, (3, 8), 4, 40, 4, (4, 12)
BUSY = 0.8  # of the time that a request takes alone, between two open arrivals on average
WORDS = "harbour boats nets salt wind tide ropes sails fish gulls light pier storm crew maps cargo tea lamps".split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One request of the load."""

    phase: str
    target: str
    tenant: str
    request: Request


Send = Callable[[Piece], Awaitable[float]]  # how long it took, seconds


async def play(send: Send, *, seed: int, rounds: int) -> None:
    """`rounds` times all phases, in an order of chance, each on one target: the stand-in cloud shares this machine's
    cores, as no cloud would. Equal seeds make equal requests; when they arrive depends on the targets' pace."""
    draws = random.Random(seed)
    paces = {name: await _pace(send, name, draws) for name in TARGETS}
    for _ in range(rounds):
        for phase in draws.sample(sorted(PHASES), len(PHASES)):
            (target,) = draws.choices(list(TARGETS), list(TARGETS.values()))
            await PHASES[phase](send, _pieces(phase, target, draws), draws, paces[target])


async def _pace(send: Send, target: str, draws: random.Random) -> float:
    supply = _pieces("alone", target, draws)
    return sum([await send(next(supply)) for _ in range(PACED)]) / PACED * BUSY


async def _alone(send: Send, supply: Iterator[Piece], draws: random.Random, pace_s: float) -> None:
    for _ in range(ALONE):
        await send(next(supply))


async def _side_by_side(send: Send, supply: Iterator[Piece], draws: random.Random, pace_s: float) -> None:
    for lanes in LANES:
        pieces = iter([next(supply) for _ in range(lanes * EACH)])

        async def lane(pieces: Iterator[Piece] = pieces) -> None:
            for piece in pieces:
                await send(piece)

        await asyncio.gather(*(lane() for _ in range(lanes)))


async def _open(send: Send, supply: Iterator[Piece], draws: random.Random, pace_s: float) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(ARRIVALS):
            group.create_task(_sent(send, next(supply)))
            await asyncio.sleep(draws.expovariate(1.0) * pace_s)


async def _bursts(send: Send, supply: Iterator[Piece], draws: random.Random, pace_s: float) -> None:
    for _ in range(BURSTS):
        await asyncio.gather(*(send(next(supply)) for _ in range(draws.randint(*BURST))))
        await asyncio.sleep(pace_s)


Phase = Callable[[Send, Iterator[Piece], random.Random, float], Awaitable[None]]
PHASES: dict[str, Phase] = {"alone": _alone, "side by side": _side_by_side, "open": _open, "bursts": _bursts}


async def _sent(send: Send, piece: Piece) -> None:
    await send(piece)


def _pieces(phase: str, target: str, draws: random.Random) -> Iterator[Piece]:
    """Without end: short questions (`desk`), long texts (`archive`), talks behind one system prompt (`guide`)."""
    kinds = [(task, level) for task in TASKS for level in levels(task)]
    while True:
        task, level = draws.choice(kinds)
        found = example(task, level, HELD_OUT + draws.randrange(1 << 30))
        tenant = draws.choices(("desk", "archive", "guide"), (5, 3, 2))[0]
        messages = found.messages
        if tenant == "archive":
            messages = _long(messages, draws)
        elif tenant == "guide":
            messages = ({"role": "system", "content": SYSTEM}, *(m for m in messages if m["role"] != "system"))
        sampling = Sampling(temperature=0.0, max_tokens=draws.choice((8, 32, 128, 128)))
        request = Request(model=target, messages=messages, tools=found.tools, tenant=tenant, sampling=sampling)
        yield Piece(phase=phase, target=target, tenant=tenant, request=request)


def _long(messages: tuple[Message, ...], draws: random.Random) -> tuple[Message, ...]:
    """The last message behind a text of any length, no two with the same beginning."""
    words = [draws.choice(WORDS) for _ in range(draws.randint(20, LONGEST // 6))]
    *before, last = messages
    return (*before, {**last, "content": f"{' '.join(words)}\n{last['content']}"[-LONGEST:]})
