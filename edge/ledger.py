"""Who holds which tokens of the KV cache, counted exactly: a token that several sequences share counts once."""

from __future__ import annotations

from collections.abc import Hashable

__all__ = ["KvLedger"]

Run = dict[Hashable, int]  # owner -> how many of the run's tokens, from its front, it holds


class KvLedger:
    """Tokens held, never more than `capacity`.

    An owner's tokens are a list of runs. A run was computed once, by one owner; `share` lets others hold its front,
    as the engine's `seq_cp` does without copying. A token is free when nobody holds it any more.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._runs: dict[Hashable, list[Run]] = {}

    @property
    def free(self) -> int:
        return self.capacity - self.used

    def held(self, owner: Hashable) -> int:
        return sum(run[owner] for run in self._runs.get(owner, ()))

    def hold(self, owner: Hashable, tokens: int) -> None:
        """`owner` computed `tokens` more. Raises `ValueError` where they do not fit."""
        if tokens > self.free:
            raise ValueError(f"{tokens} tokens do not fit: {self.used} of {self.capacity} are taken")
        if not tokens:
            return
        runs = self._runs.setdefault(owner, [])
        if runs and len(runs[-1]) == 1:  # nobody else knows of it: it may grow
            runs[-1][owner] += tokens
        else:
            runs.append({owner: tokens})
        self.used += tokens

    def share(self, source: Hashable, target: Hashable, tokens: int) -> None:
        """`target` begins with the first `tokens` of `source`. Raises `ValueError` if it holds some already."""
        if self._runs.get(target) or tokens > self.held(source):
            raise ValueError(f"{target!r} cannot take {tokens} tokens of {source!r}")
        for run in self._runs.get(source, ()):
            if tokens <= 0:
                break
            run[target] = min(tokens, run[source])
            tokens -= run[target]
            self._runs.setdefault(target, []).append(run)

    def cut(self, owner: Hashable, tokens: int) -> None:
        """`owner` keeps its first `tokens` alone."""
        kept = []
        for run in self._runs.get(owner, ()):
            before, keep = max(run.values()), min(tokens, run[owner])
            tokens -= keep
            if keep:
                run[owner] = keep
                kept.append(run)
            else:
                del run[owner]
            self.used -= before - max(run.values(), default=0)
        if kept:
            self._runs[owner] = kept
        else:
            self._runs.pop(owner, None)

    def release(self, owner: Hashable) -> None:
        """Give back all that `owner` holds; harmless if that is nothing."""
        self.cut(owner, 0)
