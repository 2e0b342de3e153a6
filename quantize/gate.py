"""Whether a variant is good enough: a rule over what was measured of it, and the decision it leads to.

    kl<=0.05,kl_p99<=0.6,same_top>=0.9,accuracy>=-10%

Each condition is held against the end of the 95 % interval that speaks against the variant: the upper one where less is
better, the lower one where more is. So a measurement of too few documents or questions does not pass by luck. What was
not measured does not pass either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from foreshore.card import Card
from foreshore.errors import UsageError
from foreshore.manifest import Calibration, Decision, Manifest, Parent, quality_sha256
from foreshore.store import Store

__all__ = ["DEFAULT", "ENCODER", "Condition", "Finding", "Gate", "check_owner", "promote"]

DEFAULT = "kl<=0.05,kl_p99<=0.6,same_top>=0.9,accuracy>=-0.1"
"""Of a model that generates. In llama.cpp's table for an 8B model (tools/perplexity/README.md) Q4_K_M has a mean KL of
0.028 nats and 91.9 % of the likeliest tokens unchanged, Q3_K_M 0.084 nats: 0.05 and 0.9 lie between the two. Where that
page prints a whole distribution, the 99th percentile is 8.8 times the mean; twelve times leaves room, and stops a
variant whose mean hides a few tokens gone wrong. On no kind of task may a tenth of the answers have been lost: with a
hundred questions of each, the interval of a variant that answers them all alike reaches down to 4 in a hundred."""
ENCODER = "cosine>=0.99"
"""Of an encoder: the mean cosine to the parent's vectors."""

Relation = Literal["<=", ">="]
Bounds = Callable[[Card], Mapping[str, float] | None]  # by segment, "" where there are none; None: not measured
MAX_OWNER = 200
PARENT_QUANTIZED = "its source came quantized: what that lost cannot be measured without the model in full precision"
_CONDITION = re.compile(
    r"\s*([a-z0-9_]+)\s*(<=|>=)\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)\s*(%?)\s*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metric:
    relation: Relation
    lowest: float  # of a limit that makes sense
    highest: float
    bounds: Bounds
    share: bool = True  # may be written with %


def _kl(card: Card) -> dict[str, float] | None:
    return None if card.divergence is None else {"": card.divergence.kl_mean.high}


def _kl_p99(card: Card) -> dict[str, float] | None:
    return None if card.divergence is None else {"": card.divergence.kl_p99.high}


def _same_top(card: Card) -> dict[str, float] | None:
    return None if card.divergence is None else {"": card.divergence.same_top.low}


def _accuracy(card: Card) -> dict[str, float] | None:
    if card.accuracy is None or not card.accuracy.segments:
        return None
    changes = {name: segment.change for name, segment in card.accuracy.segments.items()}
    return {name: float("nan") if change is None else change.low for name, change in changes.items()}


def _cosine(card: Card) -> dict[str, float] | None:
    return None if card.similarity is None else {"": card.similarity.cosine_mean.low}


METRICS: Mapping[str, _Metric] = {
    "kl": _Metric(relation="<=", lowest=0, highest=1e6, bounds=_kl, share=False),
    "kl_p99": _Metric(relation="<=", lowest=0, highest=1e6, bounds=_kl_p99, share=False),
    "same_top": _Metric(relation=">=", lowest=0, highest=1, bounds=_same_top),
    "accuracy": _Metric(relation=">=", lowest=-1, highest=1, bounds=_accuracy),
    "cosine": _Metric(relation=">=", lowest=-1, highest=1, bounds=_cosine),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    metric: str
    limit: float

    @property
    def relation(self) -> Relation:
        return METRICS[self.metric].relation

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.limit!r}"

    def findings(self, card: Card) -> Iterator[Finding]:
        bounds = METRICS[self.metric].bounds(card)
        if bounds is None:
            yield Finding(condition=self, segment="", bound=None)
        for segment, bound in (bounds or {}).items():
            yield Finding(condition=self, segment=segment, bound=None if bound != bound else bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A condition held against the card. `bound` is the end of the interval that counts; `None`: not measured."""

    condition: Condition
    segment: str  # a kind of task, where the condition is held against each
    bound: float | None

    @property
    def met(self) -> bool:
        if self.bound is None:
            return False
        limit = self.condition.limit
        return self.bound <= limit if self.condition.relation == "<=" else self.bound >= limit

    def __str__(self) -> str:
        what = self.condition.metric + (f" of {self.segment!r}" if self.segment else "")
        if self.bound is None:
            return f"{what} was not compared with the parent's" if self.segment else f"{what} was not measured"
        end, limit = ("upper", "at most") if self.condition.relation == "<=" else ("lower", "at least")
        said = "is" if self.met else "is, against the rule,"
        return f"the {end} bound of {what} {said} {self.bound:.6g}; {limit} {self.condition.limit:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    conditions: tuple[Condition, ...]

    @classmethod
    def parse(cls, spec: str) -> Gate:
        """The rule that `spec` says: conditions separated by commas, all of which must hold. Raises `UsageError`."""
        conditions = tuple(_condition(part, spec) for part in spec.split(","))
        names = [c.metric for c in conditions]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise UsageError(f"the gate {spec!r} has two conditions for {twice!r}", hint="keep one of them")
        return cls(conditions=conditions)

    @classmethod
    def default(cls, card: Card | None) -> Gate:
        """`ENCODER` for what was measured as an encoder, else `DEFAULT`."""
        encoder = card is not None and card.similarity is not None and card.divergence is None
        return cls.parse(ENCODER if encoder else DEFAULT)

    def __str__(self) -> str:
        return ",".join(map(str, self.conditions))

    def findings(self, card: Card | None) -> tuple[Finding, ...]:
        return tuple(finding for c in self.conditions for finding in c.findings(card or Card()))

    def judge(
        self,
        card: Card | None,
        owner: str,
        *,
        parent: Parent | None = None,
        calibration: Calibration | None = None,
        parent_quantized: bool = False,
        date: str | None = None,
    ) -> Decision:
        """Whether every condition holds. `owner` answers for the decision; `date` is UTC, ISO 8601, now by default.

        Where the variant's `parent` and `calibration` are known, measurements against another parent, or on the text
        that calibrated it, do not count. None passes of a `parent_quantized`.
        Raises `UsageError` for an owner without a name.
        """
        reasons = (*_doubts(card or Card(), parent, calibration), *(str(f) for f in self.findings(card) if not f.met))
        if parent_quantized:
            reasons = (PARENT_QUANTIZED, *reasons)
        return Decision(
            rule=str(self),
            owner=check_owner(owner),
            date=date or datetime.now(UTC).isoformat(timespec="seconds"),
            passed=not reasons,
            reasons=reasons,
            quality_sha256=quality_sha256(card),
        )


def promote(store: Store, ref: str, owner: str, gate: Gate | None = None) -> Manifest:
    """Have the gate decide over a variant, and keep the decision in its manifest, whichever it is.

    `None` is the default gate for what was measured. The manifest's state follows: a variant that passed before and
    does not pass now is a candidate again. Raises `NotFound`, `UsageError`, or `ModelError` for damaged files.
    """
    check_owner(owner)
    ref = store.sound(ref).ref

    def decide(manifest: Manifest) -> Manifest:
        rule = gate or Gate.default(manifest.card)
        decision = rule.judge(
            manifest.card,
            owner,
            parent=manifest.parent,
            calibration=manifest.calibration,
            parent_quantized=manifest.parent_quantized,
        )
        return replace(manifest, gate=(*manifest.gate, decision))

    return store.update(ref, decide)


def _condition(part: str, spec: str) -> Condition:
    found = _CONDITION.fullmatch(part)
    if found is None:
        hint = f"conditions look like {DEFAULT!r}"
        raise UsageError(f"{part.strip()!r} in the gate {spec!r} is no condition", hint=hint)
    name, relation, number, percent = found.groups()
    metric = METRICS.get(name)
    if metric is None:
        raise UsageError(f"a gate knows no {name!r}", hint=f"known are {', '.join(METRICS)}")
    if relation != metric.relation:
        raise UsageError(f"{part.strip()!r} limits {name} on the wrong side", hint=f"write {name}{metric.relation}...")
    if percent and not metric.share:
        raise UsageError(f"{part.strip()!r} is in per cent, but {name} is in nats", hint=f"such as {DEFAULT!r}")
    limit = float(number) / (100 if percent else 1)
    if not metric.lowest <= limit <= metric.highest:
        hint = f"from {metric.lowest:g} to {metric.highest:g}"
        raise UsageError(f"the limit of {part.strip()!r} can never make a difference", hint=hint)
    return Condition(metric=name, limit=limit)


def check_owner(owner: str) -> str:
    """`owner` without space around it. Raises `UsageError` for what names nobody."""
    name = owner.strip()
    if not name or not name.isprintable() or len(name) > MAX_OWNER:
        hint = f"name who answers for it, in at most {MAX_OWNER} characters"
        raise UsageError(f"{owner!r} cannot be the owner of a decision", hint=hint)
    return name


def _doubts(card: Card, parent: Parent | None, calibration: Calibration | None) -> Iterator[str]:
    """Why what was measured says nothing about this variant."""
    for name in ("divergence", "similarity"):
        measured = getattr(card, name)
        if measured is None:
            continue
        if parent is not None and measured.parent_sha256 != parent.sha256:
            yield f"the {name} was measured against another parent, {measured.parent_sha256[:12]}"
        if calibration is not None and measured.text_sha256 in calibration.texts:
            yield f"the {name} was measured on the text that calibrated the variant, {measured.text_sha256[:12]}"
