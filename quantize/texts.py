"""Texts to calibrate on and, apart from them, texts to measure on: the shipped ones, the starters' chats, or a file.

The shipped general texts are `texts_calibration.jsonl` and `texts_evaluation.jsonl` beside this file, written for
Foreshore: prose, dialogue, code, data, mathematics and a share of languages other than English. They share no document.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from foreshore.errors import NotFound, SetupError, UsageError
from foreshore.starter import NAMES, chat
from foreshore.starter.tasks import HELD_OUT, TASKS, Example, example, levels

__all__ = ["Corpus", "calibration_text", "check_disjoint", "evaluation_text", "read_corpus"]

CHATS = 500  # documents of a starter's corpus by default: about 30,000 tokens
# Training draws its seeds from 0 to HELD_OUT, accuracy is measured on those just above it. Negative seeds give prompts
# of the training side, so that no calibration prompt is a held-out one, whatever seed made it.
CALIBRATION_SEEDS, EVALUATION_SEEDS = -1 << 36, HELD_OUT + (1 << 36)
MAX_BYTES = 256 << 20  # of a user's file; calibration text that helps has some 100 KiB
BLOCK = 1000  # characters from which on a document of a .txt file is full
LONGEST = 4000  # characters of a paragraph that is kept whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Documents that stand for themselves. `special`: control tokens in the text are read as such (rendered chats)."""

    documents: tuple[str, ...]
    sha256: str  # of the documents, whatever file they came in
    special: bool

    @classmethod
    def of(cls, documents: Iterable[str], *, special: bool = False) -> Corpus:
        """Raises `UsageError` for no text at all, and for what is not Unicode."""
        kept = tuple(text for text in documents if text.strip())
        if not kept:
            raise UsageError("the text is empty", hint="give some 100 KB of text that is like what the model will see")
        try:
            joined = "\0".join((f"special={special}", *kept)).encode()
        except UnicodeEncodeError as error:
            raise UsageError("the text is not Unicode: it holds half of a surrogate pair") from error
        return cls(documents=kept, sha256=hashlib.sha256(joined).hexdigest(), special=special)

    @property
    def text(self) -> str:
        """One text of all documents, as llama-imatrix would be given it."""
        return ("\n" if self.special else "\n\n").join(self.documents)


def calibration_text(name: str | None = None, *, documents: int | None = None) -> Corpus:
    """What to calibrate the model `name` on by default; at most the first `documents` of it."""
    return _default(name, "calibration", CALIBRATION_SEEDS, documents)


def evaluation_text(name: str | None = None, *, documents: int | None = None) -> Corpus:
    """What to measure the model `name` on by default; it shares no document with `calibration_text`."""
    return _default(name, "evaluation", EVALUATION_SEEDS, documents)


def read_corpus(path: str | Path, *, special: bool = False) -> Corpus:
    """The documents of a file: `.jsonl` has one in the `text` of each line; of any other, paragraphs (blank lines
    stand between them) are gathered into documents of about 1,000 characters.

    Raises `NotFound` or `UsageError`, with the line where one is at fault.
    """
    path = Path(path)
    text = _read(path)
    try:
        return Corpus.of(_lines(text) if path.suffix == ".jsonl" else _blocks(text), special=special)
    except UsageError as error:
        raise UsageError(f"{str(path)!r}: {error.message}", hint=error.hint) from error


def check_disjoint(calibration: Corpus, evaluation: Corpus) -> None:
    """Raise `UsageError` if a document is in both: what was calibrated on it would look better than it is."""
    shared = set(calibration.documents) & set(evaluation.documents)
    if shared:
        raise UsageError(
            f"{len(shared)} of {len(evaluation.documents)} documents to measure on are also calibrated on,"
            f" such as {min(shared)[:60]!r}",
            hint="give two files that share no document",
        )


def _default(name: str | None, part: str, first_seed: int, documents: int | None) -> Corpus:
    if documents is not None and documents < 1:
        raise UsageError(f"a text of {documents!r} documents", hint="take at least 1")
    if name in NAMES:
        return Corpus.of(islice(_chats(name, first_seed), documents or CHATS), special=True)
    path = Path(__file__).parent / f"texts_{part}.jsonl"
    if not path.is_file():
        raise SetupError(f"the {part} text is missing from this installation", hint="reinstall foreshore")
    return Corpus.of(read_corpus(path).documents[:documents])


def _chats(name: str, first_seed: int) -> Iterator[str]:
    """One example of each task and level after the other, as the model was trained on them, none twice."""
    kinds = [(task, level) for task in TASKS for level in levels(task)]
    seen = set()
    for seed in count(first_seed):
        for task, level in kinds:
            found = _render(example(task, level, seed), reasons=name == "starter-l")
            if found not in seen:
                seen.add(found)
                yield found


def _render(found: Example, *, reasons: bool) -> str:
    return chat.prompt(found.messages, found.tools) + chat.target(found, reasons=reasons)


def _read(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            hint = "a few hundred KB that are like what the model will see do as well"
            raise UsageError(f"{str(path)!r} has {size} bytes, more than the {MAX_BYTES} allowed", hint=hint)
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise NotFound(f"no such file: {str(path)!r}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{str(path)!r} is not UTF-8 text at byte {error.start}", hint="give a .txt or .jsonl file"
        ) from error
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error


def _lines(text: str) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"line {number} is not JSON: {error}") from error
        found = record.get("text") if isinstance(record, dict) else None
        if not isinstance(found, str):
            raise UsageError(f"line {number} has no string 'text': {line[:60]!r}", hint='write {"text": "..."}')
        yield found


def _blocks(text: str) -> Iterator[str]:
    gathered = ""
    for paragraph in re.split(r"\n[^\S\n]*\n\s*", text):
        # One without an end (a log, a book in a single line) is cut at spaces, or anywhere if it has none.
        for piece in re.findall(rf"(?s).{{1,{LONGEST}}}(?!\S)|.{{1,{LONGEST}}}", paragraph):
            gathered += f"\n\n{piece}" if gathered else piece
            if len(gathered) >= BLOCK:
                yield gathered
                gathered = ""
    if gathered:
        yield gathered
