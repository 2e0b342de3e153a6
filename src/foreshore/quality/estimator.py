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
from foreshore.quality.features import COUNTED, TOPIC_BITS, VERSION, WORD_BITS, Features, blocks, features
from foreshore.quality.reach import Reach
from foreshore.quality.topics import CLUSTERS, DIRECTIONS, Topics

__all__ = ["Estimator"]

FORMAT = "foreshore.estimator"
LARGEST = 64 << 20  # bytes of a file, and of what is packed in it
RETRAIN = "train it again with `foreshore route train`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimator:
    """`predict` is a pure function: features, one product, a sigmoid. `words` and `dense` (columns, targets) and `bias`
    (targets,) give log-odds; of a prompt that is strange, unlike all that were learnt from, `general` (counts, targets)
    and `general_bias` do. `report` is what held-out prompts said when it was trained."""

    targets: tuple[str, ...]
    words: NDArray[np.float32]
    dense: NDArray[np.float32]
    bias: NDArray[np.float32]
    general: NDArray[np.float32]
    general_bias: NDArray[np.float32]
    topics: Topics
    reach: Reach
    answers: bool = False  # whether it judges after the first target's answer
    labels: Mapping[str, int] = field(default_factory=dict)  # prompts that each target was learnt from
    scales: Mapping[str, float] = field(default_factory=dict)  # of each block of features
    report: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, text: str, answer: str | None = None) -> Mapping[str, float]:
        """The calibrated probability, by target or variant. `answer` is what the first target said; an estimator that
        reads answers needs it, and another takes none: `UsageError`."""
        if (answer is not None) != self.answers:
            reads = "reads the first target's answer" if self.answers else "judges before any answer is there"
            raise UsageError(f"this estimator {reads}", hint=RETRAIN)
        odds = np.exp(-np.clip(self._score(features(text, answer)), -30.0, 30.0))
        return dict(zip(self.targets, (1.0 / (1.0 + odds)).tolist(), strict=True))

    def _score(self, read: Features) -> NDArray[np.float32]:
        if self.reach.strange(read.counts):
            return np.asarray(self.reach.cut(read.counts) @ self.general + self.general_bias)
        places, values = read.words
        dense = np.concatenate([read.counts, read.shares, self.topics(read.single)])
        return np.asarray(values @ self.words[places] + dense @ self.dense + self.bias)

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
            "scales": dict(self.scales),
            "report": dict(self.report),
        }
        text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8)
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, header=text, **self._arrays())
        return packed.getvalue()

    def _arrays(self) -> dict[str, NDArray[Any]]:
        own = {name: getattr(self, name) for name in ("words", "dense", "bias", "general", "general_bias")}
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
        _check(arrays, len(names), bool(header["answers"]))
        topics = Topics(**{part.name: arrays.pop(f"topics_{part.name}") for part in fields(Topics)})
        reach = Reach(**{part.name: arrays.pop(f"reach_{part.name}") for part in fields(Reach)})
        return cls(
            targets=names,
            **arrays,
            topics=topics,
            reach=reach,
            answers=bool(header["answers"]),
            labels=dict(header["labels"]),
            scales=dict(header["scales"]),
            report=dict(header["report"]),
        )


def _check(arrays: Mapping[str, NDArray[Any]], targets: int, answers: bool) -> None:
    counted = sum(count for block, count in blocks(answers).items() if block in COUNTED)
    shapes: dict[str, tuple[int, ...]] = {
        "words": (1 << WORD_BITS, targets),
        "dense": (sum(blocks(answers).values()) + CLUSTERS, targets),
        "bias": (targets,),
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
