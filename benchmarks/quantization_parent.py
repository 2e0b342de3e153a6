"""What every row on a starter begins with: its F16 file, an importance matrix, and texts that share no document."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from foreshore.edge.gguf import GgufInfo, inspect
from foreshore.quantize import build
from foreshore.quantize.calibrate import collect
from foreshore.quantize.native import plan, quantize
from foreshore.quantize.quality import Compared, compare
from foreshore.quantize.reference import Reference
from foreshore.quantize.texts import Corpus, calibration_text, evaluation_text
from foreshore.store import Store

__all__ = ["Parent"]


@dataclass(kw_only=True)
class Parent:
    """Made as it is asked for, and kept in `folder` while the benchmark runs."""

    name: str
    folder: Path
    documents: int | None = None

    @cached_property
    def info(self) -> GgufInfo:
        store = Store(self.folder / "store")
        (manifest,) = build(self.name, ["f16"], store=store)
        return inspect(store.path(manifest))

    @cached_property
    def calibration(self) -> Corpus:
        return calibration_text(self.name, documents=self.documents)

    @cached_property
    def imatrix(self) -> Path:
        path = self.folder / f"{self.name}-imatrix.gguf"
        collect(self.info.path, self.calibration).save(path)
        return path

    @cached_property
    def reference(self) -> Reference:
        """On text that neither calibration nor search has seen."""
        text = evaluation_text(self.name, documents=self.documents)
        return Reference.build(self.info.path, text, self.folder / "references")

    def uniform(self, ftype: str, imatrix: Path | None = None) -> Path:
        """A new file of one type."""
        target = self.folder / f"{self.name}-{ftype}{'-imatrix' if imatrix else ''}.gguf"
        return quantize(self.info, target, ftype, plan(self.info, ftype), imatrix=imatrix).path

    def compared(self, variant: Path) -> Compared:
        return compare(self.reference, variant)
