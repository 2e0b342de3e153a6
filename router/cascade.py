"""Asks the small model first, and the next one only where the answer does not inspire confidence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from foreshore.backend import Backend
from foreshore.errors import BackendError, BadRequest, ContextExceeded, ForeshoreError, Truncated, UpstreamError
from foreshore.router.fallback import Attempt, Fallback, has_content
from foreshore.types import Chunk, Request, TokenLogprob, Usage

if TYPE_CHECKING:
    from foreshore.quality.confidence import Confidence

__all__ = ["Cascade", "LowConfidence"]

ALTERNATIVES = 5  # at each token: all that some servers give
GENERATES = ("chat", "completion")
NO_LOGPROBS = "kept unjudged: it came without log-probabilities"
NO_TIME = "not asked: no time is left for it"


class LowConfidence(BackendError):
    """A whole answer came, and is kept, but the next target should be asked."""

    code: ClassVar[str] = "low_confidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    confidence: float | None = None  # None: not judged
    usage: Usage | None = None
    note: str = ""


class Cascade(Fallback):
    """A `Backend` of backends for one request at a time, as `Fallback` is, with its budget of attempts and its rules.

    Of every target but the last the whole answer is awaited, with log-probabilities, which the caller does not see
    unless it asked for them. The answer is passed on if `confidence` in it reaches `threshold`, or if it came without
    log-probabilities; else the next target is asked. The last one's answer streams as it comes. Where the next fails
    before its first content, or the deadline leaves less than `expected` seconds for it, the answer held back that
    inspires the most confidence is passed on after all, not an error.

    `confidence` may differ by target's name; one without its own is taken by the default, which is not calibrated.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        threshold: float,
        confidence: Confidence | Mapping[str, Confidence],
        expected: Mapping[str, float] | None = None,
        attempts: int = 3,
        name: str = "cascade",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._judges = {b.name: _Judged(b, threshold, _own(confidence, b.name)) for b in backends[:-1]}
        super().__init__([*self._judges.values(), *backends[-1:]], attempts=attempts, name=name, sleep=sleep)
        self._expected = expected or {}

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        try:
            async with aclosing(super().stream(request)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk
        except ForeshoreError:
            held = self._held()
            if self.committed or held is None:
                raise
            self.committed = held.name
            for chunk in held.answer:
                if has_content(chunk) or chunk.logprobs:
                    yield chunk

    async def _attempt(self, backend: Backend, request: Request) -> AsyncGenerator[Chunk, None]:
        if self._held() is not None and self._late_for(backend, request):
            self.attempts.append(Attempt(target=backend.name, error=LowConfidence.code, note=NO_TIME))
            raise LowConfidence(f"no time is left for target {backend.name!r}", target=backend.name, retryable=False)
        async with aclosing(super()._attempt(backend, request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _pause(self, turn: int, error: ForeshoreError, request: Request) -> bool:
        """Nobody is asked twice while an answer is at hand."""
        return self._held() is None and await super()._pause(turn, error, request)

    def _noted(self, backend: Backend, attempt: Attempt) -> Attempt:
        verdict = backend.verdict if isinstance(backend, _Judged) else Verdict()
        spent = verdict.usage or Usage(prompt_tokens=attempt.prompt_tokens, completion_tokens=attempt.completion_tokens)
        return replace(
            attempt,
            prompt_tokens=spent.prompt_tokens,
            completion_tokens=spent.completion_tokens,
            confidence=verdict.confidence,
            note=verdict.note,
        )

    def _late_for(self, backend: Backend, request: Request) -> bool:
        left = float("inf") if request.deadline is None else request.deadline - time.monotonic()
        return left <= self._expected.get(backend.name, 0.0)

    def _held(self) -> _Judged | None:
        """Of the targets whose whole answer was held back, the one of the most confidence."""
        found = [judge for judge in self._judges.values() if judge.answer]
        return max(found, key=lambda judge: judge.verdict.confidence or 0.0, default=None)


class _Judged:
    """A `Backend`: the whole answer of another one at once, or `LowConfidence`; then `answer` has it."""

    def __init__(self, backend: Backend, threshold: float, confidence: Confidence) -> None:
        self.name = backend.name
        self.answer: list[Chunk] = []
        self.verdict = Verdict()
        self._backend, self._threshold, self._confidence = backend, threshold, confidence

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        self.verdict = Verdict()
        found = await self._whole(request)
        self.verdict = self._judge(found)
        answer = [_as_asked(chunk, request.sampling.logprobs) for chunk in found]
        confidence = self.verdict.confidence
        if confidence is not None and confidence < self._threshold:
            self.answer = answer
            what = f"confidence in the answer of target {self.name!r} is {confidence:.3f}, below {self._threshold:g}"
            raise LowConfidence(what, target=self.name)
        for chunk in answer:
            yield chunk

    async def close(self) -> None:
        await self._backend.close()

    async def _whole(self, request: Request) -> list[Chunk]:
        chunks: list[Chunk] = []
        try:
            async with aclosing(self._backend.stream(_with_logprobs(request))) as source:  # type: ignore[type-var]
                async for chunk in source:
                    chunks.append(chunk)
        except ContextExceeded:
            raise
        except BadRequest as error:  # perhaps of our own making: not every server gives log-probabilities
            raise UpstreamError(f"target {self.name!r} refused: {error.message}", target=self.name) from error
        if not any(chunk.finish_reason is not None for chunk in chunks):
            raise Truncated(f"target {self.name!r} ended its answer without a finish reason", target=self.name)
        return chunks

    def _judge(self, chunks: Sequence[Chunk]) -> Verdict:
        """By the least sure of the answer's choices; one that says nothing inspires none."""
        usage = next((chunk.usage for chunk in reversed(chunks) if chunk.usage is not None), None)
        if not any(_says(chunk) for chunk in chunks):
            return Verdict(confidence=0.0, usage=usage, note="it was empty")
        choices = [[lp for c in chunks if c.index == i for lp in c.logprobs] for i in {c.index for c in chunks}]
        if not all(choices):
            return Verdict(usage=usage, note=NO_LOGPROBS)
        return Verdict(confidence=min(self._confidence.of(tokens) for tokens in choices), usage=usage)


def _own(confidence: Confidence | Mapping[str, Confidence], target: str) -> Confidence:
    if not isinstance(confidence, Mapping):
        return confidence
    from foreshore.quality.confidence import Confidence as Learnt

    return confidence.get(target) or Learnt.default()


def _says(chunk: Chunk) -> bool:
    numbers = chunk.embedding is not None or chunk.score is not None or chunk.tokens
    return bool(chunk.text or chunk.reasoning or chunk.tool_calls or numbers)


def _with_logprobs(request: Request) -> Request:
    if request.task not in GENERATES:
        return request
    count = max(request.sampling.logprobs or 0, ALTERNATIVES)
    return replace(request, sampling=replace(request.sampling, logprobs=count))


def _as_asked(chunk: Chunk, count: int | None) -> Chunk:
    """With the log-probabilities that the caller asked for, and no others."""
    shown: tuple[TokenLogprob, ...] = ()
    if count is not None:
        shown = tuple(replace(entry, top=entry.top[:count]) for entry in chunk.logprobs)
    return replace(chunk, logprobs=shown)
