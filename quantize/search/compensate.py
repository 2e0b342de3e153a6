"""Has each tensor of a file make up for the errors of those before it.

What tensors lose changes what goes into those after them. So, in the order of the graph, each is rounded anew for what
goes into it in this very file, Y, so that what comes out is near to what comes out in the parent, X W' (asymmetric
calibration: GPTAQ, Li et al., 2025). The weights nearest to that are W + W (X - Y)'Y (Y'Y)^-1, and those are refined
(`refine`) by Y'Y. The token embedding stays as it is, also where it is the output.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import accumulate
from math import nan
from pathlib import Path

from filelock import FileLock

from foreshore.disk import disk_errors, require_space, sha256
from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.edge.options import EngineOptions
from foreshore.quantize import child
from foreshore.quantize.progress import OnCount
from foreshore.quantize.prune import prune
from foreshore.quantize.quality import compare
from foreshore.quantize.reference import Reference
from foreshore.quantize.texts import Corpus

__all__ = ["Compensated", "compensate", "worthwhile"]

TOKENS = 16_384  # read, at most: twice as many bring nothing, half of them lose 8 % of what it brings
ENOUGH = 8  # tokens for each column of an input: with a third of that, what is made up for is chance
CHARACTERS = 2  # of a token, at least, as far as a text's length tells its tokens
CONTEXT = 512
JUDGED, SHARE = 12_000, 0.1  # characters, at most, and share of the text that the file is measured on before and after
IDLE_S = 7 * 86_400.0  # after which what was not finished is dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class Compensated:
    """`stages` of `of`: weights that share an input are one. Left as it is what has too wide an input for the text, or
    for as much of it as there is time to read. `before` and `after` are the mean KL, in nats, on the text's last
    documents, which are not read for it, where any stage was done; the file stays as it was if that did not fall."""

    stages: int
    of: int
    tokens: int  # read for each
    before: float = nan
    after: float = nan

    @property
    def kept(self) -> bool:
        return self.after < self.before

    def __str__(self) -> str:
        if not self.kept:
            return "left as it was" if self.stages else "no time or too little text"
        how = f"the weights of {self.stages} of {self.of} inputs, on {self.tokens} tokens"
        return f"{how}; mean KL on a part of the text {self.before:.4g} before, {self.after:.4g} after"


def worthwhile(base: GgufInfo, corpus: Corpus) -> bool:
    """Whether `corpus` may be long enough for the narrowest input of the model's layers."""
    columns = min((t.shape[0] for t in base.tensors if len(t.shape) == 2 and t.name.startswith("blk.")), default=0)
    return columns * ENOUGH <= min(TOKENS, sum(map(len, corpus.documents)) / CHARACTERS)


def compensate(
    base: Path,
    mix: Path,
    corpus: Corpus,
    *,
    budget_s: float,
    cache: Path,
    threads: int | None = None,
    progress: OnCount = lambda done, total: None,
) -> Compensated:
    """Change the file `mix`, whole or not at all: weights of `base` in types of its own.

    `corpus` is read as often as there are stages, or as much of it as `budget_s` has time for. In `cache` lies what
    is not done yet: who was killed goes on from there. `progress` is told stages. Raises what `Child.ask` does.
    """
    made = "\0".join((sha256(base), sha256(mix), corpus.sha256, version("llama_cpp_python")))
    draft = cache / f"compensated-{hashlib.sha256(made.encode()).hexdigest()[:32]}.gguf"
    ledger, size = draft.with_suffix(".stages"), inspect(mix).size
    read, judged = _parted(corpus)
    with disk_errors(cache, size):
        cache.mkdir(parents=True, exist_ok=True)
        prune(cache, keep=0, idle_s=IDLE_S)
        with FileLock(draft.with_suffix(".lock")):
            if not (ledger.exists() and draft.exists()):
                ledger.unlink(missing_ok=True)
                require_space(cache, size)
                shutil.copyfile(mix, draft)
            job = {
                "base": str(base),
                "mix": str(draft),
                "documents": read.documents,
                "special": read.special,
                "context": CONTEXT,
                "tokens": TOKENS,
                "enough": ENOUGH,
                "budget_s": budget_s,
                "threads": EngineOptions(threads=threads).thread_count,
                "ledger": str(ledger),
            }
            module, doing = "foreshore.quantize.search.compensate_child", f"compensated {mix.name!r}"
            found = Compensated(**child.run(module, job, doing=doing, progress=progress))
            if found.stages:
                before, after = _compared(base, judged, (mix, draft))
                found = replace(found, before=before, after=after)
            if found.kept:
                _move(draft, mix)
            draft.unlink(missing_ok=True)
            ledger.unlink(missing_ok=True)
    return found


def _parted(corpus: Corpus) -> tuple[Corpus, Corpus]:
    """What is read, and the last documents, which the file is measured on; the same where there is one document."""
    sizes = list(accumulate(len(text) for text in reversed(corpus.documents)))
    count = max(1, bisect_right(sizes, min(JUDGED, SHARE * sizes[-1])))
    read, last = corpus.documents[:-count] or corpus.documents, corpus.documents[-count:]
    return (
        Corpus.of(read, special=corpus.special),
        Corpus.of((text[:JUDGED] for text in last), special=corpus.special),
    )


def _compared(base: Path, corpus: Corpus, files: Iterable[Path]) -> list[float]:
    """The mean KL of each, in nats."""
    with tempfile.TemporaryDirectory(prefix="foreshore-compensate-") as folder:
        reference = Reference.build(base, corpus, Path(folder))
        found = [compare(reference, file) for file in files]
    return [float(one.kl.sum() / one.tokens.sum()) for one in found]


def _move(draft: Path, mix: Path) -> None:
    """Also from one file system to another."""
    near = mix.with_name(f".{mix.name}.{os.getpid()}")
    try:
        shutil.move(draft, near)
        os.replace(near, mix)
    finally:
        near.unlink(missing_ok=True)
