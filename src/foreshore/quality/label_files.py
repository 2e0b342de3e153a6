"""Files of labels: JSON lines or CSV, plain or gzipped, each row in one of a few forms.

{"prompt": ..., "target": ..., "correct": true}            also: weight, influenced, answer
{"prompt": ..., "winner": ..., "loser": ...}               names of targets; "chosen" and "rejected" mean the same
prompt, weak_correct, strong_correct                       a label for each column NAME_correct
prompt, weak_correct, strong_correct, weak_response        and the answer that estimators which read one learn from
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from foreshore.errors import NotFound, UsageError
from foreshore.quality.labels import Label, of_preference

__all__ = ["BadLine", "LabelFile", "read_labels"]

LONGEST = 16 << 20  # characters of a line
TRUE, FALSE = {"true", "1", "yes"}, {"false", "0", "no"}
SUFFIX, RESPONSE = "_correct", "_response"
FORMS = "give prompt, target and correct; or prompt, winner and loser; or prompt and columns NAME_correct"

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    file: str
    line: int
    why: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.why}"


@dataclass(slots=True, kw_only=True)
class LabelFile:
    """What a file held; `bad` names the lines that could not be read, nothing of which is in `labels`."""

    labels: list[Label] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)
    rows: int = 0


def read_labels(path: Path, names: Mapping[str, str] | None = None) -> LabelFile:
    """`names` gives targets of the file other names. Raises `NotFound`, or `UsageError` for what is no such file."""
    found = LabelFile()
    try:
        with _opened(path) as file:
            for number, row in _rows(path, file):
                found.rows += 1
                try:
                    if isinstance(row, UsageError):
                        raise row
                    found.labels.extend(_labels(row, names or {}))
                except UsageError as error:
                    found.bad.append(BadLine(file=str(path), line=number, why=error.message))
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {str(path)!r}") from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error}") from error
    if not found.rows:
        raise UsageError(f"{str(path)!r} is empty", hint=FORMS)
    return found


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="")
    return path.open(encoding="utf-8", errors="replace", newline="")


def _rows(path: Path, file: TextIO) -> Iterator[tuple[int, Row | UsageError]]:
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind == ".csv":
        return _of_csv(file)
    if kind in (".jsonl", ".ndjson"):
        return _of_json(file)
    raise UsageError(f"{str(path)!r} is neither .jsonl nor .csv", hint="gzipped ones end in .jsonl.gz or .csv.gz")


def _of_csv(file: TextIO) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(min(LONGEST, sys.maxsize))
    reader = csv.DictReader(file)
    for row in reader:
        yield (
            reader.line_num,
            {name: value for name, value in row.items() if name is not None and value not in ("", None)},
        )


def _of_json(file: TextIO) -> Iterator[tuple[int, Row | UsageError]]:
    number = 0
    while line := file.readline(LONGEST):
        number += 1
        if len(line) == LONGEST:
            raise UsageError(f"line {number} is longer than {LONGEST} characters")
        if line.strip():
            yield number, _parsed(line)


def _parsed(line: str) -> Row | UsageError:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return UsageError(f"this is not JSON: {error}")
    return row if isinstance(row, dict) else UsageError(f"a row is an object, not {type(row).__name__}")


def _labels(row: Row, names: Mapping[str, str]) -> list[Label]:
    prompt = row.get("prompt")
    if prompt is None:
        raise UsageError("there is no 'prompt'")
    weight, influenced = _number(row.get("weight", 1.0)), _flag("influenced", row.get("influenced", False))
    if "target" in row and "correct" in row:
        target, correct = _named(row["target"], names), _flag("correct", row["correct"])
        return [Label(prompt, target, correct, weight, influenced, row.get("answer"))]
    for better, worse in (("winner", "loser"), ("chosen", "rejected")):
        if better in row and worse in row:
            return of_preference(prompt, _named(row[better], names), _named(row[worse], names), weight, influenced)
    marks = [name for name in row if name.endswith(SUFFIX) and name != SUFFIX]
    if not marks:
        raise UsageError(f"there is neither a target nor a comparison: {FORMS}")
    answer = next((value for name, value in row.items() if name.endswith(RESPONSE)), None)
    return [
        Label(prompt, _named(name.removesuffix(SUFFIX), names), _flag(name, row[name]), weight, influenced, answer)
        for name in marks
    ]


def _named(name: Any, names: Mapping[str, str]) -> Any:
    return names.get(name, name) if isinstance(name, str) else name


def _flag(name: str, value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in TRUE | FALSE:
        raise UsageError(f"{name!r} must be true or false, not {value!r}"[:200])
    return word in TRUE


def _number(value: Any) -> Any:
    """CSV knows texts alone; what is no number is refused by `Label`."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
