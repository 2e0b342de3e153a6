"""What a report shows of each variant, out of its manifest: the points of its figures and the cells of its tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foreshore.card import Card, Device, Divergence, Interval, Segment, Similarity, Speed, Spread
from foreshore.figure.figure import number
from foreshore.figure.html import Html, join, tag
from foreshore.manifest import Manifest
from foreshore.quantize.report.front import Sample

__all__ = [
    "MIB", "Cost", "Entry", "accuracy_cell", "apart", "basis", "between", "by_device", "gain", "interval", "labels",
    "losses", "perplexity_cell", "sizes_of", "speeds_of", "spread",
]  # fmt: skip

MIB = 1 << 20
SAME_SIZE = 1.01  # a uniform type up to 1 % larger than a mix counts as no larger
NOTHING = "–"

Against = tuple[frozenset[str], str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the search knows: `kl` more nats a token if `tensor` has `type`, in `bytes`; `measured`, or else read off
    its rounding error; `None` where that was not kept."""

    tensor: str
    type: str
    kl: float
    bytes: int
    measured: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A variant; `predicted_kl` is what a search foretold of it."""

    manifest: Manifest
    predicted_kl: float | None = None

    @property
    def ref(self) -> str:
        return self.manifest.ref

    @property
    def card(self) -> Card:
        return self.manifest.card or Card()

    @property
    def types(self) -> Mapping[str, str]:
        """Of a mix: the type of each tensor."""
        found: Mapping[str, str] = self.manifest.recipe.get("tensors") or {}
        return found


def labels(entries: Sequence[Entry]) -> dict[str, str]:
    """Short names by ref: the variant's alone, if all are of one model."""
    one = len({e.manifest.name for e in entries}) == 1
    return {e.ref: e.manifest.variant if one else e.ref for e in entries}


def basis(entries: Sequence[Entry]) -> Divergence | Similarity | None:
    """What most variants were measured on, as the first of them has it."""
    usual = _usual(entries)
    return next((_measured(e) for e in entries if _measured(e) and _against(e) == usual), None)


def apart(entries: Sequence[Entry]) -> list[Entry]:
    """Measured on another text than most, or against another parent: not to be held against them."""
    usual = _usual(entries)
    return [e for e in entries if _measured(e) and _against(e) != usual]


def losses(entries: Sequence[Entry]) -> dict[str, Interval]:
    """By ref, the distance from the parent where it was measured as most were: the mean KL, or for encoders 1 less the
    cosine."""
    others = {e.ref for e in apart(entries)}
    found = {e.ref: loss for e in entries if e.ref not in others and _measured(e) and (loss := _loss(e.card))}
    return {ref: loss for ref, loss in found.items() if all(map(math.isfinite, (loss.low, loss.value, loss.high)))}


def _measured(entry: Entry) -> Divergence | Similarity | None:
    return None if entry.manifest.came_quantized else entry.card.divergence or entry.card.similarity


def _usual(entries: Sequence[Entry]) -> Against | None:
    count = Counter(_against(e) for e in entries if _measured(e))
    return max(count, key=lambda against: count[against], default=None)


def _against(entry: Entry) -> Against:
    """The source's files and the text, and whether the parent is the variant's own: those of one source that run in two
    engines have two parents, which are alike."""
    measured, parent = _measured(entry), entry.manifest.parent
    assert measured is not None
    own = parent is None or parent.sha256 == measured.parent_sha256
    return frozenset(entry.manifest.source.files.values()), measured.text_sha256, own


def _loss(card: Card) -> Interval | None:
    if card.divergence:
        return card.divergence.kl_mean
    if card.similarity:
        cosine = card.similarity.cosine_mean
        return Interval(value=1 - cosine.value, low=1 - cosine.high, high=1 - cosine.low)
    return None


def sizes_of(entries: Sequence[Entry]) -> list[Sample]:
    """Points of loss against MiB; what lost nothing has no place on a logarithmic axis."""
    sizes = {e.ref: e.manifest.bytes / MIB for e in entries}
    return _samples(entries, {ref: Interval(value=v, low=v, high=v) for ref, v in sizes.items()})


def speeds_of(entries: Sequence[Entry], speeds: Mapping[str, Speed]) -> list[Sample]:
    """Points of loss against decode speed, for encoders prefill speed; `speeds` by ref, all of one device."""
    spreads = {ref: speed.decode or speed.prefill for ref, speed in speeds.items()}
    xs = {ref: Interval(value=s.median, low=s.low, high=s.high) for ref, s in spreads.items() if s}
    return _samples(entries, xs)


def _samples(entries: Sequence[Entry], xs: Mapping[str, Interval]) -> list[Sample]:
    short, lost = labels(entries), losses(entries)
    return [
        Sample(label=short[e.ref], x=xs[e.ref], loss=lost[e.ref], mix=bool(e.types), ready=e.manifest.state == "ready")
        for e in entries
        if e.ref in xs and e.ref in lost and lost[e.ref].value > 0
    ]


def by_device(entries: Sequence[Entry]) -> list[tuple[Device, dict[str, Speed]]]:
    """The last speed of each variant on each class of devices, by ref."""
    devices: dict[str, tuple[Device, dict[str, Speed]]] = {}
    for entry in entries:
        for speed in sorted(entry.card.speeds, key=lambda s: s.date):
            devices.setdefault(speed.device.fingerprint, (speed.device, {}))[1][entry.ref] = speed
    return list(devices.values())


def gain(mix: Entry, entries: Sequence[Entry]) -> tuple[Entry, float] | None:
    """The best uniform type of no more bytes (up to 1 %), and the mix's loss as a share of its."""
    lost = losses(entries)
    limit = mix.manifest.bytes * SAME_SIZE
    rivals = [e for e in entries if not e.types and e.manifest.bytes <= limit and lost.get(e.ref)]
    if not rivals or mix.ref not in lost:
        return None
    best = min(rivals, key=lambda e: lost[e.ref].value)
    return (best, lost[mix.ref].value / lost[best.ref].value) if lost[best.ref].value > 0 else None


def interval(found: Interval | None, factor: float = 1, unit: str = "") -> str:
    if found is None:
        return NOTHING
    said = number(found.value * factor) + unit
    return join([said, between(found.low * factor, found.high * factor)]) if found.low < found.high else said


def perplexity_cell(found: Interval, ratio: Interval | None) -> str:
    """With its change from the parent's in per cent, which is paired; else with its own interval."""
    if ratio is None:
        return interval(found)
    value, low, high = (f"{100 * (v - 1):+.2f}" for v in (ratio.value, ratio.low, ratio.high))
    return join([number(found.value), tag("span", f"{value} % ({low} to {high})", class_="ci")])


def spread(found: Spread | None) -> str:
    if found is None:
        return NOTHING
    said = number(found.median)
    return join([said, between(found.low, found.high)]) if found.low < found.high else said


def between(low: float, high: float, signed: bool = False) -> Html:
    shown = [f"{v:+.1f}" if signed else number(v) for v in (low, high)]
    return tag("span", f"{shown[0]} to {shown[1]}", class_="ci")


def accuracy_cell(segment: Segment | None) -> str:
    """The share in per cent, and the change from the parent's in points."""
    if segment is None:
        return NOTHING
    parts: list[str] = [f"{100 * segment.share.value:.1f} %"]
    if segment.change is None:
        return join([*parts, between(100 * segment.share.low, 100 * segment.share.high)])
    change = segment.change
    role = "bad" if change.high < 0 else "good" if change.low > 0 else None
    said = f"{100 * change.value:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})"
    return join([*parts, tag("span", tag("span", said, class_=role), class_="ci")])
