"""Measures the runtime as its users meet it: through the worker, the scheduler and the streams."""

from __future__ import annotations

import asyncio
import time

from foreshore.backend import Answer, collect
from foreshore.edge.options import EngineOptions, ModelInfo
from foreshore.edge.runtime import AsyncRuntime, embedding_request
from foreshore.edge.scoped import Scoped
from foreshore.errors import UsageError
from foreshore.types import Timings

__all__ = ["SpeedTest"]

PROMPT_TOKENS = 16


class SpeedTest(Scoped):
    """Speeds of one model in tokens per second. Prompts are token ids, so that any model can be measured."""

    def __init__(self, model: str, options: EngineOptions) -> None:
        self._runner = asyncio.Runner()
        self._runtime = AsyncRuntime(model, options=options)
        self._rounds = 0

    @property
    def info(self) -> ModelInfo:
        info = self._runtime.info
        assert info is not None
        return info

    @property
    def pid(self) -> int | None:
        """The worker's process."""
        return self._runtime.backend.pid

    def start(self) -> None:
        self._runner.run(self._runtime.start())

    def close(self) -> None:
        self._runner.run(self._runtime.close())
        self._runner.close()

    def decode(self, tokens: int, streams: int = 1) -> float:
        """Tokens after each stream's first, all streams together, from the earliest first token to the last."""
        self._check(PROMPT_TOKENS + tokens)
        return self._runner.run(self._decode(tokens, streams))

    def prefill(self, tokens: int) -> float:
        """Reading one prompt of `tokens`, up to the first token of its answer."""
        self._check(tokens + 1)
        return _timings(self._runner.run(self._answer(tokens, 1))).prefill_tokens_per_s

    def embed(self, words: int) -> float:
        """An encoder's reading one text of `words` words."""
        self._rounds += 1
        request = embedding_request(" ".join([str(self._rounds), *["the"] * (words - 1)]), {})
        return _timings(self._runner.run(collect(self._runtime.backend, request))).prefill_tokens_per_s

    async def _decode(self, tokens: int, streams: int) -> float:
        spans = await asyncio.gather(*(self._span(tokens) for _ in range(streams)))
        seconds = max(last for _, last in spans) - min(first for first, _ in spans)
        return streams * (tokens - 1) / seconds

    async def _span(self, tokens: int) -> tuple[float, float]:
        """When a stream's first and last tokens were drawn."""
        begun = time.monotonic()
        timings = _timings(await self._answer(PROMPT_TOKENS, tokens))
        return begun + timings.ttft_s, begun + timings.ttft_s + timings.decode_s

    async def _answer(self, prompt_tokens: int, tokens: int) -> Answer:
        self._rounds += 1  # no two prompts begin alike, so that no cache of prefixes can help
        size = self.info.vocab_size
        prompt = [(self._rounds + 7 * i) % size for i in range(prompt_tokens)]
        return await self._runtime.complete(prompt, max_tokens=tokens, temperature=0, extra={"ignore_eos": True})

    def _check(self, tokens: int) -> None:
        if tokens > self.info.context_tokens:
            raise UsageError(
                f"the run needs {tokens} tokens, but the context holds {self.info.context_tokens}",
                hint="measure with fewer tokens",
            )


def _timings(answer: Answer) -> Timings:
    assert answer.timings is not None
    return answer.timings
