"""The memory that measuring KL takes, in a process of its own, since a peak is of a process's whole life.

    python -m benchmarks.quantization_memory MODEL.gguf FOLDER [--context 512] [--windows 16]

Makes a reference of the model and compares the model with itself. Prints one JSON object, in MB: the most that one of
the child processes ever held, the model's file, and how much the peak of this process grew meanwhile.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from pathlib import Path

from benchmarks.models import digits
from benchmarks.peers import THREADS
from foreshore.quantize.quality import compare
from foreshore.quantize.reference import Reference
from foreshore.quantize.texts import Corpus

__all__ = ["main"]

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss: bytes there, KiB elsewhere


def main(argv: list[str] | None = None) -> None:
    options = _arguments(argv)
    corpus = Corpus.of(digits(options.context, seed) for seed in range(1, options.windows + 1))  # a digit is a token
    before = _peak(resource.RUSAGE_SELF)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        reference = Reference.build(options.model, corpus, Path(folder), context=options.context, threads=THREADS)
        compare(reference, options.model, threads=THREADS).divergence()
    print(json.dumps({
        "child_mb": _peak(resource.RUSAGE_CHILDREN), "model_mb": options.model.stat().st_size / 1e6,
        "parent_growth_mb": _peak(resource.RUSAGE_SELF) - before,
    }))  # fmt: skip


def _peak(who: int) -> float:
    return resource.getrusage(who).ru_maxrss * UNIT / 1e6


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The memory that measuring KL takes.")
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path, help="for the reference")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--windows", type=int, default=16)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
