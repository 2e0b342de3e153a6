"""Decides what the next step computes, and who keeps a place in the KV cache. Knows counts, times and token ids,
but no model and no clock."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from foreshore.edge.fairness import Fairness
from foreshore.edge.ledger import KvLedger
from foreshore.edge.pacer import Pacer
from foreshore.edge.prefix.index import Match, PrefixIndex
from foreshore.edge.sequence import Sequence
from foreshore.errors import Overloaded
from foreshore.types import ServiceTier

__all__ = ["Action", "Forget", "Park", "Plan", "Policy", "Restore", "Scheduler", "Share", "Slice", "Spill", "key_of"]

IDS = 256  # LLAMA_MAX_SEQ: sequences that the cache can tell apart
HEADROOM = 64  # answer tokens that must have room beside all others' when a sequence is let in
MIN_SHARE = 8  # a shorter common beginning is computed again
BLEND_S = 60.0  # how long steps stay short after somebody was in a hurry
BEGUN = 8  # tokens; a stream with no more has just begun
TOGETHER_S = 0.5  # a step's length while all have: who came together waits for each other
_TIERS: tuple[ServiceTier, ...] = ("priority", "default", "flex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the operator chose; `EngineOptions` has the defaults and their meaning."""

    slots: int  # sequences in one step
    ids: int  # sequences that may be computed without giving up their place; the other ids are for ended ones
    kv_tokens: int
    batch_tokens: int
    order: Literal["fair", "fifo"] = "fair"
    gap_target: float = 3.0
    ttft_s: Mapping[str, float]  # by service tier
    queue_limit: int = 64
    queue_tokens: int = 1 << 30
    queue_wait_s: float = 120.0
    prefix_cache: bool = True
    kept_tokens: int = 1 << 30  # of ended sequences, in the cache, while nothing runs
    kept_beside: int = 1 << 30  # and while something does: each costs every step


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens of `sequence` from position `start` on. Of the last `wanted` of them the logits are needed."""

    sequence: Sequence
    start: int
    count: int
    wanted: int


@dataclass(frozen=True, slots=True)
class Forget:
    slot: int


@dataclass(frozen=True, slots=True)
class Share:
    source: int
    target: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Park:
    """Save what `slot` holds of `sequence`, if there is room to and it has no other slot, and forget it there."""

    sequence: Sequence
    slot: int
    cells: int


@dataclass(frozen=True, slots=True)
class Spill:
    """`sequence` has ended, and `slot`, with all its tokens, is to be forgotten: the last chance to copy them."""

    sequence: Sequence
    slot: int


@dataclass(frozen=True, slots=True)
class Restore:
    sequence: Sequence
    slot: int


Action = Forget | Share | Park | Restore | Spill


@dataclass(frozen=True, slots=True)
class Plan:
    """Do the actions in order, then compute the slices together. `apart`: in the context for deterministic requests."""

    slices: tuple[Slice, ...]
    actions: tuple[Action, ...] = ()
    apart: bool = False
    tokens: int = field(init=False)
    streams: int = field(init=False)  # answers that go on
    prefill_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        tokens = streams = rows = 0
        for part in self.slices:
            tokens += part.count
            if part.wanted == part.count and part.sequence.generated:
                streams += 1
                rows += part.count
        for name, value in (("tokens", tokens), ("streams", streams), ("prefill_tokens", tokens - rows)):
            object.__setattr__(self, name, value)


class Scheduler:
    """All running streams first, then prompts within the pacer's budget, the least served tenant's first.

    `submit` -> (`plan` -> do its actions -> `commit` -> `advance` for each token drawn)* -> `finish`. A plan whose
    slices were not computed is simply not committed. Prompts are let in only with room for all of them, answers in
    the hope that most end early: when the cache is full, kept beginnings go first, then the last in rank is parked
    and goes on later. Nobody fails for want of room, for each sequence alone fits.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.ledger = KvLedger(policy.kv_tokens)
        self.fairness = Fairness()
        self.pacer = Pacer(gap_target=policy.gap_target, batch_tokens=policy.batch_tokens)
        self.index = PrefixIndex[Sequence]()  # of what is in the cache, or being computed
        self._asked = PrefixIndex[Sequence]()  # of all prompts that are here
        self.waiting: list[Sequence] = []
        self.running: dict[str, Sequence] = {}  # with a place in the cache
        self.kept: OrderedDict[Sequence, int] = OrderedDict()  # ended, their tokens stay; slots, the oldest first
        self.parked = 0  # so far
        self._apart: list[Sequence] = []  # deterministic ones, one at a time
        self._apart_next = False
        self._actions: list[Action] = []
        self._slots = list(range(policy.ids))[::-1]
        self._shelves = list(range(policy.ids + 1, IDS))[::-1]  # the one between is the stepper's
        self._numbers = itertools.count()
        self._order: dict[Sequence, int] = {}
        self._hurried = float("-inf")
        self._last_adapter = ""

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.running or self._apart)

    @property
    def everyone(self) -> Iterable[Sequence]:
        return (*self.waiting, *self.running.values(), *self._apart)

    @property
    def queue(self) -> int:
        """Requests that wait for their first step."""
        return len(self.waiting) + max(0, len(self._apart) - 1)

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens still to be computed; a beginning that several wait for counts once."""
        begun = (*self.running.values(), *self._apart)
        return sum(s.expected for s in self.waiting) + sum(max(0, s.prompt_tokens - s.cells) for s in begun)

    def submit(self, sequence: Sequence, *, wait_s: float = 0.0, held: int = 0) -> None:
        """Queue it. `wait_s` is the predicted wait, `held` how many of its first tokens can be had from elsewhere.

        Raises `Overloaded`, and `ValueError` for what could never run.
        """
        policy = self.policy
        if sequence.cost > self.ledger.capacity or sequence.prompt_tokens < 1 or sequence.max_tokens < 1:
            raise ValueError(f"a sequence of {sequence.cost} tokens can never run in {self.ledger.capacity}")
        free = max(0, policy.slots - len(self.running))
        if self.queue >= policy.queue_limit + free:
            raise _overloaded(f"{self.queue} requests wait already; the queue holds {policy.queue_limit}", wait_s)
        queued = sum(s.cost for s in self.waiting)
        if self.waiting and queued + sequence.cost > policy.queue_tokens:
            raise _overloaded(f"requests of {queued} tokens wait already; the limit is {policy.queue_tokens}", wait_s)
        if wait_s > policy.queue_wait_s:
            late = wait_s - policy.queue_wait_s
            raise _overloaded(f"it would wait about {wait_s:.0f} s; the limit is {policy.queue_wait_s:g} s", late)
        if sequence.tier == "priority" or (self.fairness.tenants and not self._known(sequence.tenant)):
            self._hurried = sequence.arrived
        sequence.expected = sequence.prompt_tokens
        if policy.prefix_cache and not sequence.deterministic:
            asked = self._asked.find(key_of(sequence), sequence.tokens)
            sequence.expected -= max(self.best(sequence), asked.ready, asked.coming, held)
            self._asked.add(key_of(sequence), sequence.tokens, sequence)
        self.fairness.enter(sequence.tenant)
        self._order[sequence] = next(self._numbers)
        (self._apart if sequence.deterministic else self.waiting).append(sequence)

    def expire(self, now: float) -> list[Sequence]:
        """All whose deadline has passed; the caller is to `finish` them."""
        return [s for s in self.everyone if s.deadline is not None and s.deadline <= now]

    def entering(self, now: float) -> list[Sequence]:
        """Those whom the next plan lets in if there is room, the first in rank first."""
        ranked = sorted(self.waiting, key=lambda s: self._rank(s, now))
        free = max(0, self.policy.slots - len(self.running))
        return ranked[:free] or [s for s in ranked[:1] if self._outranks(s, now)]

    def plan(self, now: float) -> Plan:
        """The next step's work, at most `batch_tokens`; no slices only when nothing is there to do."""
        if self._apart and (self._apart_next or not (self.waiting or self.running)):
            self._apart_next = False
            return Plan((self._lone_slice(now),), self.take_actions(), apart=True)
        self._apart_next = True
        self._admit(now)
        self._tidy()
        active = self._active(now)
        streams = [s for s in active if s.decodes]
        slices = self._decodes(streams, now)
        slices += self._prefills([s for s in active if s.slot is not None and not s.decodes], slices, now)
        if not slices and self.running:  # all wait for room: somebody must give some up
            self._park(self._last(now))
            return self.plan(now)
        return Plan(tuple(slices), self.take_actions())

    def commit(self, plan: Plan) -> None:
        """The plan's slices are in the cache."""
        for part in plan.slices:
            sequence = part.sequence
            if not plan.apart:
                self.ledger.hold(sequence, part.count)
            fresh = max(0, min(sequence.prompt_tokens, part.start + part.count) - part.start)
            if fresh:
                self.fairness.charge(sequence.tenant, inputs=fresh, weight=sequence.weight)
            sequence.cells = part.start + part.count

    def advance(self, sequence: Sequence) -> None:
        """One more answer token was drawn."""
        sequence.generated += 1
        self.fairness.charge(sequence.tenant, outputs=1, weight=sequence.weight)

    def rewind(self, sequence: Sequence) -> None:
        """Drafted tokens were wrong: only what was drawn stays, the last of it to be computed next."""
        sequence.cells = sequence.length - 1
        if not sequence.deterministic:
            self.ledger.cut(sequence, sequence.cells)

    def lose(self, sequence: Sequence) -> None:
        """What it had in the cache is gone; it keeps its slot and computes everything again."""
        self.ledger.release(sequence)
        sequence.cells = 0

    def finish(self, sequence: Sequence) -> None:
        """It ended, or was cancelled. What it computed is kept for others while there is room. Twice is harmless."""
        if self._order.pop(sequence, None) is None:
            return
        self.fairness.leave(sequence.tenant)
        self._asked.remove(sequence)
        for place in (self.waiting, self._apart):
            if sequence in place:
                place.remove(sequence)
        if self.running.pop(sequence.id, None) is not None:
            if sequence.cells >= sequence.length:
                self.rewind(sequence)
            self._keep(sequence)

    def best(self, sequence: Sequence) -> int:
        """How many of its first tokens are in the cache, or will be before it needs them."""
        match = self.index.find(key_of(sequence), sequence.tokens[:-1])
        return max(match.ready, match.coming)

    def reserve(self, kept: Sequence) -> bool:
        """Whether there is room for tokens that come from elsewhere, to lie as those of an ended sequence in `slot`."""
        if not self._shelves and self.kept:
            self._drop(next(iter(self.kept)))
        if not self._make_room(kept.prompt_tokens + HEADROOM * len(self.running)) or not self._shelves:
            return False
        kept.slot, kept.cells = self._shelves.pop(), kept.prompt_tokens
        self.ledger.hold(kept, kept.cells)
        self.kept[kept] = kept.slot
        self.index.add(key_of(kept), kept.tokens, kept)
        return True

    def abandon(self, kept: Sequence) -> None:
        """What `reserve` made room for did not come."""
        self._drop(kept, spill=False)

    def shorten(self, kept: Sequence, tokens: int) -> None:
        """Of what `reserve` made room for, only the first `tokens` are needed."""
        self.ledger.cut(kept, tokens)
        kept.tokens, kept.cells = kept.tokens[:tokens], tokens
        self.index.add(key_of(kept), kept.tokens, kept)

    def relieve(self, now: float) -> bool:
        """The engine found no room although the ledger did: make some. `False`: there is none to be made."""
        if self.kept:
            self._make_room(self.ledger.capacity)
            return True
        if len(self.running) < 2:
            return False
        self._park(self._last(now))
        return True

    # Who is let in

    def _admit(self, now: float) -> None:
        if not self.waiting:
            return
        for sequence in sorted(self.waiting, key=lambda s: self._rank(s, now)):
            if not self._slots or (len(self.running) >= self.policy.slots and not self._outranks(sequence, now)):
                return
            match = self.index.find(key_of(sequence), sequence.tokens[:-1]) if self.policy.prefix_cache else Match()
            if self._is_coming(sequence, match):
                continue  # another one is computing what this one needs: wait for it rather than do it twice
            if match.ready < MIN_SHARE:
                match = Match()
            shared = match.ready if match.ready >= sequence.saved else 0
            need = self._need(sequence) - shared
            if not self.running and not self._make_room(need, spare=match.source):
                match = Match()  # what it could share stands in its way
                self._make_room(sequence.length)
            elif self.running and not (self._could_fit(need) and self._make_room(need, spare=match.source)):
                return  # nobody overtakes on room, or a long prompt would wait for ever
            self._enter(sequence, match, now)

    def _outranks(self, sequence: Sequence, now: float) -> bool:
        """Whether it may take the turn of one that still reads its prompt, or of a stream in a lower tier."""
        rank, tier = self._rank(sequence, now), _TIERS.index(sequence.tier)
        return any(
            _TIERS.index(s.tier) > tier if s.generated else self._rank(s, now) > rank
            for s in self.running.values()
            if not s.paused
        )

    def _is_coming(self, sequence: Sequence, match: Match[Sequence]) -> bool:
        leader = match.leader
        if leader is None or leader.paused or match.coming < match.ready + MIN_SHARE:
            return False
        return leader.id in self.running and _TIERS.index(leader.tier) <= _TIERS.index(sequence.tier)

    def _need(self, sequence: Sequence) -> int:
        """Room that must be free to let it in: one that was parked comes back only when it can stay to its end."""
        if not self.running:
            return sequence.length
        own = sequence.cost if sequence.parked else sequence.length + min(sequence.left, HEADROOM)
        return own + sum(s.todo + min(s.left, HEADROOM) for s in self.running.values())

    def _could_fit(self, tokens: int) -> bool:
        """Whether giving up all that is kept would make the room: else it stays, for it would be lost for nothing."""
        running = sum(s.cells for s in self.running.values())  # what they share is counted twice: rather wait
        return self.ledger.capacity - running >= tokens

    def _enter(self, sequence: Sequence, match: Match[Sequence], now: float) -> None:
        self.waiting.remove(sequence)
        slot = sequence.slot = self._slots.pop()
        sequence.admitted = now if sequence.admitted is None else sequence.admitted
        self.running[sequence.id] = sequence
        if sequence.saved > match.ready:
            self._actions.append(Restore(sequence, slot))
            self.ledger.hold(sequence, sequence.saved)
            sequence.cells = sequence.saved
        elif match.source is not None and match.source.slot is not None:
            self._actions.append(Share(match.source.slot, slot, match.ready))
            self.ledger.share(match.source, sequence, match.ready)
            sequence.cells = match.ready
            sequence.shared = max(sequence.shared, min(match.ready, sequence.prompt_tokens))
            if match.source in self.kept:
                self.kept.move_to_end(match.source)
        sequence.saved = 0
        if self.policy.prefix_cache:
            self.index.add(key_of(sequence), sequence.tokens, sequence)

    # What is computed

    def _active(self, now: float) -> list[Sequence]:
        """Those whose turn it is: with one adapter, and no more than slots; others keep their place and wait."""
        running = list(self.running.values())
        if len(running) > self.policy.slots:
            # A stream goes on before any prompt of its tier; a higher tier goes before both.
            running.sort(key=lambda s: (_TIERS.index(s.tier), not s.generated, *self._rank(s, now)))
        for i, sequence in enumerate(running):
            sequence.paused = i >= self.policy.slots
        return self._of_one_adapter(running[: self.policy.slots])

    def _of_one_adapter(self, active: list[Sequence]) -> list[Sequence]:
        """The engine applies one adapter to a whole step, so they take turns."""
        adapters = sorted({s.adapter or "" for s in active})
        if len(adapters) > 1:
            last = self._last_adapter
            adapters = [next((a for a in adapters if a > last), adapters[0])]
        self._last_adapter = adapters[0] if adapters else ""
        return [s for s in active if (s.adapter or "") == self._last_adapter]

    def _decodes(self, streams: list[Sequence], now: float) -> list[Slice]:
        while streams and not self._make_room(len(streams)):
            victim = self._last(now)
            self._park(victim)
            streams = [s for s in streams if s is not victim]
        spare = min(self.ledger.free, self.policy.batch_tokens) - len(streams)
        slices = []
        for s in streams:
            drafted = min(len(s.draft), spare, s.left - 1) if s.draft else 0
            spare -= drafted
            slices.append(Slice(s, s.cells, 1 + drafted, 1 + drafted))
        return slices

    def _prefills(self, prompts: list[Sequence], decodes: list[Slice], now: float) -> list[Slice]:
        if not prompts:
            return []
        streams = len(decodes)
        taken = sum(s.count for s in decodes)
        hurry = self.policy.ttft_s["priority"] / 2 if now - self._hurried < BLEND_S else None
        budget = self.pacer.budget(streams=streams, step_s=hurry)
        if hurry is None and self._came_together(decodes, prompts):
            budget = max(budget, self.pacer.within(TOGETHER_S))
        budget = min(budget, self.policy.batch_tokens - taken)
        wanted = min(budget, sum(s.todo for s in prompts))
        self._make_room(taken + wanted)
        budget = min(wanted, self.ledger.free - taken)
        slices = []
        for sequence in sorted(prompts, key=lambda s: self._rank(s, now)):
            if budget < 1:
                break
            count = min(budget, sequence.todo)
            slices.append(Slice(sequence, sequence.cells, count, int(count == sequence.todo)))
            budget -= count
        return slices

    def _came_together(self, decodes: list[Slice], prompts: list[Sequence]) -> bool:
        """Whether all streams have just begun, and only short prompts are beside them. Read slowly, for the sake of
        those streams' gaps, they would begin one after the other, and so end: a long while of steps with few streams.
        """
        short = sum(s.prompt_tokens for s in prompts) <= self.policy.batch_tokens
        return short and all(part.sequence.generated <= BEGUN for part in decodes)

    def _lone_slice(self, now: float) -> Slice:
        """The first deterministic sequence's next part: always cut at the same places, whoever else is there."""
        sequence = self._apart[0]
        sequence.admitted = now if sequence.admitted is None else sequence.admitted
        count = min(APART_TOKENS, sequence.todo)
        return Slice(sequence, sequence.cells, count, int(count == sequence.todo))

    # Room in the cache

    def _make_room(self, tokens: int, spare: Sequence | None = None) -> bool:
        """Drop what is kept, the oldest first and `spare` not at all, until `tokens` fit. Whether they do."""
        while self.ledger.free < tokens and (oldest := next((s for s in self.kept if s is not spare), None)):
            self._drop(oldest)
        return self.ledger.free >= tokens

    def _last(self, now: float) -> Sequence:
        """Who loses its place first."""
        return max(self.running.values(), key=lambda s: (_TIERS.index(s.tier), *self._rank(s, now)))

    def _park(self, sequence: Sequence) -> None:
        assert sequence.slot is not None
        self._actions.append(Park(sequence, sequence.slot, sequence.cells))
        self._slots.append(sequence.slot)
        self.index.remove(sequence)
        self.ledger.release(sequence)
        sequence.slot, sequence.cells = None, 0
        del self.running[sequence.id]
        sequence.parked += 1
        self.parked += 1
        sequence.paused, sequence.draft = False, ()
        self.waiting.append(sequence)

    def _keep(self, sequence: Sequence) -> None:
        """Move what it computed to an id of its own, for the next prompt that begins alike."""
        assert sequence.slot is not None
        slot, self._slots = sequence.slot, [*self._slots, sequence.slot]
        self.index.remove(sequence)
        if not self._shelves and self.kept:
            self._drop(next(iter(self.kept)))
        if not self.policy.prefix_cache or sequence.cells < MIN_SHARE or not self._shelves:
            self._actions.append(Forget(slot))
            self.ledger.release(sequence)
            sequence.slot = None
            return
        sequence.slot = self._shelves.pop()
        self._actions += [Share(slot, sequence.slot, sequence.cells), Forget(slot)]
        self.kept[sequence] = sequence.slot
        sequence.tokens = sequence.tokens[: sequence.cells]
        self.index.add(key_of(sequence), sequence.tokens, sequence)
        for other in self.index.same_beginning(sequence):
            if other in self.kept:  # it adds nothing to this one
                self._drop(other, spill=False)

    def _tidy(self) -> None:
        if not self.kept:
            return
        running = sum(s.cells for s in self.running.values())
        limit = self.policy.kept_beside if self.running else self.policy.kept_tokens
        while self.kept and self.ledger.used - running > limit:
            self._drop(next(iter(self.kept)))

    def _drop(self, sequence: Sequence, *, spill: bool = True) -> None:
        """Give up what an ended sequence left in the cache."""
        shelf = self.kept.pop(sequence)
        self._shelves.append(shelf)
        self._actions += [Spill(sequence, shelf), Forget(shelf)] if spill else [Forget(shelf)]
        self.index.remove(sequence)
        self.ledger.release(sequence)
        sequence.slot, sequence.cells = None, 0

    def take_actions(self) -> tuple[Action, ...]:
        """What the engine must do before its cache is what the ledger says; a plan has them too."""
        actions, self._actions = tuple(self._actions), []
        return actions

    # Order

    def _rank(self, sequence: Sequence, now: float) -> tuple[float, float, float, int]:
        """Lower goes first. A request that has waited its tier's TTFT rises to the tier above: nobody starves."""
        order = self._order[sequence]
        if self.policy.order == "fifo":
            return (0.0, 0.0, sequence.arrived, order)
        tier = _TIERS.index(sequence.tier)
        level = max(0, tier - int((now - sequence.arrived) / self.policy.ttft_s[sequence.tier]))
        return (level, self.fairness.served(sequence.tenant), sequence.arrived, order)

    def _known(self, tenant: str) -> bool:
        return any(s.tenant == tenant for s in self.everyone)


APART_TOKENS = 16  # of a deterministic prompt in one step: short, for others wait meanwhile


def key_of(sequence: Sequence) -> Hashable:
    """What sequences must have in common to share tokens."""
    return (sequence.tenant, sequence.adapter)


def _overloaded(message: str, wait_s: float) -> Overloaded:
    wait_s = max(1.0, wait_s)
    return Overloaded(message, hint=f"try again in {math.ceil(wait_s)} s", retry_after=wait_s)
