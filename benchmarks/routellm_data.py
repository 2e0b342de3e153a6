"""Tables of prompts that two models answered: RouteLLM's own, or any other with the same columns."""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreshore.errors import NotFound, UsageError
from foreshore.quality.labels import Label, fraction

__all__ = ["Table", "read", "read_all"]

SUFFIX = "_correct"
WEAK, STRONG = "weak", "strong"

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`answers` are the weak model's, None where the data has none; `singles` are models of another price."""

    name: str
    prompts: Sequence[str]
    weak: Flags
    strong: Flags
    answers: Sequence[str] | None
    singles: dict[str, Flags]

    def __len__(self) -> int:
        return len(self.prompts)

    def labels(self, at: Sequence[int] | NDArray[np.intp], *, answers: bool = False) -> list[Label]:
        """Of the prompts `at`: a label for each of the two models. No other column is looked at."""
        return [
            Label(self.prompts[i], target, bool(right[i]), answer=self.answers[i] if answers and self.answers else None)
            for i in at
            for target, right in ((WEAK, self.weak), (STRONG, self.strong))
        ]

    def folds(self, count: int, seed: int) -> NDArray[np.intp]:
        """The fold of each prompt. Prompts with the same words are in the same one."""
        return np.array([int(fraction(f"{seed} {prompt}") * count) for prompt in self.prompts])

    def drawn(self, count: int, seed: int) -> Table:
        """`count` of its prompts, or all."""
        at = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return Table(
            name=self.name,
            prompts=[self.prompts[i] for i in at],
            weak=self.weak[at],
            strong=self.strong[at],
            answers=[self.answers[i] for i in at] if self.answers else None,
            singles={name: right[at] for name, right in self.singles.items()},
        )


def read_all(path: Path) -> dict[str, Table]:
    """RouteLLM's `mmlu` and `gsm8k` of a folder, or the one table of a file, under its own name."""
    if path.is_dir():
        return {name: read(_found(path, name)) for name in ("mmlu", "gsm8k")}
    table = read(path)
    return {table.name: table}


def read(path: Path) -> Table:
    """Raises `UsageError` for a file without the columns, `NotFound` where there is none."""
    csv.field_size_limit(sys.maxsize)
    try:
        with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {str(path)!r}") from error
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error}") from error
    columns = {"prompt", WEAK + SUFFIX, STRONG + SUFFIX}
    if not rows or not columns <= set(rows[0]):
        raise UsageError(f"{str(path)!r} has no rows with the columns {', '.join(sorted(columns))}")
    marks = [name for name in rows[0] if name and name.endswith(SUFFIX)]
    right = {name.removesuffix(SUFFIX): np.array([_true(row[name]) for row in rows]) for name in marks}
    return Table(
        name=path.name.split(".")[0],
        prompts=[row["prompt"] for row in rows],
        weak=right.pop(WEAK),
        strong=right.pop(STRONG),
        answers=[row["weak_response"] for row in rows] if "weak_response" in rows[0] else None,
        singles=right,
    )


def _true(word: str | None) -> bool:
    return str(word).strip().lower() in ("true", "1", "yes")


def _found(folder: Path, name: str) -> Path:
    known = [folder / f"{name}.csv{end}" for end in (".gz", "")]
    for path in known:
        if path.exists():
            return path
    raise NotFound(f"there is no file {str(known[0])!r}", hint="docs/quality.md says where it is from")
