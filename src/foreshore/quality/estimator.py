"""How probable it is, of each target, that its answer will be acceptable: from content alone, before any model runs."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshore.disk import disk_errors
from foreshore.errors import ModelError, NotFound, UsageError
from foreshore.quality.encoder import EncoderId
from foreshore.quality.features import COUNTED, TOPIC_BITS, VERSION, WORD_BITS, Features, blocks, features
from foreshore.quality.reach import Reach
from foreshore.quality.topics import CLUSTERS, DIRECTIONS, Topics
from foreshore.quality.weights import Weights

__all__ = ["Estimator"]

FORMAT = "foreshore.estimator"
FIT = "words", "dense", "bias"
EMBEDDED = "embedded_"  # before the names of the fit that an encoder tells
LARGEST = 64 << 20  # bytes of a file, and of what is packed in it
RETRAIN = "train it again with `foreshore route train`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """`predict` is a pure function: features, one product, a sigmoid. `plain` gives log-odds, or `embedded` where the
    vector of `encoder` is at hand; of a prompt that is strange, unlike all that were learnt from, `general` (counts,
    targets) and `general_bias` do. Each is calibrated for itself. `report` is what held-out prompts said when it was
    trained."""

    targets: tuple[str, ...]
    plain: Weights
    general: NDArray[np.float32]
    general_bias: NDArray[np.float32]
    topics: Topics
    reach: Reach
    encoder: EncoderId | None = None
    embedded: Weights | None = None  # None: no encoder was learnt from
    answers: bool = False  # whether it judges after the first target's answer
    labels: Mapping[str, int] = field(default_factory=dict)  # prompts that each target was learnt from
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scales(self) -> Mapping[str, float]:
        """Of each block of features, in the fit that knows the most."""
        return (self.embedded or self.plain).scales

    def predict(
        self, text: str, answer: str | None = None, *, vector: NDArray[np.float32] | None = None
    ) -> Mapping[str, float]:
        """The calibrated probability, by target or variant. `answer` is what the first target said; an estimator that
        reads answers needs it, and another takes none: `UsageError`. `vector` is what `encoder` makes of `text`; the
        estimate without one is calibrated too."""
        if (answer is not None) != self.answers:
            reads = "reads the first target's answer" if self.answers else "judges before any answer is there"
            raise UsageError(f"this estimator {reads}", hint=RETRAIN)
        if vector is not None and (self.encoder is None or vector.shape != (self.encoder.dimension,)):
            wanted = f"vectors of {self.encoder.dimension} numbers" if self.encoder else "no vectors"
            raise UsageError(f"this estimator takes {wanted}, not one of the shape {vector.shape}", hint=RETRAIN)
        odds = np.exp(np.minimum(np.maximum(-self._score(features(text, answer), vector), -30.0), 30.0))
        return dict(zip(self.targets, (1.0 / (1.0 + odds)).tolist(), strict=True))

    def _score(self, read: Features, vector: NDArray[np.float32] | None) -> NDArray[np.float32]:
        if self.reach.strange(read.counts):
            return np.asarray(self.reach.cut(read.counts) @ self.general + self.general_bias)
        topics = self.topics(read.single)
        if vector is None or self.embedded is None:
            return self.plain.score(read, topics)
        return self.embedded.score(read, topics, vector)

    def with_report(self, report: Mapping[str, Any]) -> Estimator:
        return replace(self, report=report)

    def save(self, path: Path) -> None:
        """Whole or not at all: a file that is there stays until the new one is. Raises `UsageError` for a place where
        no file can be, `SetupError` for the disk."""
        if path.is_dir() or not path.parent.is_dir():
            raise UsageError(f"{str(path)!r} cannot be written: it is a folder, or in none that is there")
        data = self._packed()
        with disk_errors(path.parent, len(data)):
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(name, 0o644)
                os.replace(name, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(name)
                raise

    @classmethod
    def load(cls, path: Path) -> Estimator:
        """Raises `NotFound`, or `ModelError` for a file that is damaged or no estimator. Runs nothing that is in it."""
        try:
            if path.stat().st_size > LARGEST:
                raise ModelError(f"{str(path)!r} is too large for an estimator", hint=RETRAIN)
            return cls._unpacked(path.read_bytes())
        except FileNotFoundError as error:
            raise NotFound(
                f"there is no estimator {str(path)!r}", hint="make one with `foreshore route train`"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(f"{str(path)!r} is no estimator, or a damaged one: {error}", hint=RETRAIN) from error

    def _packed(self) -> bytes:
        header = {
            "format": FORMAT,
            "features": VERSION,
            "targets": self.targets,
            "answers": self.answers,
            "labels": dict(self.labels),
            "scales": dict(self.plain.scales),
            "encoder": None if self.encoder is None else self.encoder.to_json(),
            "embedded_scales": dict(self.embedded.scales) if self.embedded else {},
            "report": dict(self.report),
        }
        text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, header=text, **self._arrays())
        return packed.getvalue()

    def _arrays(self) -> dict[str, NDArray[Any]]:
        own = {"general": self.general, "general_bias": self.general_bias}
        for prefix, fit in (("", self.plain), (EMBEDDED, self.embedded)):
            own |= {prefix + name: getattr(fit, name) for name in FIT} if fit else {}
        topics = {f"topics_{part.name}": getattr(self.topics, part.name) for part in fields(Topics)}
        return own | topics | {f"reach_{part.name}": getattr(self.reach, part.name) for part in fields(Reach)}

    @classmethod
    def _unpacked(cls, data: bytes) -> Estimator:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            if sum(member.file_size for member in packed.infolist()) > LARGEST:
                raise ValueError("what is packed in it is too large")
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']!r}")
        if header["features"] != VERSION:
            raise ValueError(f"it knows features of version {header['features']!r}, not {VERSION}")
        names = tuple(header["targets"])
        if not names or len(set(names)) != len(names) or not all(isinstance(n, str) for n in names):
            raise ValueError("its targets are not different names")
        encoder = header.get("encoder")  # files made before there were any have none
        encoder = None if encoder is None else EncoderId.from_json(encoder)
        _check(arrays, len(names), bool(header["answers"]), encoder)
        topics = Topics(**{part.name: arrays.pop(f"topics_{part.name}") for part in fields(Topics)})
        reach = Reach(**{part.name: arrays.pop(f"reach_{part.name}") for part in fields(Reach)})
        return cls(
            targets=names,
            plain=Weights(**{name: arrays.pop(name) for name in FIT}, scales=dict(header["scales"])),
            encoder=encoder,
            embedded=_embedded(arrays, header) if encoder else None,
            **arrays,
            topics=topics,
            reach=reach,
            answers=bool(header["answers"]),
            labels=dict(header["labels"]),
            report=dict(header["report"]),
        )


def _embedded(arrays: dict[str, NDArray[Any]], header: Mapping[str, Any]) -> Weights:
    return Weights(**{name: arrays.pop(EMBEDDED + name) for name in FIT}, scales=dict(header["embedded_scales"]))


def _check(arrays: Mapping[str, NDArray[Any]], targets: int, answers: bool, encoder: EncoderId | None) -> None:
    columns = sum(blocks(answers).values()) + CLUSTERS
    counted = sum(count for block, count in blocks(answers).items() if block in COUNTED)
    shapes: dict[str, tuple[int, ...]] = {
        **_shapes("", columns, targets),
        **(_shapes(EMBEDDED, columns + encoder.dimension, targets) if encoder else {}),
        "general": (counted, targets),
        "general_bias": (targets,),
        "topics_directions": (1 << TOPIC_BITS, DIRECTIONS),
        "topics_centre": (DIRECTIONS,),
        "topics_middles": (DIRECTIONS, CLUSTERS),
        **{f"reach_{part.name}": (counted,) for part in fields(Reach)},
    }
    if set(arrays) != set(shapes):
        raise ValueError(f"its parts are {', '.join(sorted(arrays))}")
    for name, shape in shapes.items():
        found = arrays[name]
        if found.shape != shape or found.dtype != np.float32:
            raise ValueError(f"its {name!r} is {found.dtype} of the shape {found.shape}")
        if not np.isfinite(found).all():
            raise ValueError(f"its {name!r} has numbers that are not finite")


def _shapes(prefix: str, columns: int, targets: int) -> dict[str, tuple[int, ...]]:
    shapes = (1 << WORD_BITS, targets), (columns, targets), (targets,)
    return dict(zip((prefix + name for name in FIT), shapes, strict=True))
