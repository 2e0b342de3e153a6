"""Builds on-device variants of a model, measures them, and keeps them in the model store."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if __name__ != "foreshore.quantize":  # the root folder, imported under a name an app may own
    raise ImportError("import foreshore.quantize, not quantize")

from foreshore.quantize.ftypes import ftypes

if TYPE_CHECKING:
    from foreshore.quantize.builder import build, build_mix
    from foreshore.quantize.cards import measure
    from foreshore.quantize.onnx.builder import build_onnx
    from foreshore.quantize.progress import OnProgress, Progress
    from foreshore.quantize.search.fit_targets import FitTargets, parse_fit

__all__ = ["FitTargets", "OnProgress", "Progress", "build", "build_mix", "build_onnx", "ftypes", "measure", "parse_fit"]

_HOMES = {
    "FitTargets": "search.fit_targets",
    "OnProgress": "progress",
    "Progress": "progress",
    "build": "builder",
    "build_mix": "builder",
    "build_onnx": "onnx.builder",
    "measure": "cards",
    "parse_fit": "search.fit_targets",
}


def __getattr__(name: str) -> Any:
    """Each name is imported when it is asked for: every child process passes here, and needs little of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
