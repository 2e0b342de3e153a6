"""One running answer: its tokens, its sampler, and the way from drawn tokens to chunks."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from foreshore.edge.parse import AnswerParser, Piece
from foreshore.edge.prepare import Prepared
from foreshore.edge.sampling.sampling import Sampler, logprobs
from foreshore.edge.sequence import Sequence
from foreshore.edge.text import TextStream
from foreshore.edge.vocab import Vocab
from foreshore.types import GAP_BOUNDS, Chunk, FinishReason, Timings, TokenLogprob, Usage

__all__ = ["Generation"]


class Generation:
    """`take` a row of logits for each step that wanted one, until `ended`; then `close`."""

    def __init__(self, prepared: Prepared, vocab: Vocab) -> None:
        request = prepared.request
        self.sequence = Sequence(
            id=request.id,
            tokens=list(prepared.tokens),
            max_tokens=prepared.max_tokens,
            arrived=prepared.arrived,
            deadline=request.deadline,
            tenant=request.tenant,
            weight=request.weight,
            tier=request.service_tier,
            deterministic=request.deterministic,
            adapter=request.adapter,
        )
        self.ended = False
        self._vocab = vocab
        self._sampler = Sampler(prepared.sampling, vocab, prepared.tokens)
        self._logprobs = prepared.sampling.logprobs
        self._stream = TextStream(prepared.sampling.stop)
        self._parser = _parser(prepared) if request.task == "chat" else None
        self._ignore_end = prepared.ignore_end
        self._reasoning_tokens = 0
        self._first = self._last = 0.0
        self._gaps = [0] * (len(GAP_BOUNDS) + 1)

    def take(self, row: NDArray[np.float32], now: float) -> Chunk | None:
        """Draw the next token. Returns what can be shown of it, if anything; the last chunk says why it ended."""
        token = self._sampler.draw(row)
        self._tick(now)
        self.sequence.tokens.append(token)
        if self._vocab.is_end(token) and not self._ignore_end:
            return self._end("stop")
        text = self._stream.push(self._vocab.piece(token))
        if self._is_plain(text):
            return Chunk(text=text) if text else None
        piece = self._parse(text)
        entry = () if self._logprobs is None else (logprobs(row, token, self._logprobs, self._vocab),)
        over = self._stream.stopped or (self._parser is not None and self._parser.over)
        if over or self.sequence.exhausted:
            return self._end("stop" if over else "length", piece, entry)
        if not piece and not entry:
            return None
        return Chunk(text=piece.text, reasoning=piece.reasoning, tool_calls=piece.tool_calls, logprobs=entry)

    def _is_plain(self, text: str) -> bool:
        """Whether the usual way is enough: the answer goes on, and its text is all there is to show."""
        if self._logprobs is not None or self._stream.stopped or self.sequence.exhausted:
            return False
        return self._parser is None or self._parser.is_plain(text)

    def _tick(self, now: float) -> None:
        if self._first:
            self._gaps[bisect_left(GAP_BOUNDS, now - self._last)] += 1
        else:
            self._first = now
        self._last = now

    def close(self) -> None:
        self._sampler.close()

    def _parse(self, text: str) -> Piece:
        if self._parser is None:
            return Piece(text=text)
        piece = self._parser.push(text)
        self._reasoning_tokens += self._parser.in_reasoning
        return piece

    def _end(self, reason: FinishReason, piece: Piece | None = None, entry: tuple[TokenLogprob, ...] = ()) -> Chunk:
        self.ended = True
        tail = self._parse_tail()
        pieces = [p for p in (piece, tail) if p]
        called = self._parser is not None and self._parser.calls > 0
        return Chunk(
            text="".join(p.text for p in pieces),
            reasoning="".join(p.reasoning for p in pieces),
            tool_calls=tuple(c for p in pieces for c in p.tool_calls),
            logprobs=entry,
            finish_reason="tool_calls" if called and reason == "stop" else reason,
            usage=Usage(
                prompt_tokens=self.sequence.prompt_tokens,
                completion_tokens=self.sequence.generated,
                cached_tokens=self.sequence.shared,
                reasoning_tokens=self._reasoning_tokens,
            ),
            timings=self._timings(),
        )

    def _parse_tail(self) -> Piece:
        text = self._stream.flush()
        if self._parser is None:
            return Piece(text=text)
        before, after = self._parser.push(text), self._parser.finish()
        return Piece(
            text=before.text + after.text,
            reasoning=before.reasoning + after.reasoning,
            tool_calls=before.tool_calls + after.tool_calls,
        )

    def _timings(self) -> Timings:
        sequence = self.sequence
        admitted = sequence.admitted if sequence.admitted is not None else sequence.arrived
        return Timings(
            queue_s=admitted - sequence.arrived,
            prefill_s=self._first - admitted,
            prefill_tokens=sequence.prompt_tokens - sequence.shared,
            ttft_s=self._first - sequence.arrived,
            decode_s=self._last - self._first,
            decode_tokens=sequence.generated,
            gaps=tuple(self._gaps),
            parked=sequence.parked,
        )


def _parser(prepared: Prepared) -> AnswerParser:
    return AnswerParser(tools=prepared.tools, thinking=prepared.thinking, one_call=prepared.one_call)
