"""Where a build knows from which weights matter: nowhere, a file, or a text that the model itself reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from foreshore.disk import disk_errors, sha256
from foreshore.edge.gguf import GgufInfo
from foreshore.errors import ModelError
from foreshore.home import home
from foreshore.manifest import Calibration
from foreshore.quantize.calibrate import collect
from foreshore.quantize.imatrix import Imatrix, check_fits, read_imatrix
from foreshore.quantize.texts import Corpus

__all__ = ["AUTO", "Importance"]

AUTO = "auto"
OWN = "sha256:"  # begins the name of the data set in matrices that are collected here
CONTEXT = 512  # tokens of a chunk, as llama-imatrix takes by default
OnRead = Callable[[int, int], None]  # is told the tokens read, and of how many


@dataclass(frozen=True, slots=True, kw_only=True)
class Importance:
    """`file` is an importance matrix that was given, `text` what one is collected on. Both `None`: all columns weigh
    the same."""

    file: Path | None = None
    text: Corpus | None = None
    _opened: dict[str, Path] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __bool__(self) -> bool:
        return self.file is not None or self.text is not None

    @property
    def recipe(self) -> dict[str, Any]:
        """As a manifest's recipe has it."""
        if self.file is not None:
            return {"imatrix": sha256(self.file)}
        return {"imatrix": AUTO, "text": self.text.sha256} if self.text is not None else {"imatrix": None}

    def open(self, base: GgufInfo, base_sha256: str, progress: OnRead) -> Path | None:
        """The matrix of the model `base`, kept in `home()/imatrices`: no text is read twice.

        Raises `ModelError` for a file that is none, or is another model's, and what `collect` raises.
        """
        if self.file is not None:
            check_fits(read_imatrix(self.file), base)
            return self.file
        if self.text is None:
            return None
        if base_sha256 not in self._opened:
            self._opened[base_sha256] = _collected(base, base_sha256, self.text, progress)
        return self._opened[base_sha256]

    def calibration(self, opened: Path | None) -> Calibration | None:
        if opened is None:
            return None
        return Calibration(imatrix_sha256=sha256(opened), text_sha256=self.text.sha256 if self.text else _text(opened))


def _collected(base: GgufInfo, base_sha256: str, text: Corpus, progress: OnRead) -> Path:
    settings = [base_sha256, text.sha256, CONTEXT, version("llama_cpp_python")]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
    target = home() / "imatrices" / f"{key}.gguf"
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):  # who comes second finds it made
            if not _is_sound(target):
                collect(base.path, text, context=CONTEXT, output=True, progress=progress).save(target)
    return target


def _text(matrix: Path) -> str | None:
    """The hash of the text that one of our own was collected on; others name a file, or nothing."""
    hashes = [name.removeprefix(OWN) for name in Imatrix.load(matrix).datasets if name.startswith(OWN)]
    return hashes[0] if len(hashes) == 1 else None


def _is_sound(path: Path) -> bool:
    try:
        return path.is_file() and bool(read_imatrix(path))
    except ModelError:
        return False
