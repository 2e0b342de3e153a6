"""A mixed load for the latency benchmark: short questions and long texts, alone, side by side, and in bursts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from foreshore.starter.tasks import HELD_OUT, TASKS, example, levels
from foreshore.types import Message, Request, Sampling

__all__ = ["PHASES", "Piece", "Send", "play"]

LONGEST = 1600  # characters of a prompt: the starters' context holds 1,024 tokens
STREAMS = (3, 8)
BURST = (4, 12)
SYSTEM = "You help the people of a harbour town. " * 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One request of the load, for one target."""

    target: str
    tenant: str
    request: Request


Send = Callable[[str, Piece], Awaitable[None]]  # the phase, and what is to be sent


async def play(send: Send, *, seed: int, rounds: int, gap_s: float) -> None:
    """`rounds` times all phases, in an order of chance. Open arrivals come `gap_s` apart on average."""
    draws = random.Random(seed)
    supply = _pieces(draws)
    for _ in range(rounds):
        for phase in draws.sample(sorted(PHASES), len(PHASES)):
            await PHASES[phase](lambda piece, phase=phase: send(phase, piece), supply, draws, gap_s)  # type: ignore[misc]


async def _alone(send: _Send, supply: Iterator[Piece], draws: random.Random, gap_s: float) -> None:
    for _ in range(16):
        await send(next(supply))


async def _side_by_side(send: _Send, supply: Iterator[Piece], draws: random.Random, gap_s: float) -> None:
    for streams in STREAMS:
        pieces = iter([next(supply) for _ in range(streams * 5)])

        async def lane(pieces: Iterator[Piece] = pieces) -> None:
            for piece in pieces:
                await send(piece)

        await asyncio.gather(*(lane() for _ in range(streams)))


async def _open(send: _Send, supply: Iterator[Piece], draws: random.Random, gap_s: float) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(40):
            group.create_task(_of(send, next(supply)))
            await asyncio.sleep(draws.expovariate(1.0 / gap_s))


async def _bursts(send: _Send, supply: Iterator[Piece], draws: random.Random, gap_s: float) -> None:
    for _ in range(4):
        await asyncio.gather(*(send(next(supply)) for _ in range(draws.randint(*BURST))))
        await asyncio.sleep(gap_s)


_Send = Callable[[Piece], Awaitable[None]]
PHASES: dict[str, Callable[[_Send, Iterator[Piece], random.Random, float], Awaitable[None]]] = {
    "alone": _alone,
    "side by side": _side_by_side,
    "open": _open,
    "bursts": _bursts,
}


async def _of(send: _Send, piece: Piece) -> None:
    await send(piece)


def _pieces(draws: random.Random) -> Iterator[Piece]:
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
        target = draws.choices(("edge", "cloud"), (3, 2))[0]
        request = Request(model=target, messages=messages, tools=found.tools, tenant=tenant, sampling=sampling)
        yield Piece(target=target, tenant=tenant, request=request)


def _long(messages: tuple[Message, ...], draws: random.Random) -> tuple[Message, ...]:
    """The last message behind a text of any length, no two with the same beginning."""
    words = [draws.choice(WORDS) for _ in range(draws.randint(20, LONGEST // 6))]
    *before, last = messages
    return (*before, {**last, "content": f"{' '.join(words)}\n{last['content']}"[-LONGEST:]})


WORDS = "harbour boats nets salt wind tide ropes sails fish gulls light pier storm crew maps cargo tea lamps".split()
