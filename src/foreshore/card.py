"""What was measured of a variant: its card, a part of its manifest.

Quality is measured against the variant's parent, the same model before it was quantized; speed on a device, and a card
may hold the speeds of several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = [
    "Accuracy",
    "Card",
    "ConfidenceCard",
    "Device",
    "Divergence",
    "Interval",
    "Segment",
    "Similarity",
    "Speed",
    "Spread",
    "Threshold",
    "parse",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate and its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median, smallest and largest of repeated measurements."""

    median: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """How the next-token distributions differ from the parent's, on text that no calibration used."""

    parent_sha256: str  # of the parent's file
    text_sha256: str
    documents: int
    tokens: int  # predictions compared
    perplexity: Interval
    parent_perplexity: Interval
    kl_mean: Interval  # nats a token, KL(parent || variant)
    kl_p99: Interval  # nats
    same_top: Interval  # share of tokens where both hold the same token the likeliest
    perplexity_ratio: Interval | None = None  # the variant's over the parent's, paired by document; not in old cards


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One kind of task. `change` is the share of right answers less the parent's on the same questions."""

    count: int
    correct: int
    share: Interval
    parent_correct: int | None = None
    change: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    tasks_sha256: str
    segments: Mapping[str, Segment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity:
    """Of an encoder: the cosine between its vectors and the parent's, over `documents` texts."""

    parent_sha256: str
    text_sha256: str
    documents: int
    cosine_mean: Interval
    cosine_min: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """What a cascade does that keeps answers of at least this confidence."""

    confidence: float
    local_share: float  # of the answers that are kept
    accuracy: Interval  # share of right ones among those


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceCard:
    """What the variant's log-probabilities say of its answers being right, on tasks; cross-fitted.

    `model` is what computes it, a `foreshore.quality.confidence.Confidence` in JSON; `None` where there were too few
    right or wrong answers to learn it. The answers themselves are in `labels.jsonl` beside the manifest.
    """

    tasks_sha256: str
    count: int
    correct: int
    labels_sha256: str
    auroc: Interval | None = None  # probability that a right answer has more confidence than a wrong one
    ece: Interval | None = None  # mean distance between confidence and the share of right answers
    thresholds: tuple[Threshold, ...] = ()  # from all answers kept to a twentieth of them
    model: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A class of machines: two with the same `fingerprint` are expected to run a variant alike."""

    fingerprint: str
    cpu: str
    cores: int  # that the engine may use
    memory_bytes: int
    system: str
    engine: str  # name and version


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """`prefill` and `decode` are tokens/s of a single stream; for an encoder `prefill` alone says its speed."""

    device: Device
    date: str  # UTC, ISO 8601
    threads: int
    load_s: Spread
    peak_bytes: int  # the most memory that the worker held
    prefill: Spread | None = None
    decode: Spread | None = None
    bandwidth_bytes_per_s: float | None = None  # of reading memory with these threads, as measured on the device


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    divergence: Divergence | None = None
    accuracy: Accuracy | None = None
    similarity: Similarity | None = None
    confidence: ConfidenceCard | None = None
    speeds: tuple[Speed, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Card:
        """The inverse of `to_json`. Raises `TypeError` or `ValueError` for what is none."""
        return parse(cls, value)


def parse(kind: type[T], value: Any) -> T:
    """`value`, as JSON has it, as the dataclass `kind`. Raises `TypeError` or `ValueError` that names the odd field."""
    return _value(kind, value, kind.__name__)  # type: ignore[no-any-return]


def _value(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return None if value is None else _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        return tuple(_value(arguments[0], v, f"{where}[{i}]") for i, v in enumerate(_typed(list, value, where)))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        found = _typed(dict, value, where)
        return {str(k): _value(arguments[1], v, f"{where}.{k}") for k, v in found.items()}
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} is {value!r}, not one of {', '.join(map(repr, arguments))}")
        return value
    if is_dataclass(kind):
        return _record(kind, _typed(dict, value, where), where)
    if kind is float and type(value) is int:
        return float(value)
    return value if kind is Any else _typed(kind, value, where)


def _record(kind: Any, value: dict[str, Any], where: str) -> Any:
    known = {f.name for f in fields(kind)}
    if unknown := set(value) - known:
        raise ValueError(f"{where} has the unknown fields {sorted(unknown)}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], part, f"{where}.{name}") for name, part in value.items()})


def _typed(kind: Any, value: Any, where: str) -> Any:
    if type(value) is not kind and not (kind is list and isinstance(value, tuple)):
        raise TypeError(f"{where} is {value!r}, not {kind.__name__}")
    return value
