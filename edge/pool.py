"""The models of one process under one budget of memory.

A model is loaded only where its estimate fits beside the others. Where it does not, idle models give way, the one
unused for longest first; then a busy one is let end what it has begun, while its new requests wait. Nothing that is in
use is ever cut off, and where even all the others' room would not do, the refusal says the numbers and nothing is
unloaded in vain.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from foreshore.edge.governor import Governed
from foreshore.edge.machine import available
from foreshore.edge.memory import Estimate, gib
from foreshore.errors import SetupError, Unavailable

__all__ = ["SHARED", "Place", "Pool", "Tenancy"]


class Tenancy(Governed, Protocol):
    """What a place holds. `unload` blocks until the memory is free; `private_bytes` is what is held of it by now."""

    def unload(self) -> None: ...
    def private_bytes(self) -> int: ...


class Place:
    """One model's place in the pool. The pool's lock guards it."""

    def __init__(self, name: str, tenancy: Tenancy, *, keep_alive: float | None, before: Place | None = None) -> None:
        self.name, self.tenancy, self.keep_alive = name, tenancy, keep_alive
        self.before = before  # the place that this one is to succeed
        self.need: Estimate | None = None  # None: it holds no memory
        self.users = 0
        self.used_at = 0.0
        self.closed = False
        self.gone: Future[None] | None = None  # while it is being unloaded: resolves when it has been

    @property
    def loaded(self) -> bool:
        return self.need is not None


class Pool:
    """`enter` and `leave` around each use of a place; `claim` before loading. From any thread.

    `memory` is the most that all models together may take by their estimates, `models` how many may be loaded; `None`
    sets no bound but the machine's.
    """

    def __init__(
        self,
        *,
        memory: int | None = None,
        models: int | None = None,
        free: Callable[[], int] = available,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory, self.models = memory, models
        self._free, self._clock = free, clock
        self._places: weakref.WeakSet[Place] = weakref.WeakSet()
        self._reset()
        _alive.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._claiming = threading.Lock()
        self._reaper: threading.Thread | None = None
        for place in list(self._places):
            place.need, place.users, place.gone = None, 0, None

    @property
    def reserved(self) -> int:
        """Bytes that the loaded models may take."""
        return sum(p.need.total for p in self._loaded() if p.need is not None)

    def tenants(self) -> list[Tenancy]:
        """All of them, loaded or not."""
        with self._changed:
            return [place.tenancy for place in self._places]

    def add(self, place: Place) -> None:
        with self._changed:
            self._places.add(place)

    def enter(self, place: Place) -> Future[None] | None:
        """Count one more user, whom nobody unloads, until `leave`; or, while the place is being vacated, what tells
        when it has been: then ask again."""
        with self._changed:
            if place.gone is None:
                place.users += 1
            return place.gone

    def leave(self, place: Place) -> None:
        with self._changed:
            place.users = max(0, place.users - 1)
            place.used_at = self._clock()
            if place.users == 0:
                self._changed.notify_all()
                if place.keep_alive is not None and self._reaper is None:
                    self._reaper = threading.Thread(target=self._reap, name="foreshore-reaper", daemon=True)
                    self._reaper.start()

    def claim(self, place: Place, need: Estimate) -> None:
        """Make room, and take it. Blocks while a busy model ends what it has begun.

        Raises `SetupError` where the room would not do even without the others, `Unavailable` once `place` is closed.
        """
        with self._claiming:  # one at a time, so that two do not count on the same room
            while True:
                self._refuse_closed(place)
                with self._changed:
                    others = [p for p in self._loaded() if p is not place]
                if self._fits(need, others, kept=others):
                    break
                if not others or not self._fits(need, others, kept=[]):
                    raise self._refusal(place, need, others)
                self._vacate(self._victim(place, others), asking=place)
            with self._changed:
                self._refuse_closed(place)
                place.need, place.used_at = need, self._clock()

    def vacate(self, place: Place) -> None:
        """Let running uses end, while new ones wait, then unload. Blocks."""
        self._vacate(place, asking=None)

    def forget(self, place: Place) -> None:
        """It holds no memory any more."""
        with self._changed:
            place.need = None
            if place.gone is not None:
                place.gone.set_result(None)
                place.gone = None
            self._changed.notify_all()

    def close(self, place: Place) -> None:
        """Never again: whoever waits for it, or in it, is told."""
        with self._changed:
            place.closed = True
            self._places.discard(place)
        self.forget(place)

    def _vacate(self, place: Place, *, asking: Place | None) -> None:
        with self._changed:
            if place.gone is None:
                place.gone = Future()
            self._changed.wait_for(lambda: place.users == 0 or place.closed or (asking is not None and asking.closed))
            if asking is not None and asking.closed and place.users:
                place.gone.set_result(None)
                place.gone = None
                return
        place.tenancy.unload()
        self.forget(place)

    def _loaded(self) -> list[Place]:
        with self._changed:
            return sorted((p for p in self._places if p.loaded), key=lambda p: p.used_at)

    def _victim(self, place: Place, others: list[Place]) -> Place:
        """The idle before the busy, the one that `place` succeeds before other busy ones, then the longest unused."""
        return min(others, key=lambda p: (p.users > 0, (p is place.before) != (p.users > 0), p.used_at))

    def _fits(self, need: Estimate, others: list[Place], *, kept: list[Place]) -> bool:
        if self.models is not None and len(kept) >= self.models:
            return False
        return need.total <= self._room(others, kept)

    def _room(self, others: list[Place], kept: list[Place]) -> int:
        """Bytes for another model beside `kept`, with the rest of `others` gone."""
        held = {p: p.tenancy.private_bytes() for p in others}
        promised = sum(max(0, p.need.total - held[p]) for p in kept if p.need is not None)
        room = self._free() - promised + sum(size for p, size in held.items() if p not in kept)
        if self.memory is not None:
            room = min(room, self.memory - sum(p.need.total for p in kept if p.need is not None))
        return max(0, room)

    def _refusal(self, place: Place, need: Estimate, others: list[Place]) -> SetupError:
        room = self._room(others, [])
        what = "free" if self.memory is None or room < self.memory else "allowed by runtime.memory"
        return SetupError(f"{place.name} needs {need}, {gib(room)} is {what}", hint=_advice(need, room))

    def _refuse_closed(self, place: Place) -> None:
        if place.closed:
            raise Unavailable("the local runtime was closed", target=place.name, retryable=False)

    # The reaper's thread

    def _reap(self) -> None:
        """Unload what was idle for its `keep_alive`; ends when nothing waits for that."""
        while True:
            with self._changed:
                idle = [p for p in self._places if p.loaded and not p.users and p.gone is None]
                due = {p: p.used_at + p.keep_alive for p in idle if p.keep_alive is not None}
                if not due:
                    self._reaper = None
                    return
                first = min(due, key=due.__getitem__)
                if (wait := due[first] - self._clock()) > 0:
                    self._changed.wait(wait)
                    continue
                first.gone = Future()
            first.tenancy.unload()
            self.forget(first)


def _advice(need: Estimate, room: int) -> str:
    """The choices that would fit."""
    choices = []
    left = room - need.weights - need.buffers
    cell, spread = need.cell + need.mask_cell, need.mask_cell * need.kv_tokens  # buffers shrink with the cache
    if need.cell and (tokens := (left + spread) // cell // 256 * 256) >= 256:
        choices.append(f"kv_tokens <= {tokens}")
    if need.smaller_cache and left >= need.smaller_cache:
        choices.append("kv_type q8_0")
    return "choose " + ", ".join([*choices, "or a smaller variant"] if choices else ["a smaller variant"])


_alive: weakref.WeakSet[Pool] = weakref.WeakSet()
SHARED = Pool()  # the process's own: whoever loads a model and names no other pool


def _after_fork() -> None:
    for pool in list(_alive):
        pool._reset()


os.register_at_fork(after_in_child=_after_fork)
