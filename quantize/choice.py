"""Which of a model's variants suits this device: what fits its memory, how fast it is there, what it lost in quality.

A variant that is ready has passed a gate: its quality will do, so that the fastest that fits is chosen. Where a speed
is asked for, the best of those that reach it is. Where none is ready, quality decides, and the choice says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from statistics import median

from foreshore.card import Card, Interval, Speed
from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.edge.memory import Estimate, estimate, gib
from foreshore.edge.options import DEFAULT_CONTEXT, MAX_SLOTS, EngineOptions
from foreshore.errors import ModelError, NotFound, UsageError
from foreshore.manifest import Manifest, State
from foreshore.quantize.device import this_device
from foreshore.store import Store

__all__ = ["Choice", "Need", "Offer", "Rate", "Row", "choose", "fingerprints", "offers", "weights_read"]

STEP = 256  # tokens, to which the engine pads its cache
MASK = 2 * EngineOptions().batch_tokens  # bytes of a step's attention mask for a token of the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the user wants of the device, and what the device has."""

    context: int  # tokens of one request, prompt and answer
    concurrency: int = 1  # requests at the same time, each with `context` tokens
    memory_bytes: int  # that a worker may take
    fingerprints: tuple[str, ...]  # of the device's class, one for each engine
    bandwidth: float | None = None  # bytes/s of reading memory, for variants not measured on this class
    speed: float | None = None  # tokens/s that are fast enough; None: the faster the better

    def __post_init__(self) -> None:
        _check(self.context, self.concurrency)
        if self.speed is not None and not self.speed > 0:
            raise UsageError(f"the speed is {self.speed!r}; it must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A variant as this device would hold it, for the context and concurrency of a `Need`."""

    ref: str
    state: State
    bytes: int
    bits_per_weight: float
    context_length: int
    memory: Estimate | None = None  # None: see `problem`
    read: int = 0  # bytes of weights that decoding a token reads; 0: not known
    card: Card | None = None
    original: bool = False  # the quantized file that the others were made of: nothing says what it lost
    problem: str = ""  # why it cannot be loaded at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Tokens/s of a single stream: of decoding, or for an encoder of reading."""

    value: float
    low: float
    high: float
    measured: bool  # on this class of device; else predicted from the bandwidth


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    ref: str
    state: State
    bytes: int
    bits_per_weight: float
    fits: bool
    why: str  # it does not fit
    memory_bytes: int | None
    longest_context: int | None  # that each request could have in the memory there is
    rate: Rate | None
    kl_mean: Interval | None
    same_top: Interval | None
    cosine_mean: Interval | None
    original: bool

    @property
    def loss(self) -> float:
        """The worse end of the interval of what it lost, beyond what its source had; infinite where nothing was
        measured."""
        if self.original:
            return 0.0
        if self.kl_mean is not None:
            return self.kl_mean.high
        return 1 - self.cosine_mean.low if self.cosine_mean is not None else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    rows: tuple[Row, ...]
    recommended: str | None
    reason: str


def choose(found: Iterable[Offer], need: Need) -> Choice:
    """Pure: the recommendation, why, and every variant with what speaks for and against it."""
    found = tuple(found)
    bandwidth = _bandwidth(found, need)
    rows = tuple(_row(offer, need, bandwidth) for offer in found)
    fitting = [row for row in rows if row.fits]
    if not fitting:
        return Choice(rows=rows, recommended=None, reason=_none_fits(rows, need))
    ready = [row for row in fitting if row.state == "ready"]
    best, why = _fast(ready, need) if ready else _good(fitting, need)
    return Choice(rows=rows, recommended=best.ref, reason=f"{why}: {_numbers(best, need)}")


def offers(store: Store, name: str, context: int | None = None, concurrency: int = 1) -> tuple[int, tuple[Offer, ...]]:
    """The context, by default what an engine takes, and all variants of `name`. Raises `NotFound` if there is none."""
    _check(1 if context is None else context, concurrency)
    manifests = [m for m in store.list() if m.name == name]
    if not manifests:
        store.get(name)  # says what there is, or what is broken
        raise NotFound(f"no variant of {name!r} can be read", hint="foreshore models verify")
    tokens = context or min(DEFAULT_CONTEXT, max(1, *(m.context_length for m in manifests)))
    return tokens, tuple(_offer(m, store.path(m), tokens, concurrency) for m in manifests)


def fingerprints() -> tuple[str, ...]:
    """Of this device with each engine that is installed."""
    found = [this_device().fingerprint]
    with suppress(PackageNotFoundError):
        found.append(this_device("onnxruntime").fingerprint)
    return tuple(found)


def weights_read(info: GgufInfo) -> int:
    """Bytes of weights that decoding one token reads: all but the rows of embeddings and the experts not asked."""
    tied = all(t.name != "output.weight" for t in info.tensors)
    count, used = info.get(".expert_count"), info.get(".expert_used_count")
    asked = used / count if type(count) is int and type(used) is int and 0 < used <= count else 1.0
    total = 0.0
    for tensor in info.tensors:
        if tensor.name != "token_embd.weight" or tied:
            total += tensor.nbytes * (asked if "_exps." in tensor.name else 1.0)
    return int(total)


def _check(context: int, concurrency: int) -> None:
    if context < 1:
        raise UsageError(f"context is {context!r}; it must be a whole number of tokens from 1")
    if not 1 <= concurrency < MAX_SLOTS:
        raise UsageError(f"concurrency is {concurrency!r}; it must be from 1 to {MAX_SLOTS - 1}")


def _offer(manifest: Manifest, path: Path, context: int, concurrency: int) -> Offer:
    options = EngineOptions(
        context_tokens=context,
        slots=concurrency,
        kv_tokens=context * concurrency,
        batch_tokens=max(EngineOptions().batch_tokens, concurrency),
    )
    memory, read, problem = None, 0, ""
    try:
        memory = estimate(path, options)
        read = weights_read(inspect(path)) if path.suffix == ".gguf" else 0
    except (ModelError, NotFound) as error:
        problem = error.message
    return Offer(
        ref=manifest.ref,
        state=manifest.state,
        bytes=manifest.bytes,
        bits_per_weight=manifest.bits_per_weight,
        context_length=manifest.context_length,
        memory=memory,
        read=read,
        card=manifest.card,
        original=manifest.came_quantized,
        problem=problem,
    )


def _row(offer: Offer, need: Need, bandwidth: float | None) -> Row:
    card, why = offer.card or Card(), _obstacle(offer, need)
    divergence, similarity = (None, None) if offer.original else (card.divergence, card.similarity)
    return Row(
        ref=offer.ref,
        state=offer.state,
        bytes=offer.bytes,
        bits_per_weight=offer.bits_per_weight,
        fits=not why,
        why=why,
        memory_bytes=offer.memory.total if offer.memory else None,
        longest_context=_longest_context(offer, need),
        rate=_measured(offer, need) or _predicted(offer, need, bandwidth),
        kl_mean=divergence.kl_mean if divergence else None,
        same_top=divergence.same_top if divergence else None,
        cosine_mean=similarity.cosine_mean if similarity else None,
        original=offer.original,
    )


def _obstacle(offer: Offer, need: Need) -> str:
    if offer.memory is None:
        return offer.problem or "what it needs is not known"
    if need.context > offer.context_length:
        return f"its context ends at {offer.context_length} tokens"
    if offer.memory.total > need.memory_bytes:
        return f"needs {gib(offer.memory.total)}, {gib(need.memory_bytes)} is free"
    return ""


def _longest_context(offer: Offer, need: Need) -> int | None:
    """In steps of `STEP`, from the estimate for what was asked: each token more is a cell, and a column of the mask."""
    memory = offer.memory
    if memory is None:
        return None
    if not memory.cell:
        return offer.context_length if memory.total <= need.memory_bytes else 0
    tokens = memory.kv_tokens + (need.memory_bytes - memory.total) // (memory.cell + MASK)
    return max(0, min(tokens // need.concurrency // STEP * STEP, offer.context_length))


def _speed(offer: Offer, need: Need) -> Speed | None:
    """The latest on this class of device."""
    speeds = [s for s in (offer.card or Card()).speeds if s.device.fingerprint in need.fingerprints]
    return max(speeds, key=lambda s: s.date, default=None)


def _measured(offer: Offer, need: Need) -> Rate | None:
    speed = _speed(offer, need)
    spread = (speed.decode or speed.prefill) if speed else None
    return Rate(value=spread.median, low=spread.low, high=spread.high, measured=True) if spread else None


def _predicted(offer: Offer, need: Need, bandwidth: float | None) -> Rate | None:
    """Decoding waits for memory: for the weights, and for the cache, of which half a context is there on average."""
    if not bandwidth or not offer.read or offer.memory is None:
        return None
    value = bandwidth / (offer.read + offer.memory.cell * need.context / 2)
    return Rate(value=value, low=value, high=value, measured=False)


def _bandwidth(found: tuple[Offer, ...], need: Need) -> float | None:
    """Bytes/s that decoding reached with other variants here, which counts what it costs to unpack weights too; else
    what was measured of the memory alone."""
    speeds = [(offer, speed) for offer in found if (speed := _speed(offer, need))]
    reached = [speed.decode.median * offer.read for offer, speed in speeds if speed.decode and offer.read]
    if reached:
        return median(reached)
    plain = [speed.bandwidth_bytes_per_s for _, speed in speeds if speed.bandwidth_bytes_per_s]
    return median(plain) if plain else need.bandwidth


def _fast(ready: list[Row], need: Need) -> tuple[Row, str]:
    rated = [row for row in ready if row.rate is not None]
    if not rated:
        return min(ready, key=lambda row: row.bytes), "no speed is known, so the smallest of those that are ready"
    if need.speed is not None:
        enough = [row for row in rated if row.rate and row.rate.value >= need.speed]
        if enough:
            return min(enough, key=_quality), f"the best in quality of those ready that reach {need.speed:g} tokens/s"
    first = max(rated, key=lambda row: row.rate.value if row.rate else 0)
    assert first.rate is not None
    level = [row for row in rated if row.rate and row.rate.high >= first.rate.low]
    missed = "" if need.speed is None else f"none that is ready reaches {need.speed:g} tokens/s; "
    if len(level) == 1:
        return first, f"{missed}the fastest of those that are ready"
    return min(level, key=_quality), f"{missed}the best in quality of the {len(level)} fastest that are ready"


def _good(fitting: list[Row], need: Need) -> tuple[Row, str]:
    """None of them is ready."""
    enough = [row for row in fitting if need.speed is None or (row.rate and row.rate.value >= need.speed)]
    best = min(enough or fitting, key=_quality)
    how = "closest to its parent" if best.loss < float("inf") else "with the most bits, for none was measured"
    how = "that the others were made of" if best.original and len(fitting) > 1 else how
    missed = "" if enough else f" and none is known to reach {need.speed:g} tokens/s"
    return best, f"none that fits is ready (`foreshore models promote`){missed}; of the candidates the one {how}"


def _quality(row: Row) -> tuple[float, float, int]:
    return row.loss, -row.bits_per_weight, row.bytes


def _numbers(row: Row, need: Need) -> str:
    parts = [f"{gib(row.memory_bytes or 0)} of {gib(need.memory_bytes)} free"]
    if row.rate is not None:
        parts.append(f"{row.rate.value:.1f} tokens/s {'measured here' if row.rate.measured else 'predicted'}")
    if row.kl_mean is not None:
        parts.append(f"KL {row.kl_mean.value:.4f} [{row.kl_mean.low:.4f}, {row.kl_mean.high:.4f}]")
    if row.cosine_mean is not None:
        parts.append(f"cosine {row.cosine_mean.value:.4f} [{row.cosine_mean.low:.4f}, {row.cosine_mean.high:.4f}]")
    return ", ".join(parts)


def _none_fits(rows: tuple[Row, ...], need: Need) -> str:
    """And how near the nearest comes."""
    tokens, ref = max(((row.longest_context or 0, row.ref) for row in rows), default=(0, ""))
    return f"no variant fits{f'; {ref} would with a context of {tokens}' if 0 < tokens < need.context else ''}"
