"""Exports small models by optimum, as a user would."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path

__all__ = ["export"]


def export(source: Path, target: Path, task: str) -> Path:
    """`optimum-cli export onnx` in this process; takes about a second after the import of torch."""
    logging.getLogger("optimum").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's and the exporter's, about their own code
        from optimum.exporters.onnx import main_export

        main_export(str(source), output=str(target), task=task, library_name="transformers")
    pooling = source / "1_Pooling"
    if pooling.is_dir():
        shutil.copytree(pooling, target / "1_Pooling", dirs_exist_ok=True)
    return target
