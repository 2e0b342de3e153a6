"""The second moments of what goes into each weight, (columns, columns): what `refine` rounds by. And what these inputs
lose where they are rounded themselves, as llama.cpp does before they meet quantized weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from foreshore.disk import disk_errors, fsync
from foreshore.edge.options import EngineOptions
from foreshore.quantize import child
from foreshore.quantize.texts import Corpus

__all__ = ["Moments", "collect_moments", "kept_moments"]

TOKENS = 32_768  # read, at most
CONTEXT = 512


class Moments:
    """A file of `collect_moments`, read as it is asked for."""

    def __init__(self, path: Path) -> None:
        self._arrays = np.load(path, allow_pickle=False)
        self._inputs = dict(zip(self._arrays["names"].tolist(), self._arrays["inputs"].tolist(), strict=True))

    def get(self, name: str) -> NDArray[np.float32] | None:
        number = self._inputs.get(name)
        return None if number is None else np.asarray(self._arrays[f"input{number}"], np.float32)

    def rounding(self, name: str, block: int) -> NDArray[np.float32] | None:
        """(columns,): the squared errors of the input of `name`, summed over the same tokens as its moments, if so many
        values are rounded together; `None` where nothing is known."""
        key = f"input{self._inputs.get(name)}rounded{block}"
        return np.asarray(self._arrays[key], np.float32) if key in self._arrays else None


def collect_moments(model: Path, corpus: Corpus, target: Path, *, threads: int | None = None) -> Path:
    """Read `corpus` with the GGUF file `model`, and write `target`, whole or not at all. Of inputs that are too wide
    for the memory that this may take, nothing is collected. Raises what `Child.ask` does."""
    draft = target.with_name(f".{target.name}.{os.getpid()}.npz")
    job = {
        "model": str(model),
        "documents": corpus.documents,
        "special": corpus.special,
        "context": CONTEXT,
        "tokens": TOKENS,
        "threads": EngineOptions(threads=threads).thread_count,
        "target": str(draft),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        child.run("foreshore.quantize.search.moments_child", job, doing=f"read a text with {model.name!r}")
        fsync(draft)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return target


def kept_moments(model: Path, corpus: Corpus, target: Path) -> Path:
    """`target`, collected unless it is there and whole. Raises what `collect_moments` does."""
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):  # who comes second finds it made
            if not is_zipfile(target):  # its end says what is in it
                collect_moments(model, corpus, target)
    return target
