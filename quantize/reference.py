"""What a parent model predicts on a text, recorded once, so that any number of variants can be compared with it.

A reference is a folder: `head.json`, the tokens, and a record of each token's distribution (`topk`), at most 1/50 of
the full float32 logits. Its name is a hash of the parent's file, the text, and all that decides what is recorded, so
the same one is never made twice, and a changed one never used by mistake.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from filelock import FileLock

from foreshore.disk import disk_errors, fsync, sha256, write_text
from foreshore.errors import ModelError, UsageError
from foreshore.home import home
from foreshore.quantize.forward import OnRead, read, record_type
from foreshore.quantize.texts import Corpus

__all__ = ["CONTEXT", "Reference"]

CONTEXT = 512  # tokens of a window: what llama-perplexity takes too
FORMAT = 1  # of the folder; a new one makes old references unused
HEAD, FILES = "head.json", ("records.bin", "tokens.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """`windows` has for each window the number of its document and its length in tokens."""

    folder: Path
    parent_sha256: str
    text_sha256: str
    vocab: int
    tokens: int  # scored
    skip: int
    windows: tuple[tuple[int, int], ...]
    head: Mapping[str, Any]

    @classmethod
    def build(
        cls,
        parent: Path,
        corpus: Corpus,
        folder: Path | None = None,
        *,
        context: int = CONTEXT,
        skip: int = 0,
        threads: int | None = None,
        progress: OnRead = lambda done, total: None,
    ) -> Self:
        """The reference of the GGUF file `parent` on `corpus`, in `folder` (default `home()/references`), made if it
        is not there.

        Documents are read in windows of `context` tokens, or of what the parent can hold; every token of a window
        counts but its first one, which nothing predicts, and the `skip` after it. llama-perplexity cuts one text into
        windows and skips half of each: `skip=context // 2` does that.
        """
        if context < 2 or not 0 <= skip < context - 1:
            raise UsageError(f"context {context!r} with skip {skip!r} leaves no token to predict")
        settings = {
            "format": FORMAT,
            "parent_sha256": sha256(parent),
            "text_sha256": corpus.sha256,
            "context": context,
            "skip": skip,
            "engine": version("llama_cpp_python"),
        }
        root = folder or home() / "references"
        target = root / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
        with disk_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f"{target.name}.lock"):  # who comes second finds it made
                if not _is_whole(target):
                    _make(target, parent, corpus, settings, threads, progress)
        return cls.open(target)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Raises `ModelError` for what is no reference, or not a whole one."""
        try:
            head = json.loads((folder / HEAD).read_bytes())
            found = cls(
                folder=folder,
                parent_sha256=head["parent_sha256"],
                text_sha256=head["text_sha256"],
                vocab=head["vocab"],
                tokens=head["tokens"],
                skip=head["skip"],
                windows=tuple((number, length) for number, length in head["windows"]),
                head=head,
            )
            whole = found.nbytes == sum((folder / name).stat().st_size for name in FILES)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ModelError(f"{str(folder)!r} is not a reference", hint="remove it; it is made again") from error
        if not whole:
            raise ModelError(f"the reference {str(folder)!r} is damaged", hint="remove it; it is made again")
        return found

    @property
    def nbytes(self) -> int:
        """Of records and tokens."""
        record = record_type(self.vocab, self.head["columns"]).itemsize
        return self.tokens * record + 4 * sum(length for _, length in self.windows)

    @property
    def logits_nbytes(self) -> int:
        """What the full logits would take in float32."""
        return 4 * self.vocab * self.tokens


def _is_whole(folder: Path) -> bool:
    try:
        Reference.open(folder)
    except ModelError:
        return False
    return True


def _make(
    target: Path, parent: Path, corpus: Corpus, settings: Mapping[str, Any], threads: int | None, progress: OnRead
) -> None:
    """The caller holds the lock, so whatever lies in the way was left by one that was killed, or is damaged."""
    for left in (target, *target.parent.glob(f"{target.name}-*.draft")):
        shutil.rmtree(left, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{target.name}-", suffix=".draft", dir=target.parent))
    try:
        write_text(draft / "documents.json", json.dumps(corpus.documents))
        made = read(
            "record",
            parent,
            threads=threads,
            progress=progress,
            folder=str(draft),
            context=settings["context"],
            skip=settings["skip"],
            special=corpus.special,
        )
        (draft / "documents.json").unlink()
        for name in FILES:
            fsync(draft / name)
        write_text(draft / HEAD, json.dumps({**settings, **made}))
        fsync(draft)
        os.rename(draft, target)
        fsync(target.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
