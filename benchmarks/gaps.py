"""What a long prompt does to the streams that run when it comes, and how long it waits itself."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.load import Stream, completion, open_stream
from benchmarks.models import digits
from benchmarks.peers import Server
from benchmarks.row import Row, of_pairs, of_values, percentile
from benchmarks.scale import Scale
from foreshore.edge.gguf import inspect
from foreshore.errors import UpstreamError

__all__ = ["Run", "gaps", "measure"]

ANSWER = 8  # tokens of the long prompt's answer
RUN_TOKENS = 3000  # more than a runner can come to generate meanwhile; it is dropped at the end
_seeds = count(500_001)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One arrival of the long prompt. Seconds."""

    p99: float  # of the gaps that overlap with its prefill
    undisturbed: float  # median of those before
    ttft: float  # the long prompt's
    gaps: int  # how many overlap


def gaps(scale: Scale, model: Path) -> dict[str, Row]:
    trained = inspect(model).context_length
    room = min(RUN_TOKENS, trained - scale.prompt)
    context = min(trained, -(-max(scale.long_prompt + ANSWER, scale.prompt + room) // 256) * 256)
    slots = scale.runners + 1
    runs: dict[str, list[Run]] = {"foreshore": [], "llama-server": []}
    with (
        peers.foreshore(model, slots=slots, context=context) as ours,
        peers.llama_server(model, slots=slots, context=context) as theirs,
    ):
        for server in (ours, theirs):
            asyncio.run(_warm_up(server, scale))
        for _ in range(scale.slow_rounds):
            for server in (ours, theirs):
                runs[server.name].append(asyncio.run(_run(server, scale, room)))
        commands = [ours.command, theirs.command]
    return _rows(scale, runs["foreshore"], runs["llama-server"], commands)


def _rows(scale: Scale, ours: list[Run], theirs: list[Run], commands: list[str]) -> dict[str, Row]:
    facts = {
        "unit": "ms",
        "long_prompt": scale.long_prompt,
        "runners": scale.runners,
        "undisturbed": {"ours": _ms(ours, "undisturbed"), "theirs": _ms(theirs, "undisturbed")},
        "gaps_counted": {"ours": [run.gaps for run in ours], "theirs": [run.gaps for run in theirs]},
        "servers": commands,
    }
    against, alone, ttft = "gap_p99_vs_llama_server", "gap_p99_vs_undisturbed", "long_ttft_vs_llama_server"
    return {
        against: of_pairs(against, _ms(ours, "p99"), _ms(theirs, "p99"), **facts),
        alone: of_values(alone, [run.p99 / run.undisturbed for run in ours], p99=_ms(ours, "p99"), **facts),
        ttft: of_pairs(ttft, _ms(ours, "ttft"), _ms(theirs, "ttft"), **facts),
    }


def _ms(runs: list[Run], what: str) -> list[float]:
    return [1000 * float(getattr(run, what)) for run in runs]


async def _warm_up(server: Server, scale: Scale) -> None:
    bodies = [completion(digits(scale.prompt, next(_seeds)), scale.settle) for _ in range(scale.runners)]
    for answer in await asyncio.gather(*(open_stream(server.url, body) for body in bodies)):
        answer.check(scale.settle)


class _Runners:
    """The streams that run all the time, until `stopped`; `steady` once each has `settle` events."""

    def __init__(self, settle: int, count: int) -> None:
        self.streams: list[Stream] = []
        self.steady = asyncio.Event()
        self.stopped = False
        self._settle, self._count = settle, count

    async def run(self, server: Server, body: dict[str, Any]) -> None:
        try:
            await open_stream(server.url, body, watch=self.streams.append, until=self._seen)
        finally:
            self.steady.set()  # an early end is found by who waits, for its answer is too short

    def _seen(self, stream: Stream) -> bool:
        if len(self.streams) == self._count and all(len(s.arrivals) >= self._settle for s in self.streams):
            self.steady.set()
        return self.stopped


async def _run(server: Server, scale: Scale, tokens: int) -> Run:
    runners = _Runners(scale.settle, scale.runners)
    async with asyncio.TaskGroup() as group:
        for _ in range(scale.runners):
            group.create_task(runners.run(server, completion(digits(scale.prompt, next(_seeds)), tokens)))
        await runners.steady.wait()
        long = await open_stream(server.url, completion(digits(scale.long_prompt, next(_seeds)), ANSWER))
        runners.stopped = True
    long.check(ANSWER)
    return measure([runner.token_times for runner in runners.streams], long.sent, long.token_times[0], scale.settle)


def measure(runners: list[list[float]], sent: float, first: float, settle: int) -> Run:
    """`runners`: when each got its tokens. `sent`, `first`: the long prompt's request and its first token."""
    if any(times[-1] < first for times in runners):
        raise UpstreamError("a running stream ended before the long prompt was read: nothing to measure")
    pairs = [pair for times in runners for pair in pairwise(times)]
    # A runner's first tokens come while the others' prompts are read.
    quiet = [b - a for times in runners for a, b in pairwise(times[settle // 2 :]) if b <= sent]
    during = [b - a for a, b in pairs if b > sent and a < first]
    undisturbed = statistics.median(quiet)
    if undisturbed <= 0:
        raise UpstreamError("tokens came in lumps before the long prompt: this machine is too busy to measure gaps")
    return Run(p99=percentile(during, 0.99), undisturbed=undisturbed, ttft=first - sent, gaps=len(during))
